"""A folder of shards: complete, equal whatever the history, and refused where it would be a mixture."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time

import filelock
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxencoder.api import load
from jaxencoder.bulk import embedder as embedder_module
from jaxencoder.bulk import worker as worker_module
from jaxencoder.bulk.config import BulkConfig
from jaxencoder.bulk.embed import Report, embed_folder
from jaxencoder.cli.main import main
from jaxencoder.inference.embed import embed
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.sparse import token_weights
from jaxencoder.inference.token_vectors import embed_tokens
from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import SparseConfig

from .conftest import read_shards, records, shard_bytes, write_jsonl

CONFIG = BulkConfig(columns=("year",), shard_records=25)


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The shards that are written from now on."""
    names, write = [], worker_module.OutputFolder.write
    monkeypatch.setattr(
        worker_module.OutputFolder, "write", lambda self, name, *args: names.append(name) or write(self, name, *args)
    )
    return names


def test_every_record_once_with_its_vector(folder, source, tmp_path):
    assert embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG) == Report(133, 133, 6, 6)
    table = read_shards(tmp_path / "out")
    assert table.column_names == ["id", "year", "embedding"]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
    assert table.select(["id", "year"]).to_pylist() == [{x: row[x] for x in ("id", "year")} for row in source.records]
    vectors = np.array(table["embedding"].to_pylist(), np.float32)
    np.testing.assert_allclose(vectors, load(folder).embed([row["text"] for row in source.records]), atol=2e-5)
    # Readers of a folder find shards and nothing else.
    assert pq.read_table(tmp_path / "out").num_rows == 133


def test_bytes_depend_on_the_file_alone(folder, source, tmp_path):
    embed_folder(folder, str(source.path), str(tmp_path / "both"), config=CONFIG)
    embed_folder(folder, str(source.path / "b.parquet"), str(tmp_path / "one"), config=CONFIG)
    both, one = shard_bytes(tmp_path / "both"), shard_bytes(tmp_path / "one")
    assert len(one) == 4 and all(both[name] == one[name] for name in one if name != "_manifest.json")


def test_a_stopped_command_is_continued(folder, source, tmp_path, monkeypatch, made):
    embed_folder(folder, str(source.path), str(tmp_path / "all"), config=CONFIG)
    made.clear()
    write = worker_module.OutputFolder.write

    def stop(self, name, *args):
        if len(made) == 2:
            raise KeyboardInterrupt
        write(self, name, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(worker_module.OutputFolder, "write", stop)
        embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    assert not (tmp_path / "out" / "_manifest.json").exists()
    report = embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    assert report == Report(133, 83, 6, 4) and len(made) == len(set(made)) == 6
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "all")
    assert embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG) == Report(133, 0, 6, 0)
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "all")


def test_a_killed_command_is_continued(folder, source, tmp_path):
    """The real command, killed without warning."""
    write_jsonl(source.path / "c.jsonl", records(5000, 1500))
    words = [folder, "--input", str(source.path), "--output", str(tmp_path / "out"), "--shard-records", "10"]
    command = [sys.executable, "-m", "jaxencoder", "embed", *words]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((tmp_path / "out").glob("part-*"))) < 5:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    before = shard_bytes(tmp_path / "out")
    assert 5 <= len(before) < 164
    assert main(["embed", *words]) == 0
    after = shard_bytes(tmp_path / "out")
    assert all(after[name] == content for name, content in before.items())
    assert read_shards(tmp_path / "out")["id"].to_pylist() == [
        row["id"] for row in source.records + records(5000, 1500)
    ]


