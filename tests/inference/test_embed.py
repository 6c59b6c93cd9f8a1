import json
import logging
import resource

import numpy as np
import pyarrow.parquet as pq
import pytest

from jaxencoder.inference.embed import embed_file
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.tasks import records as records_module
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.records import chunks
from tests.tasks.conftest import write_records

from .conftest import SENTENCES

RECORDS = [{"body": text, "id": i, "tags": ["x"] * (i % 3)} for i, text in enumerate(SENTENCES)]


@pytest.fixture
def source(tmp_path):
    return write_records(tmp_path / "in.jsonl", RECORDS)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling_is_that_of_the_tokens(model, pooling):
    texts = ["the cat sat", "", *SENTENCES[80:90]]
    hidden, mask = model.tokens(texts)
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    largest = np.where(mask[..., None], hidden, -np.inf).max(1)
    expected = {"mean": mean, "cls": hidden[:, 0], "max": largest}[pooling]
    vectors = model.embed(texts, pooling=pooling)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=2e-5)


def test_learned_pooling_is_the_classifiers(make_model):
    model = make_model(Classification(labels=2, pooling="learned"))
    hidden, mask = model.tokens(SENTENCES[60:64])
    scores = np.where(mask, hidden @ model.params["classifier"]["pooling_query"], -np.inf)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    expected = np.einsum("BT,BTD->BD", weights / weights.sum(1, keepdims=True), hidden)
    np.testing.assert_allclose(model.embed(SENTENCES[60:64], pooling="learned"), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("pooling", "message"), [("learned", "has learned none"), ("first", "'first'; give one of cls, mean, max, learned")]
)
def test_unknown_pooling(model, source, tmp_path, pooling, message):
    with pytest.raises(ValueError, match=message):
        model.embed([], pooling=pooling)
    with pytest.raises(ValueError, match=message):
        embed_file(model, source, tmp_path / "out.npy", "body", EmbedOptions(pooling))
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_order_and_company_change_nothing(model):
    texts = SENTENCES[::3]
    together = model.embed(texts, batch_tokens=200)
    np.testing.assert_allclose(model.embed(texts[::-1], batch_tokens=200)[::-1], together, atol=2e-5)
    np.testing.assert_allclose(model.embed(texts, batch_tokens=1), together, atol=2e-5)
    alone = np.concatenate([model.embed([text]) for text in texts[::5]])
    np.testing.assert_allclose(alone, together[::5], atol=2e-5)


def test_normalized_vectors_have_length_one(model):
    vectors, plain = (model.embed(SENTENCES[:20], normalize=x) for x in (True, False))
    np.testing.assert_allclose(vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_any_text_has_a_vector(model, caplog):
    texts = ["", " ", "\0\x1b[31m\r\n", "a" * (1 << 20), "the cat " * (1 << 17), "猫🐈\u200d", "[MASK] [SEP] [PAD]"]
    with caplog.at_level(logging.WARNING):
        vectors = model.embed(texts)
    assert vectors.shape == (7, 32) and np.isfinite(vectors).all()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("texts", ["one text", [None], ["fine", 3], ["\ud800"]])
def test_what_is_no_list_of_texts(model, texts):
    with pytest.raises(ValueError):
        model.embed(texts)


def test_batch_tokens_is_checked(model):
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        model.embed(["the"], batch_tokens=0)


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "npy"])
def test_file_holds_every_record_with_its_vector(model, source, tmp_path, monkeypatch, extension):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 50)
    output = tmp_path / f"out.{extension}"
    assert embed_file(model, source, output, text_field="body") == len(RECORDS)
    if extension == "npy":
        vectors = np.load(output, mmap_mode="r")
    elif extension == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        vectors = np.array([row.pop("embedding") for row in rows], np.float32)
        assert rows == RECORDS
    else:
        table = pq.read_table(output)
        assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[32]"
        vectors = np.array(table["embedding"].to_pylist(), np.float32)
        assert table.drop_columns(["embedding"]).to_pylist() == RECORDS
    np.testing.assert_allclose(vectors, model.embed(SENTENCES), atol=2e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", output.name]


def test_one_warning_for_all_chunks(model, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 2)
    (tmp_path / "in.txt").write_text("the cat\n" + "the cat sat \n" * 4)
    with caplog.at_level(logging.WARNING):
        embed_file(model, str(tmp_path / "in.txt"), tmp_path / "out.npy", options=EmbedOptions(max_length=4))
    assert caplog.messages == ["4 of 5 texts are longer than 4 tokens and were truncated."]


def test_chunks_are_bounded_in_number_and_size(monkeypatch):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 3)
    monkeypatch.setattr(records_module, "_CHUNK_CHARACTERS", 10)
    records = [{"t": "x" * n} for n in (1, 1, 1, 1, 50, 4, 4, 4, 1)]
    sizes = [[len(record["t"]) for record in chunk] for chunk in chunks(iter(records), lambda record: len(record["t"]))]
    assert sizes == [[1, 1, 1], [1, 50], [4, 4, 4], [1]]


def test_a_failure_leaves_the_old_file_and_nothing_else(model, tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 2)
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\nnot json\n')
    for extension in ("parquet", "jsonl", "npy"):
        output = tmp_path / f"out.{extension}"
        output.write_text("old")
        with pytest.raises(ValueError, match=r"in\.jsonl:4"):
            embed_file(model, str(tmp_path / "in.jsonl"), output)
        assert output.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "npy"])
def test_a_full_disk_is_named_and_leaves_nothing(model, tmp_path, extension):
    (tmp_path / "in.txt").write_text("".join(f"the cat {i}\n" for i in range(200)))
    output = tmp_path / f"out.{extension}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the nearest thing to a full disk
    try:
        with pytest.raises(OSError) as caught:
            embed_file(model, str(tmp_path / "in.txt"), output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.filename, caught.value.strerror) == (str(output), "File too large")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"text": "a"}, {"text": "b", "new": 1}], "field 'new' first appears late"),
        ([{"text": "a", "n": 1}, {"text": "b", "n": "one"}], "do not form one table"),
        ([{"text": "a", "embedding": 1}], "already have a field 'embedding'"),
    ],
)
def test_records_that_make_no_table(model, tmp_path, monkeypatch, lines, message):
    monkeypatch.setattr(records_module, "_CHUNK_TEXTS", 1)
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=message):
        embed_file(model, str(tmp_path / "in.jsonl"), tmp_path / "out.parquet")


def test_fields_that_come_and_go_are_null(model, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b", "n": 2}\n{"text": "c", "n": null}\n')
    embed_file(model, str(tmp_path / "in.jsonl"), tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == [None, 2, None]


def test_output_is_checked_before_anything_is_computed(tmp_path):
    with pytest.raises(ValueError, match=r"out\.csv has no extension that can be written"):
        embed_file("no run", "no source", tmp_path / "out.csv")
    with pytest.raises(FileNotFoundError) as caught:
        embed_file("no run", "no source", tmp_path / "absent" / "out.npy")
    assert caught.value.filename == str(tmp_path / "absent" / "out.npy")
    with pytest.raises(FileNotFoundError, match="no source"):
        embed_file("no run", "no source", tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == []
