"""Prepared rows on disk or in an object store: written once, read at random.

The format is TensorStore's zarr3 with the sharding codec: chunks of about a disk page inside shards of some 16 MiB. A
random row costs one small read from a local disk, gs:// or s3:// (benchmarks/README.md compares it with array_record).
https://google.github.io/tensorstore, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed
"""

import array
import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorstore as ts

from jaxencoder.files import write_atomic
from jaxencoder.text import segment_labels
from jaxencoder.text.packing import Row

META = "meta.json"
FORMAT = 1
_CHUNK_BYTES = 4096
_SHARD_BYTES = 16 << 20
_LABEL_ROWS = 1 << 16  # rows whose labels are counted at once
_CACHE = {"cache_pool": {"total_bytes_limit": 256 << 20}}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names an object store."""
    return str(path).startswith(("gs://", "s3://"))


def join(path: str | os.PathLike, name: str) -> str:
    """A name inside a folder or a prefix of an object store."""
    return f"{str(path).rstrip('/')}/{name}" if is_remote(path) else str(Path(path) / name)


def kvstore(path: str | os.PathLike) -> dict:
    """TensorStore's spec of a folder, gs://bucket/prefix or s3://bucket/prefix.

    For s3, $AWS_ENDPOINT_URL names a server other than Amazon's.
    """
    if not is_remote(path):
        return {"driver": "file", "path": str(Path(path).absolute()) + "/"}
    scheme, _, place = str(path).partition("://")
    bucket, _, prefix = place.partition("/")
    spec = {"driver": {"gs": "gcs"}.get(scheme, scheme), "bucket": bucket}
    spec["path"] = prefix.rstrip("/") + "/" if prefix else ""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    return spec


def exists(path: str | os.PathLike) -> bool:
    """Whether there is a complete store, whose metadata is written last; OSError if the place cannot be read."""
    if not is_remote(path):
        return (Path(path) / META).is_file()
    with storage_errors(f"cannot read {path}"):
        return ts.KvStore.open(kvstore(path)).result().read(META).result().state == "value"


@contextlib.contextmanager
def storage_errors(problem: str, advice: str = "") -> Iterator[None]:
    """Raise OSError, with one sentence, for the errors of TensorStore and of damaged metadata."""
    try:
        yield
    except (ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0].split(" [")[0] if str(error) else type(error).__name__
        raise OSError(f"{problem}: {reason}{advice}") from None


def _row_layout(length: int, word: np.dtype, types: bool, token_labels: bool) -> np.dtype:
    """The fields of a row on disk, whose table has words of one type: uint16, or uint32 for large vocabularies."""
    # `starts` has a 1 where a document starts, from which segment ids and positions follow; `labels` are plus 1.
    bits = -(-length // (8 * word.itemsize)) * word.itemsize
    fields = [("token_ids", word, length), ("used", word), ("starts", "u1", bits)]
    fields += [("types", "u1", bits)] if types else []
    fields += [("labels", word, length)] if token_labels else []
    return np.dtype(fields)


class Writer:
    """Writes a store into an existing, empty local folder; `close` completes it.

    Args:
        vocab_size: decides the width of a token id on disk.
        types: rows have type ids.
        labels: None, a kind of `segment_labels`, or "token" for a class of each token (int32, -1 for none).
        classes: number of classes.
    """

    def __init__(
        self, folder: Path, row_length: int, vocab_size: int, types: bool, labels: str | None, classes: int = 0
    ):
        self._folder, self._types, self._kind, self._classes = folder, types, labels, classes
        self._length, self._word = row_length, np.dtype("<u2" if max(vocab_size, row_length + 1) <= 1 << 16 else "<u4")
        layout = _row_layout(row_length, self._word, types, labels == "token")
        self.rows = self.tokens = self._examples = self._segments = 0
        self._tuples = (0, 0)  # most examples of a row, and most texts of one
        self._labels = array.array("f" if labels in ("value", "tuple") else "I" if labels == "classes" else "i")
        self._label_counts = array.array("i")  # labels of each row
        self._content = hashlib.blake2b(digest_size=16)
        self._table, shard = self._create("rows", layout.itemsize // self._word.itemsize, self._word)
        self._buffer, self._filled = np.zeros(shard, layout), 0

    def add(self, row: Row) -> None:
        n, line = len(row.token_ids), self._buffer[self._filled]
        line["token_ids"][:n], line["used"] = row.token_ids, n
        lengths, starts = np.array(row.lengths), np.zeros(self._length, bool)
        starts[lengths.cumsum() - lengths] = True
        for name, bits in (("starts", starts), ("types", row.type_ids)):
            if bits is not None:
                packed = np.packbits(bits, bitorder="little")
                line[name][: len(packed)] = packed
        if row.token_labels is not None:
            line["labels"][:n] = row.token_labels + 1
        elif self._kind:
            self._labels.extend(segment_labels.encode(self._kind, row.labels, self._classes))
            self._label_counts.append(len(row.labels))
            if self._kind == "tuple":
                examples, texts = segment_labels.tuple_shape(row.labels)
                self._tuples = max(self._tuples[0], examples), max(self._tuples[1], texts)
        self._segments = max(self._segments, len(row.lengths))
        self._examples += segment_labels.count_examples(self._kind, row.labels, len(row.lengths))
        self.rows, self.tokens, self._filled = self.rows + 1, self.tokens + n, self._filled + 1
        if self._filled == len(self._buffer):
            self._flush()

    def close(self, meta: dict) -> None:
        """Write the remaining rows, the labels and the metadata; without this the folder is no store."""
        if self._filled:
            self._flush()
        if self._kind not in (None, "token") and self.rows:
            self._write_labels(self._kind)
        for labels in (self._labels, self._label_counts):
            self._content.update(labels)
        fields = ["token_ids", "segment_ids", "positions"]
        fields += ["token_type_ids"] if self._types else []
        fields += ["token_labels"] if self._kind == "token" else segment_labels.fields(self._kind)
        meta = {
            "format": FORMAT,
            "rows": self.rows,
            "row_length": self._length,
            "fields": fields,
            "tokens": self.tokens,
            "pieces": self._examples,
            "segments": self._segments,
            "tuples": self._tuples,
            "padding_fraction": 1 - self.tokens / (self.rows * self._length) if self.rows else 0.0,
            "dtype": self._word.name,
            "content": self._content.hexdigest(),
            **meta,
        }
        write_atomic(self._folder / META, json.dumps(meta))

    def _create(self, name: str, width: int, dtype: np.dtype, rows: int = 0) -> tuple[ts.TensorStore, int]:
        """A table, and the rows of its shards."""
        row_bytes = width * dtype.itemsize
        chunk = max(1, _CHUNK_BYTES // row_bytes)
        shard = chunk * max(1, _SHARD_BYTES // (chunk * row_bytes))
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        sharding = {"chunk_shape": [chunk, width], "codecs": codecs}
        spec = {
            "driver": "zarr3",
            "kvstore": kvstore(self._folder / name),
            "metadata": {
                "shape": [rows, width],
                "data_type": dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, width]}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
        }
        with _write_errors():
            return ts.open(spec, create=True).result(), shard

    def _flush(self) -> None:
        lines = self._buffer[: self._filled].view(self._word).reshape(self._filled, -1)
        with _write_errors():
            shape = [self.rows, lines.shape[1]]
            self._table = self._table.resize(exclusive_max=shape, resize_metadata_only=True).result()
            self._table[self.rows - self._filled :].write(lines).result()
        self._content.update(lines.data)
        self._buffer[:], self._filled = 0, 0

    def _write_labels(self, kind: str) -> None:
        counts = np.asarray(self._label_counts)
        dtype, none, width = segment_labels.layout(kind, self._classes)
        columns = self._segments * width
        table, shard = self._create("labels", columns, dtype, self.rows)
        labels, done = np.asarray(self._labels).reshape(-1, width), 0
        with _write_errors():
            for start in range(0, self.rows, shard):
                part = counts[start : start + shard]
                block = np.full((len(part), self._segments, width), none, dtype)
                block[np.arange(self._segments) < part[:, None]] = labels[done : done + part.sum()]
                table[start : start + len(part)].write(block.reshape(len(part), columns)).result()
                done += part.sum()


def _write_errors() -> contextlib.AbstractContextManager:
    return storage_errors("cannot write prepared rows", "; set data.cache to a folder with room")


class Store:
    """A complete store of rows.

    Attributes:
        path: folder, or gs:// or s3:// prefix.
        number: of the source among those of its split, in the order of the settings.
        meta: row_length, fields, rows, tokens (special ones included), pieces (of choices: examples), documents,
            padding_fraction, segments (most in any row), tuples (of `segment_labels.tuple_shape`, most of any row),
            token_counts (int64 [V], special tokens 0), pad_id, labels (class names), label_kind (None, one of
            `segment_labels`, or "token"), content (a digest of the rows with their labels, in order), source, split and
            tokenizer.
    """

    def __init__(self, path: str | os.PathLike, number: int = 0):
        self.path, self.number = str(path), number
        context = ts.Context(_CACHE)
        with storage_errors(f"{path} cannot be read as prepared rows", "; delete it"):
            item = ts.KvStore.open(kvstore(path), context=context).result().read(META).result()
            if item.state != "value":
                raise FileNotFoundError(f"{path} holds no prepared rows: it has no {META}")
            self.meta = json.loads(item.value)
            fields = self.meta["fields"]
            self._table = self._open("rows", context)
            self._labels = self._open("labels", context) if self.meta["rows"] and "labels" in fields else None
            word = np.dtype(self.meta["dtype"]).newbyteorder("<")
            has_types, has_token_labels = "token_type_ids" in fields, "token_labels" in fields
            self._layout = _row_layout(self.meta["row_length"], word, has_types, has_token_labels)
        self.meta["token_counts"] = np.asarray(self.meta.get("token_counts", ()), np.int64)

    def __len__(self) -> int:
        return self.meta["rows"]

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Read rows by number, in any order, repeated or not.

        Pieces [2 7 3] and [2 3] in a row of 6:

            token_ids   [2 7 3 2 3 0]    segment_ids [1 1 1 2 2 0]    positions [0 1 2 0 1 0]

        Returns:
            int32 [B, T] under the names of `meta["fields"]`, token_labels -1 for none; labels [B, E] or [B, E, C] of
            the segments 1 to E, as in `segment_labels`. OSError if the store is damaged, or cannot be reached.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.path} has rows 0 to {len(self) - 1}, not {indices.min()} to {indices.max()}")
        if not indices.size:
            return self.padding(0)
        with self._read_errors():
            reading = self._table[indices].read()  # at the same time as the labels
            labels = self._labels[indices].read().result() if self._labels is not None else None
            lines = self._fields_of(reading.result())
        if not lines["used"].all():  # zarr reads zeros from missing files
            raise OSError(f"{self.path} is damaged: rows are missing; delete it, and it is prepared again")
        rows = self._decode(lines)
        return rows if labels is None else rows | self._decode_labels(labels)

    def label_counts(self) -> np.ndarray:
        """The number of segments (or tokens) of each class in all rows: int64 [classes of `meta["labels"]`]."""
        kind, counts = self.meta["label_kind"], np.zeros(len(self.meta["labels"]), np.int64)
        table = self._table if kind == "token" else self._labels
        if table is None or not len(counts):
            return counts
        numbers_per_row = {"token": self.meta["row_length"], "classes": len(counts)}.get(kind, 1)
        step = max(1, _LABEL_ROWS // numbers_per_row)
        for start in range(0, len(self), step):
            with self._read_errors():
                values = table[start : min(start + step, len(self))].read().result()
            if kind == "classes":
                counts += (self._decode_labels(values)["labels"] > 0).sum((0, 1))
                continue
            labels = self._fields_of(values)["labels"].astype(np.int32) - 1 if kind == "token" else values
            counts += np.bincount(labels[labels >= 0], minlength=len(counts))
        return counts

    def padding(self, rows: int) -> dict[str, np.ndarray]:
        """Empty rows, with the keys, shapes and dtypes of `read`."""
        batch = self._decode(np.zeros(rows, self._layout))
        if "labels" in self.meta["fields"]:
            dtype, none, width = segment_labels.layout(self.meta["label_kind"], len(self.meta["labels"]))
            batch |= self._decode_labels(np.full((rows, self.meta["segments"] * width), none, dtype))
        return batch

    def _fields_of(self, lines: np.ndarray) -> np.ndarray:
        """Words [B, W] as an array [B] with the fields of a row."""
        return np.ascontiguousarray(lines, self._layout["token_ids"].base).view(self._layout)[:, 0]

    def _decode(self, lines: np.ndarray) -> dict[str, np.ndarray]:
        length = self.meta["row_length"]
        column = np.arange(length, dtype=np.int32)
        used = column < lines["used"].astype(np.int32)[:, None]
        starts = np.unpackbits(lines["starts"], axis=1, count=length, bitorder="little").astype(bool)
        first = np.maximum.accumulate(np.where(starts, column, 0), axis=1)
        rows = {
            "token_ids": np.where(used, lines["token_ids"], self.meta["pad_id"]).astype(np.int32),
            "segment_ids": np.where(used, starts.cumsum(axis=1, dtype=np.int32), 0),
            "positions": np.where(used, column - first, 0).astype(np.int32),
        }
        if "token_type_ids" in self.meta["fields"]:
            types = np.unpackbits(lines["types"], axis=1, count=length, bitorder="little")
            rows["token_type_ids"] = types.astype(np.int32)
        if "token_labels" in self.meta["fields"]:
            rows["token_labels"] = lines["labels"].astype(np.int32) - 1
        return rows

    def _decode_labels(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return segment_labels.decode(
            self.meta["label_kind"], numbers, len(self.meta["labels"]), tuple(self.meta.get("tuples", (0, 0)))
        )

    def _read_errors(self) -> contextlib.AbstractContextManager:
        return storage_errors(f"{self.path} cannot be read")

    def _open(self, name: str, context: ts.Context) -> ts.TensorStore:
        # The file never changes: checking whether the index of a shard is the newest would double the reads.
        spec = {"driver": "zarr3", "kvstore": kvstore(join(self.path, name))}
        return ts.open(spec, context=context, read=True, recheck_cached=False).result()