def test_only_what_changed_is_embedded_again(folder, source, tmp_path, made):
    output = str(tmp_path / "out")
    embed_folder(folder, str(source.path), output, config=CONFIG)
    last = made[2]
    assert last.startswith("part-a-") and last.endswith("-000002.parquet")
    made.clear()
    write_jsonl(source.path / "a.jsonl", records(500, 30), mode="a")  # 58 + 30: the third shard grows, a fourth begins
    assert embed_folder(folder, str(source.path), output, config=CONFIG) == Report(163, 38, 7, 2)
    assert made == [last, last.replace("2.parquet", "3.parquet")]
    ids = [row["id"] for row in source.records[:58] + records(500, 30) + source.records[58:]]
    assert read_shards(tmp_path / "out")["id"].to_pylist() == ids
    made.clear()
    os.utime(source.path / "a.jsonl", (1, 1))  # the same content at another time
    assert embed_folder(folder, str(source.path), output, config=CONFIG).new_shards == 0 and not made
    lines = (source.path / "a.jsonl").read_text().splitlines(keepends=True)
    lines[30] = json.dumps(records(0, 58)[30] | {"text": "another text"}) + "\n"
    (source.path / "a.jsonl").write_text("".join(lines))
    assert embed_folder(folder, str(source.path), output, config=CONFIG).new_shards == 1
    assert made == [last.replace("2.parquet", "1.parquet")]


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: x[:-1]])
def test_a_truncated_shard_is_made_again(folder, source, tmp_path, made, damage):
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    before = shard_bytes(tmp_path / "out")
    shard = tmp_path / "out" / made[1]
    shard.write_bytes(damage(shard.read_bytes()))
    assert embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG).new_shards == 1
    assert shard_bytes(tmp_path / "out") == before


def test_unfinished_files_of_a_killed_command_are_removed(folder, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".part-a-000000.parquet.0123").write_bytes(b"half")
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    assert sorted(x.name for x in (tmp_path / "out").iterdir() if x.name.startswith(".")) == [".lock"]


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"normalize": True}, {}, "was made with normalize None, not True; give another folder"),
        ({}, {"shard_records": 26}, "was made with shard_records 25, not 26"),
        ({}, {"columns": ()}, r"was made with columns \['year'\], not \[\]"),
        ({}, {"id_field": "year"}, "was made with id_field 'id', not 'year'"),
    ],
)
def test_other_settings_are_refused(folder, source, tmp_path, options, config, message):
    rows = [row | {"year": i} for i, row in enumerate(source.records)]
    write_jsonl(source.path / "a.jsonl", rows[:58])
    pq.write_table(pa.Table.from_pylist(rows[58:]), source.path / "b.parquet")
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    before = shard_bytes(tmp_path / "out")
    other = BulkConfig(**({"columns": ("year",), "shard_records": 25} | config))
    with pytest.raises(ValueError, match=message):
        embed_folder(folder, str(source.path), str(tmp_path / "out"), EmbedOptions(**options), other)
    assert shard_bytes(tmp_path / "out") == before


@pytest.mark.parametrize("complete", [True, False])
def test_another_model_is_refused(folder, source, tmp_path, make_model, made, complete):
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    if not complete:
        (tmp_path / "out" / made[0]).unlink()
    before = shard_bytes(tmp_path / "out")
    make_model(num_layers=1).save(tmp_path / "model", format="sentence-transformers")
    with pytest.raises(ValueError, match="holds vectors of another model, or of other devices, than .*model"):
        embed_folder(str(tmp_path / "model"), str(source.path), str(tmp_path / "out"), config=CONFIG)
    after = shard_bytes(tmp_path / "out")
    assert after == before if complete else "_manifest.json" not in after


def test_shards_of_no_record_are_refused(folder, source, tmp_path, made):
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    (source.path / "a.jsonl").unlink()
    message = f"{made[0]} holds records of a.jsonl from 0, which the input lacks; delete that file"
    with pytest.raises(ValueError, match=message):
        embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    (tmp_path / "out2").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out2" / "other.parquet")
    with pytest.raises(ValueError, match="other.parquet is not a shard of this command"):
        embed_folder(folder, str(source.path), str(tmp_path / "out2"), config=CONFIG)


@pytest.mark.parametrize("pattern", ["{}", "{}[:1000]", "file://{}", "{}/**/*.parquet", "{}/*/part*"])
def test_an_output_within_the_input(pattern, folder, source):
    output = source.path / "vectors"
    with pytest.raises(ValueError, match="vectors is within the input .*, which would find its shards; give another"):
        embed_folder(folder, pattern.format(source.path), str(output), config=CONFIG)
    assert not output.exists()


def test_an_output_beside_what_a_glob_finds(folder, source):
    report = embed_folder(folder, f"{source.path}/*.jsonl", str(source.path / "vectors"), config=CONFIG)
    assert report.texts


def test_one_command_at_a_time(folder, source, tmp_path):
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / ".lock"):
        with pytest.raises(OSError, match="another command is writing to .*out; wait until it ends"):
            embed_folder(folder, str(source.path), str(tmp_path / "out"))


