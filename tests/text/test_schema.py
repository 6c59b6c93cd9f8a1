"""The same records are held out as records and as rows."""

import json

import numpy as np
import pytest

from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig
from jaxencoder.text.schema import TEXTS, is_held_out, text_digest

WORDS = ["alpha", "beta", "gamma", "delta", "kappa"]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("held_out") / "a.jsonl"
    random = np.random.default_rng(0)
    records = [{"text": " ".join(random.choice(WORDS, 3)), "b": str(i), "label": i % 2, "id": i} for i in range(300)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("pair_field", ["", "b"])
def test_records_equal_the_rows(source, tokenizer, pair_field):
    fields = {"label_field": "label", "pair_field": pair_field}
    data = DataConfig(train=(source,), validation_fraction=0.2, row_length=16, workers=1, **fields)
    (store,) = prepare(data, tokenizer, "validation", progress=False)
    held_out = list(TEXTS.validation_records(data))
    rows = store.read(np.arange(len(store)))
    labels = rows["labels"][rows["labels"] >= 0]
    assert store.meta["documents"] == len(held_out) and 30 < len(held_out) < 90
    assert sorted(labels.tolist()) == sorted(record["label"] for _, record in held_out)
    texts = [(record["text"], record["b"]) for _, record in held_out]
    pairs = [x if pair_field else (x[0], None) for x in texts]
    encoded = tokenizer.encode_batch([a for a, _ in pairs], [b for _, b in pairs] if pair_field else None)
    expected = sorted(tuple(encoding.ids.tolist()) for encoding in encoded)
    ids = [
        tuple(row[segments == s].tolist())
        for row, segments in zip(rows["token_ids"], rows["segment_ids"], strict=True)
        for s in range(1, segments.max() + 1)
    ]
    assert sorted(ids) == expected
    for where, record in held_out:
        assert where == f"{source}, record {record['id'] + 1}"


def test_equal_texts_have_equal_digests():
    digests = [text_digest(text, "") for text in ("a", "b", "a")]
    assert digests[0] == digests[2] != digests[1] and text_digest("a", "b") != text_digest("ab", "")
    assert not any(is_held_out(digest, 0.0) for digest in digests) and all(is_held_out(d, 1.0) for d in digests)


def test_validation_sources_are_read_completely(source):
    data = DataConfig(train=("absent.jsonl",), validation=(source, source), label_field="label")
    held_out = [record["id"] for _, record in TEXTS.validation_records(data)]
    assert held_out == [*range(300), *range(300)]


def test_errors(source):
    with pytest.raises(ValueError, match="held nothing out"):
        list(TEXTS.validation_records(DataConfig(train=(source,), validation_fraction=0.0, label_field="label")))
    with pytest.raises(ValueError, match="a.jsonl:1: no field 'labl'.*did you mean 'label'"):
        list(TEXTS.validation_records(DataConfig(train=(source,), validation=(source,), label_field="labl")))
