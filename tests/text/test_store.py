"""A store gives back the rows that were written, for any vocabulary, and reports damage."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxencoder.text import store as store_module
from jaxencoder.text.packing import Row
from jaxencoder.text.store import META, Store, Writer, exists, kvstore

PAD = 9


def random_rows(count, length, vocab_size, types, labels):
    rng = np.random.default_rng(0)
    for _ in range(count):
        lengths = []
        while ((room := length - sum(lengths)) >= 2 and rng.random() > 0.15) or not lengths:
            lengths.append(int(rng.integers(2, room + 1)))
        n = sum(lengths)
        yield Row(
            rng.integers(0, vocab_size, n).astype(np.uint32),
            lengths,
            rng.integers(0, 2, n).astype(np.uint8) if types else None,
            {None: [], "class": rng.integers(0, 3, len(lengths)), "value": rng.random(len(lengths))}[labels],
        )


def write(folder, rows, length, vocab_size=1000, types=False, labels=None):
    folder.mkdir()
    writer = Writer(folder, length, vocab_size, types, labels)
    for row in rows:
        writer.add(row)
    names = ["a", "b", "c", "d"] if labels == "class" else []
    writer.close({"pad_id": PAD, "label_kind": labels, "labels": names, "token_counts": [1, 2]})
    return Store(folder)


def expected(row, length, most, labels):
    """The arrays of a row, made in a plain loop."""
    out = {name: [] for name in ("segment_ids", "positions")}
    for segment, n in enumerate(row.lengths, 1):
        out["segment_ids"] += [segment] * n
        out["positions"] += list(range(n))
    out = {name: values + [0] * (length - len(values)) for name, values in out.items()}
    out["token_ids"] = row.token_ids.tolist() + [PAD] * (length - len(row.token_ids))
    if row.type_ids is not None:
        out["token_type_ids"] = row.type_ids.tolist() + [0] * (length - len(row.token_ids))
    if labels:
        none = np.nan if labels == "value" else -1
        out["labels"] = [*row.labels, *[none] * (most - len(row.lengths))]
    return out


@pytest.mark.parametrize(
    ("length", "vocab_size", "types", "labels"),
    [(8, 100, False, None), (17, 65536, True, "class"), (33, 65537, True, "value"), (5, 250000, False, "class")],
)
def test_round_trip(tmp_path, length, vocab_size, types, labels, monkeypatch):
    monkeypatch.setattr("jaxencoder.text.store._SHARD_BYTES", 8192)  # several shards
    rows = list(random_rows(1000, length, vocab_size, types, labels))
    store = write(tmp_path / "s", rows, length, vocab_size, types, labels)
    assert len(store) == 1000
    assert store.meta["dtype"] == ("uint16" if vocab_size <= 65536 else "uint32")
    assert store.meta["tokens"] == sum(len(row.token_ids) for row in rows)
    assert store.meta["padding_fraction"] == pytest.approx(1 - store.meta["tokens"] / (1000 * length))
    indices = np.random.default_rng(1).integers(0, 1000, 300)  # unsorted, with repetitions
    got = store.read(indices)
    assert set(got) == set(store.meta["fields"])
    most = max(len(row.lengths) for row in rows)
    for place, index in enumerate(indices):
        for name, values in expected(rows[index], length, most, labels).items():
            assert got[name].dtype == (np.float32 if name == "labels" and labels == "value" else np.int32)
            np.testing.assert_array_equal(got[name][place], np.asarray(values, got[name].dtype))


def test_digest_of_the_content(tmp_path, monkeypatch):
    """The digest depends on the rows and their order, not on shards; differences that no count shows change it."""
    rows = list(random_rows(40, 8, 100, True, "class"))
    tagged = [Row(r.token_ids, r.lengths, None, [], np.arange(len(r.token_ids), dtype=np.int32)) for r in rows]

    def digest(rows, labels="class"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return write(folder, rows, 8, types=labels == "class", labels=labels).meta["content"]

    def other(rows, **changes):
        return [rows[0], rows[1]._replace(**changes), *rows[2:]]

    assert len({digest(rows), digest(rows[:-1]), digest(rows[::-1]), digest(tagged, "token")}) == 4
    assert digest(rows) != digest(other(rows, token_ids=rows[1].token_ids[::-1]))
    assert digest(rows) != digest(other(rows, lengths=[1, len(rows[1].token_ids) - 1], labels=[0, 0]))
    assert digest(rows) != digest(other(rows, type_ids=1 - rows[1].type_ids))
    assert digest(rows) != digest(other(rows, labels=[(label + 1) % 3 for label in rows[1].labels]))
    assert digest(tagged, "token") != digest(other(tagged, token_labels=tagged[1].token_labels[::-1]), "token")
    expected_digest = digest(rows)
    monkeypatch.setattr(store_module, "_SHARD_BYTES", 256)
    assert digest(rows) == expected_digest


def test_padding_looks_like_rows(tmp_path):
    store = write(tmp_path / "s", random_rows(3, 8, 100, True, "class"), 8, types=True, labels="class")
    rows, padding = store.read(np.arange(2)), store.padding(2)
    assert {k: (v.shape, v.dtype) for k, v in rows.items()} == {k: (v.shape, v.dtype) for k, v in padding.items()}
    assert (padding["token_ids"] == PAD).all() and not padding["segment_ids"].any() and (padding["labels"] == -1).all()
    assert store.read(np.array([], int))["token_ids"].shape == (0, 8)


@pytest.mark.parametrize("index", [-1, 3])
def test_no_such_row(tmp_path, index):
    store = write(tmp_path / "s", random_rows(3, 8, 100, False, None), 8)
    with pytest.raises(IndexError, match="rows 0 to 2"):
        store.read(np.array([0, index]))


def test_unfinished_is_no_store(tmp_path):
    writer = Writer(tmp_path, 8, 100, False, None)
    for row in random_rows(3, 8, 100, False, None):
        writer.add(row)
    assert not exists(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no prepared rows"):
        Store(tmp_path)


def test_label_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_LABEL_ROWS", 7)
    rows = list(random_rows(50, 16, 100, False, "class"))
    labels = np.concatenate([row.labels for row in rows])
    counts = write(tmp_path / "classes", rows, 16, labels="class").label_counts()
    assert counts.tolist() == [(labels == c).sum() for c in range(4)] and counts[3] == 0
    assert write(tmp_path / "none", random_rows(3, 16, 100, False, None), 16).label_counts().tolist() == []


@pytest.mark.parametrize("damage", ["shard missing", "shard cut", "meta cut"])
def test_damage_is_found(tmp_path, damage):
    store = write(tmp_path / "s", random_rows(50, 8, 100, False, None), 8)
    shard = tmp_path / "s" / "rows" / "c" / "0" / "0"
    if damage == "shard missing":
        shard.unlink()
    elif damage == "shard cut":
        shard.write_bytes(shard.read_bytes()[:100])
    else:
        meta = tmp_path / "s" / META
        meta.write_text(meta.read_text()[:50])
    with pytest.raises(OSError) as error:
        store = Store(tmp_path / "s")
        store.read(np.arange(3))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_full_disk_is_one_sentence(tmp_path):
    pytest.importorskip("resource")
    code = """
import resource, sys, numpy as np
from pathlib import Path
from jaxencoder.text.packing import Row
from jaxencoder.text.store import Writer
writer = Writer(Path(sys.argv[1]), 64, 100, False, None)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for _ in range(500):
    writer.add(Row(np.ones(64, np.uint32), [64], None, []))
try:
    writer.close({})
except OSError as error:
    print("OSError", error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OSError cannot write prepared rows: ") and done.stdout.count("\n") == 1
    assert not exists(tmp_path)


def test_places(monkeypatch, tmp_path):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert kvstore("gs://bucket/a/b/") == {"driver": "gcs", "bucket": "bucket", "path": "a/b/"}
    assert kvstore("s3://bucket") == {"driver": "s3", "bucket": "bucket", "path": ""}
    assert kvstore(tmp_path) == {"driver": "file", "path": f"{tmp_path}/"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    assert kvstore("s3://bucket/a")["endpoint"] == "http://localhost:1"


def test_metadata_is_plain_json(tmp_path):
    store = write(tmp_path / "s", random_rows(3, 8, 100, False, None), 8)
    meta = json.loads((tmp_path / "s" / META).read_text())
    assert meta["rows"] == 3 and store.meta["token_counts"].tolist() == [1, 2]
    shutil.move(tmp_path / "s", tmp_path / "moved")
    assert len(Store(tmp_path / "moved")) == 3