def test_ids_are_made_of_file_and_number(folder, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("the cat\n\nsat\n")
    (tmp_path / "in" / "sub" / "a.txt").write_text("a mat\n")
    embed_folder(folder, str(tmp_path / "in"), str(tmp_path / "out"), config=BulkConfig(shard_records=1))
    assert read_shards(tmp_path / "out")["id"].to_pylist() == ["a.txt:0", "a.txt:1", "sub/a.txt:0"]


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_remote_folders(folder, source, tmp_path, scheme):
    embed_folder(folder, str(source.path), str(tmp_path / "local"), config=CONFIG)
    fs = fsspec.filesystem(scheme)
    base = f"{scheme}://{tmp_path}/remote"
    fs.makedirs(f"{base}/in", exist_ok=True)
    for path in source.path.iterdir():
        fs.pipe_file(f"{base}/in/{path.name}", path.read_bytes())
    assert embed_folder(folder, f"{base}/in/*", f"{base}/out/", config=CONFIG).new_shards == 6
    assert embed_folder(folder, f"{base}/in/*", f"{base}/out/", config=CONFIG).new_shards == 0
    for name in shard_bytes(tmp_path / "local"):
        content = fs.cat_file(f"{base}/out/{name}")
        if name.startswith("part"):
            table = pq.read_table(tmp_path / "local" / name)
            assert pq.read_table(pa.BufferReader(content)).equals(table)


def test_a_multi_vector_model(model, folder, source, tmp_path, monkeypatch):
    multi = dataclasses.replace(model, multi_vector=MultiVectorConfig())
    monkeypatch.setattr(embedder_module, "load", lambda name: multi)
    embed_folder(folder, str(source.path), str(tmp_path / "out"), config=CONFIG)
    table = read_shards(tmp_path / "out")
    assert str(table.schema.field("embedding").type) == "list<element: fixed_size_list<element: float>[32]>"
    matrices = embed_tokens(multi, [row["text"] for row in source.records])
    for value, matrix in zip(table["embedding"].to_pylist(), matrices, strict=True):
        np.testing.assert_allclose(np.array(value, np.float32).reshape(-1, 32), matrix, atol=2e-5)


def test_a_sparse_model(model, folder, source, tmp_path, monkeypatch):
    sparse = dataclasses.replace(model, sentence=SentenceConfig(sparse=SparseConfig()))
    monkeypatch.setattr(embedder_module, "load", lambda name: sparse)
    options = EmbedOptions(max_active_dims=3)
    embed_folder(folder, str(source.path), str(tmp_path / "out"), options, CONFIG)
    table = read_shards(tmp_path / "out")
    assert str(table.schema.field("embedding").type) == "list<element: struct<token: string, weight: double>>"
    vectors = embed(sparse, [row["text"] for row in source.records], options)
    for value, expected in zip(table["embedding"].to_pylist(), token_weights(sparse, vectors), strict=True):
        assert [x["token"] for x in value] == [x["token"] for x in expected]
        np.testing.assert_allclose([x["weight"] for x in value], [x["weight"] for x in expected], rtol=1e-4)


def test_truncated_texts_are_counted_over_all_shards(folder, source, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        embed_folder(folder, str(source.path), str(tmp_path / "out"), EmbedOptions(max_length=8), CONFIG)
    (message,) = caplog.messages
    assert message.endswith("of 133 texts are longer than the model's limit and were truncated.")


def test_the_command(folder, source, tmp_path, capsys):
    words = ["embed", folder, "--input", str(source.path), "--output", f"{tmp_path}/out/", "--columns", "year", "note"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"133 texts in 2 shards in {tmp_path}/out/\n"
    assert main(words) == 0
    assert capsys.readouterr().out == f"133 texts, 133 of them from before in 2 shards in {tmp_path}/out/\n"
    assert read_shards(tmp_path / "out").column_names == ["id", "year", "note", "embedding"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "x.parquet", "--engine", "ray"], "--engine is 'ray', but x.parquet is the name of a single file"),
        (["--output", "x.npy", "--columns", "a", "b"], "--columns is ('a', 'b'), but x.npy is the name"),
        (["--output", "x/", "--workers", "2"], "workers is 2, but engine 'process' is this process alone"),
        (["--output", "x/", "--engine", "spark"], "--engine is 'spark'; give one of"),
        (["--output", "x", "--columns", "none"], "no field 'none' among id, text, year, note"),
    ],
)
def test_a_mistake_is_one_sentence(folder, source, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["embed", folder, "--input", str(source.path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
