"""Prepared rows on disk or in an object store: written once, read at random.

TensorStore's zarr3 with the sharding codec: chunks of about a disk page inside shards of some 16 MiB, so that a random
row costs one small read from a local disk, gs:// or s3:// alike (benchmarks/README.md compares it with array_record).
https://google.github.io/tensorstore, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed

A row is a line of uint16 (uint32 for large vocabularies) words: T token ids, the number of tokens in use, and one bit a
token that says whether a document starts there; where there are such, one bit for each token's type and a word for its
label. Segment ids and positions are computed from these bits. Labels of segments have a table of their own.
"""

import array
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import tensorstore as ts

from jaxencoder.text import segment_labels
from jaxencoder.text.packing import Row

META = "meta.json"
FORMAT = 1
_CHUNK_BYTES = 4096
_SHARD_BYTES = 16 << 20
_LABEL_ROWS = 1 << 16  # rows whose labels are in memory at once
_CACHE = {"cache_pool": {"total_bytes_limit": 256 << 20}}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether a path names an object store."""
    return str(path).startswith(("gs://", "s3://"))


def join(path: str | os.PathLike, name: str) -> str:
    """A name inside a folder or a prefix of an object store."""
    return f"{str(path).rstrip('/')}/{name}" if is_remote(path) else str(Path(path) / name)


def kvstore(path: str | os.PathLike) -> dict:
    """TensorStore's description of a folder, gs://bucket/prefix or s3://bucket/prefix.

    Of s3, $AWS_ENDPOINT_URL names another server than Amazon's.
    """
    if not is_remote(path):
        return {"driver": "file", "path": str(Path(path).absolute()) + "/"}
    bucket, _, prefix = str(path)[len("gs://") :].partition("/")
    spec = {"driver": "gcs", "bucket": bucket, "path": prefix.rstrip("/") + "/" if prefix else ""}
    if str(path).startswith("s3://"):
        spec["driver"] = "s3"
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    return spec


def exists(path: str | os.PathLike) -> bool:
    """Whether a whole store is there: its metadata is written last.

    Raises:
        OSError: the place cannot be read.
    """
    if not is_remote(path):
        return (Path(path) / META).is_file()
    try:
        return ts.KvStore.open(kvstore(path)).result().read(META).result().state == "value"
    except (ValueError, RuntimeError) as error:
        raise OSError(f"cannot read {path}: {_sentence(error)}") from None


class Writer:
    """Writes a store into a local folder; `close` makes it whole.

    Args:
        folder: an existing, empty folder.
        row_length: tokens a row.
        vocab_size: decides the width of a token id on disk.
        types: rows come with type ids.
        labels: None, a kind of `segment_labels`, or "token", a class of each token (int32, -1 for none).
        classes: how many there are.
    """

    def __init__(
        self, folder: Path, row_length: int, vocab_size: int, types: bool, labels: str | None, classes: int = 0
    ):
        self._folder, self._length, self._types, self._kind = folder, row_length, types, labels
        self._classes = classes
        self._dtype = np.dtype("<u2") if max(vocab_size, row_length + 1) <= 1 << 16 else np.dtype("<u4")
        width = row_length + 1 + (2 if types else 1) * _bit_words(row_length, self._dtype)
        width += row_length if labels == "token" else 0
        chunk = max(1, _CHUNK_BYTES // (width * self._dtype.itemsize))
        shard = chunk * max(1, _SHARD_BYTES // (chunk * width * self._dtype.itemsize))
        self._buffer = np.zeros((shard, width), self._dtype)
        self._filled = self.rows = self.tokens = self.pieces = 0
        self._most = 0
        self._labels = array.array({"value": "f", "classes": "I"}.get(labels, "i"))
        self._counts = array.array("i")
        self._content = hashlib.blake2b(digest_size=16)
        self._table = self._create("rows", (shard, width), (chunk, width), self._dtype)

    def add(self, row: Row) -> None:
        """Append a row."""
        line = self._buffer[self._filled]
        n, length, words = len(row.token_ids), self._length, _bit_words(self._length, self._dtype)
        line[:] = 0
        line[:n] = row.token_ids
        line[length] = n
        starts = np.zeros(length, bool)
        starts[np.cumsum(row.lengths) - row.lengths] = True
        line[length + 1 : length + 1 + words] = _pack(starts, self._dtype)
        if self._types:
            line[length + 1 + words : length + 1 + 2 * words] = _pack(
                np.pad(row.type_ids, (0, length - n)), self._dtype
            )
        if self._kind == "token":
            line[len(line) - length :][:n] = row.token_labels + 1
        elif self._kind:
            self._labels.extend(segment_labels.encoded(self._kind, row.labels, self._classes))
            self._counts.append(len(row.labels))
        self._most = max(self._most, len(row.lengths))
        pieces = segment_labels.examples(self._kind, row.labels, len(row.lengths))
        self.rows, self.tokens, self.pieces = self.rows + 1, self.tokens + n, self.pieces + pieces
        self._filled += 1
        if self._filled == len(self._buffer):
            self._write()

    def close(self, meta: dict) -> None:
        """Write what is left, the labels and the metadata; without this the folder is no store."""
        if self._filled:
            self._write()
        if self._kind not in (None, "token") and self.rows:
            self._write_labels()
        for labels in (self._labels, self._counts):
            self._content.update(labels)
        meta = {
            "format": FORMAT,
            "rows": self.rows,
            "row_length": self._length,
            "fields": ["token_ids", "segment_ids", "positions"]
            + (["token_type_ids"] if self._types else [])
            + (["token_labels"] if self._kind == "token" else list(segment_labels.fields(self._kind))),
            "tokens": self.tokens,
            "pieces": self.pieces,
            "segments": self._most,
            "padding_fraction": 1 - self.tokens / (self.rows * self._length) if self.rows else 0.0,
            "dtype": self._dtype.name,
            "content": self._content.hexdigest(),
            **meta,
        }
        with open(self._folder / META, "w", encoding="utf-8") as file:
            json.dump(meta, file)
            file.flush()
            os.fsync(file.fileno())

    def _create(self, name: str, shard: tuple, chunk: tuple, dtype: np.dtype) -> ts.TensorStore:
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
        sharding = {"chunk_shape": list(chunk), "codecs": codecs}
        spec = {
            "driver": "zarr3",
            "kvstore": kvstore(self._folder / name),
            "metadata": {
                "shape": [0, shard[1]],
                "data_type": dtype.name,
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
        }
        return _write(ts.open, spec, create=True)

    def _write(self) -> None:
        shape = [self.rows, self._buffer.shape[1]]
        self._table = _write(self._table.resize, exclusive_max=shape, resize_metadata_only=True)
        _write(self._table[self.rows - self._filled :].write, self._buffer[: self._filled])
        self._content.update(self._buffer[: self._filled])
        self._filled = 0

    def _write_labels(self) -> None:
        counts = np.asarray(self._counts)
        dtype, none, width = segment_labels.layout(self._kind, self._classes)
        columns = self._most * width
        chunk = max(1, _CHUNK_BYTES // (columns * 4))
        shard = chunk * max(1, _SHARD_BYTES // (chunk * columns * 4))
        table = self._create("labels", (shard, columns), (chunk, columns), dtype)
        table = _write(table.resize, exclusive_max=[self.rows, columns], resize_metadata_only=True)
        labels, done = np.asarray(self._labels).reshape(-1, width), 0
        for start in range(0, self.rows, shard):
            part = counts[start : start + shard]
            block = np.full((len(part), self._most, width), none, dtype)
            block[np.arange(self._most) < part[:, None]] = labels[done : done + part.sum()]
            _write(table[start : start + len(part)].write, block.reshape(len(part), columns))
            done += part.sum()


class Store:
    """A store that has been written.

    Attributes:
        path: folder, or gs:// or s3:// prefix.
        meta: what is known of it: row_length, fields, rows, tokens (special ones included), pieces (of choices: the
            examples that they belong to), documents, padding_fraction, segments (most in any row), token_counts (int64
            [V], special tokens 0), pad_id, labels (class names), label_kind (None, one of `segment_labels`, or
            "token"), content (a digest of the rows with their labels, in order), and where it came from.

    Raises:
        OSError: there is no store, or it cannot be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = str(path)
        context = ts.Context(_CACHE)
        try:
            found = ts.KvStore.open(kvstore(path), context=context).result().read(META).result()
            if found.state != "value":
                raise FileNotFoundError(f"{path} holds no prepared rows: it has no {META}")
            self.meta = json.loads(found.value)
            self._table = self._open("rows", context) if self.meta["rows"] else None
            labelled = self.meta["rows"] and "labels" in self.meta["fields"]
            self._labels = self._open("labels", context) if labelled else None
        except (ValueError, RuntimeError, KeyError) as error:
            raise OSError(f"{path} cannot be read as prepared rows: {_sentence(error)}; delete it") from None
        self.meta["token_counts"] = np.asarray(self.meta.get("token_counts", ()), np.int64)

    def __len__(self) -> int:
        return self.meta["rows"]

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by number, in any order, repeated or not.

        Of pieces [2 7 3] and [2 3] in a row of 6:

            token_ids   [2 7 3 2 3 0]    segment_ids [1 1 1 2 2 0]    positions [0 1 2 0 1 0]

        Returns:
            int32 [B, T] under the names of `meta["fields"]`, token_labels -1 where there is none; labels [B, E] or
            [B, E, C] of the segments 1 to E, as `segment_labels` has them.

        Raises:
            IndexError: there is no such row.
            OSError: the store is damaged, or cannot be reached.
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.path} has rows 0 to {len(self) - 1}, not {indices.min()} to {indices.max()}")
        if not indices.size:
            return self.padding(0)
        try:
            words = self._table[indices].read()
            labels = self._labels[indices].read().result() if self._labels is not None else None
            words = words.result()
        except (ValueError, RuntimeError) as error:
            raise OSError(f"{self.path} cannot be read: {_sentence(error)}") from None
        length = self.meta["row_length"]
        used = words[:, length : length + 1].astype(np.int32)
        if not used.all():  # zarr reads zeros where a file is missing
            raise OSError(f"{self.path} is damaged: rows are missing; delete it, and it is prepared again")
        row = self._decode(words, used)
        if labels is not None:
            row |= self._of_segments(labels)
        return row

    def label_counts(self) -> np.ndarray:
        """How many segments (or tokens) of all rows are of each class: int64 [classes of `meta["labels"]`].

        Raises:
            OSError: the store is damaged, or cannot be reached.
        """
        counts = np.zeros(len(self.meta["labels"]), np.int64)
        of_tokens = self.meta["label_kind"] == "token"
        table = self._table if of_tokens else self._labels
        several = self.meta["label_kind"] == "classes"
        step = max(1, _LABEL_ROWS // (self.meta["row_length"] if of_tokens else len(counts) if several else 1))
        for start in range(0, len(self) if table is not None and len(counts) else 0, step):
            try:
                labels = table[start : min(start + step, len(self))].read().result()
            except (ValueError, RuntimeError) as error:
                raise OSError(f"{self.path} cannot be read: {_sentence(error)}") from None
            labels = self._token_labels(labels) if of_tokens else self._of_segments(labels)["labels"]
            counts += (labels > 0).sum((0, 1)) if several else np.bincount(labels[labels >= 0], minlength=len(counts))
        return counts

    def padding(self, rows: int) -> dict[str, np.ndarray]:
        """Rows that hold nothing, with the keys, shapes and dtypes of `read`."""
        shape = (rows, self.meta["row_length"])
        fields = [name for name in self.meta["fields"] if name not in segment_labels.FIELDS]
        empty = {name: np.zeros(shape, np.int32) for name in fields}
        empty["token_ids"] += np.int32(self.meta["pad_id"])
        if "token_labels" in empty:
            empty["token_labels"] -= np.int32(1)
        if "labels" in self.meta["fields"]:
            dtype, none, width = segment_labels.layout(self.meta["label_kind"], len(self.meta["labels"]))
            empty |= self._of_segments(np.full((rows, self.meta["segments"] * width), none, dtype))
        return empty

    def _of_segments(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        return segment_labels.decoded(self.meta["label_kind"], numbers, len(self.meta["labels"]))

    def _decode(self, words: np.ndarray, used: np.ndarray) -> dict[str, np.ndarray]:
        length = self.meta["row_length"]
        size = _bit_words(length, words.dtype)
        column = np.arange(length, dtype=np.int32)
        there = column < used
        starts = _unpack(words[:, length + 1 : length + 1 + size], length)
        first = np.maximum.accumulate(np.where(starts, column, 0), axis=1)
        row = {
            "token_ids": np.where(there, words[:, :length], self.meta["pad_id"]).astype(np.int32),
            "segment_ids": np.where(there, starts.cumsum(axis=1, dtype=np.int32), 0).astype(np.int32),
            "positions": np.where(there, column - first, 0).astype(np.int32),
        }
        if "token_type_ids" in self.meta["fields"]:
            types = words[:, length + 1 + size : length + 1 + 2 * size]
            row["token_type_ids"] = _unpack(types, length).astype(np.int32)
        if "token_labels" in self.meta["fields"]:
            row["token_labels"] = self._token_labels(words)
        return row

    def _token_labels(self, words: np.ndarray) -> np.ndarray:
        """int32 [B, T], the last words of each line."""
        return words[:, words.shape[1] - self.meta["row_length"] :].astype(np.int32) - 1

    def _open(self, name: str, context: ts.Context) -> ts.TensorStore:
        # The file never changes: asking again whether the index of a shard is still the newest would double the reads.
        spec = {"driver": "zarr3", "kvstore": kvstore(join(self.path, name))}
        return ts.open(spec, context=context, read=True, recheck_cached=False).result()


def _write(action, *args, **kwargs):
    try:
        return action(*args, **kwargs).result()
    except (ValueError, RuntimeError) as error:
        raise OSError(f"cannot write prepared rows: {_sentence(error)}; set data.cache to a folder with room") from None


def _sentence(error: Exception) -> str:
    return str(error).splitlines()[0].split(" [")[0] if str(error) else type(error).__name__


def _bit_words(bits: int, dtype: np.dtype) -> int:
    return -(-bits // (8 * dtype.itemsize))


def _pack(bits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    size = _bit_words(len(bits), dtype) * dtype.itemsize
    packed = np.packbits(bits, bitorder="little")
    return np.pad(packed, (0, size - len(packed))).view(dtype)


def _unpack(words: np.ndarray, bits: int) -> np.ndarray:
    little = words.astype(words.dtype.newbyteorder("<"), order="C")
    return np.unpackbits(little.view(np.uint8), axis=1, count=bits, bitorder="little").astype(bool)
