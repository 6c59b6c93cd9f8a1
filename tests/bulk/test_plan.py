"""The plan: every record is in one part, every id is one record's."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxencoder.bulk.config import BulkConfig
from jaxencoder.bulk.plan import divide, make_plan
from jaxencoder.bulk.scan import SourceFile
from jaxencoder.bulk.worker import PartReader

from .conftest import records, write_jsonl


@given(st.integers(0, 5000), st.integers(1, 700), st.integers(0, 900))
def test_every_record_is_in_one_part_and_shards_keep_their_names(size, shard_records, growth):
    file = SourceFile("x", "some/file.jsonl", "1")
    parts = list(divide(file, size, shard_records))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(size))
    assert all(part.size == shard_records for part in parts[:-1])
    names = [part.shard for part in parts]
    assert names == sorted(set(names))
    grown = list(divide(file, size + growth, shard_records))
    assert [part.shard for part in grown[: len(parts)]] == names
    assert parts[:-1] == grown[: max(0, len(parts) - 1)]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1))
def test_parts_are_read_in_any_order(source_of_23, order):
    plan = make_plan(str(source_of_23), BulkConfig(shard_records=5))
    reader = PartReader(plan.config)
    for number in order:
        part = plan.parts[number]
        assert [record["id"] for record in reader.read(part)] == [f"x{i}" for i in range(part.start, part.stop)]


@pytest.fixture(scope="module", params=["a.jsonl", "a.parquet", "a.jsonl.gz"])
def source_of_23(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / request.param
    rows = records(0, 23)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        write_jsonl(path, rows)
    return path


def test_ids_and_columns(source):
    plan = make_plan(str(source.path), BulkConfig(columns=("year",), shard_records=50))
    assert plan.records == 133 and plan.config.id_field == "id"
    assert [(part.file.name, part.start, part.stop) for part in plan.parts] == [
        ("a.jsonl", 0, 50),
        ("a.jsonl", 50, 58),
        ("b.parquet", 0, 50),
        ("b.parquet", 50, 75),
    ]
    assert plan.schema == pa.schema([("id", pa.string()), ("year", pa.int64())])


def test_types_of_all_files_are_joined(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "n": None, "x": None}, {"text": "b", "n": 3, "x": None}])
    pq.write_table(pa.table({"text": ["c"], "n": [0.5], "x": pa.nulls(1)}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text("")
    plan = make_plan(str(tmp_path), BulkConfig(columns=("n", "x")))
    assert plan.config.id_field == "" and plan.records == 3
    assert plan.schema == pa.schema([("id", pa.string()), ("n", pa.float64()), ("x", pa.string())])
    write_jsonl(tmp_path / "d.jsonl", [{"text": "a", "n": "three", "x": None}])
    with pytest.raises(ValueError, match=r"d.jsonl: field 'n' holds string here and double before; give it one type"):
        make_plan(str(tmp_path), BulkConfig(columns=("n", "x")))


def test_an_id_of_two_records_is_named(source):
    rows = records(0, 3)
    rows[2]["id"] = source.records[-1]["id"]
    write_jsonl(source.path / "c.jsonl", [dict(row, id=f"y{i}") for i, row in enumerate(rows[:2])] + rows[2:])
    message = r"id 'x1074' is that of .*b.parquet, record 74 and of .*c.jsonl, record 2; give each record its own"
    with pytest.raises(ValueError, match=message):
        make_plan(str(source.path), BulkConfig())
    assert make_plan(str(source.path), BulkConfig(id_field="")).records == 136


def test_equal_hashes_are_no_equal_ids(tmp_path):
    # -1 and -2 have the same hash in CPython.
    assert hash(-1) == hash(-2)
    write_jsonl(tmp_path / "a.jsonl", [{"id": i, "text": "a"} for i in (-1, -2, 3)])
    plan = make_plan(str(tmp_path / "a.jsonl"), BulkConfig())
    assert plan.schema.field("id").type == pa.int64()
    write_jsonl(tmp_path / "a.jsonl", [{"id": i, "text": "a"} for i in (-1, -2, -1)])
    with pytest.raises(ValueError, match="id -1 is that of .*record 0 and of .*record 2"):
        make_plan(str(tmp_path / "a.jsonl"), BulkConfig())


@pytest.mark.parametrize(
    ("rows", "config", "message"),
    [
        ([{"id": None, "text": "a"}], {}, "field 'id' of a record is None; an id is text or a whole number"),
        ([{"id": 1.5, "text": "a"}], {}, "field 'id' of a record is 1.5"),
        ([{"id": 1, "text": "a"}, {"text": "b"}], {}, "a.jsonl:2: no field 'id' among text"),
        ([{"id": 1, "body": "a"}], {}, "no field 'text' among id, body"),
        ([{"id": 1, "text": 3}], {}, "field 'text' is int, not text"),
        ([{"id": 1, "text": "a"}], {"columns": ("yer",)}, "no field 'yer' among id, text"),
        ([{"text": "a", "x": 1}, {"text": "b", "x": "c"}], {"columns": ("x",)}, "'x' have no common type"),
    ],
)
def test_wrong_records_are_refused_before_anything_is_embedded(tmp_path, rows, config, message):
    write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        make_plan(str(tmp_path / "a.jsonl"), BulkConfig(**config))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "spark"}, "engine is 'spark'; give one of process, ray"),
        ({"shard_records": 0}, "shard_records is 0; give at least 1"),
        ({"engine": "ray", "workers": 0}, "workers is 0; give at least 1"),
        ({"workers": 2}, "workers is 2, but engine 'process' is this process alone"),
        ({"columns": ("embedding",)}, "the vectors are the column 'embedding'"),
        ({"id_field": "", "columns": ("id",)}, "the ids that are made are the column 'id'"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        BulkConfig(**options)


def test_only_needed_columns_of_parquet_are_read(source, monkeypatch):
    read, iter_batches = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, size, groups, columns: (
            read.append((list(groups), columns)) or iter_batches(self, size, groups, columns)
        ),
    )
    plan = make_plan(str(source.path / "b.parquet"), BulkConfig(columns=("year",), shard_records=25))
    assert read[-1] == ([0, 1, 2, 3], ["id"])  # of the texts, only the first is read before
    read.clear()
    reader = PartReader(plan.config)
    assert [record["id"] for record in reader.read(plan.parts[1])] == [f"x{1000 + i}" for i in range(25, 50)]
    assert read == [([1, 2, 3], ["text", "id", "year"])]


def test_the_plan_reads_any_source(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", records(0, 9))
    plan = make_plan(f"{tmp_path}/a.jsonl[:7]", BulkConfig(shard_records=4))
    reader = PartReader(plan.config)
    assert [record["id"] for part in plan.parts for record in reader.read(part)] == [f"x{i}" for i in range(7)]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("one\n\ntwo\n")
    plan = make_plan(f"{tmp_path}/*/*.txt", BulkConfig())
    assert [(part.file.name, part.size) for part in plan.parts] == [("sub/b.txt", 2)]


def test_a_file_that_became_shorter(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", records(0, 9))
    plan = make_plan(str(tmp_path / "a.jsonl"), BulkConfig(shard_records=4))
    write_jsonl(tmp_path / "a.jsonl", records(0, 6))
    with pytest.raises(ValueError, match="a.jsonl has become shorter since it was counted"):
        PartReader(plan.config).read(plan.parts[1])
