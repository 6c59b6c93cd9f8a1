"""Records of queries and documents: they share a row as pairs, with the labels of their form."""

import numpy as np
import pytest

from jaxencoder.tasks.reranking.data import SCHEMA, schema_for
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.schema import TEXTS
from jaxencoder.text.sources.fields import infer_fields
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.tasks.conftest import write_records

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega"]
NAN = float("nan")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=80))


def config(path, records, **changes) -> DataConfig:
    settings = {"row_length": 48, "workers": 1, "validation_fraction": 0.0, "text_field": "query"} | changes
    return DataConfig(train=(write_records(path, records),), **{"pair_field": "positive"} | settings)


def lists_of(data: DataConfig, tokenizer: Tokenizer, schema=SCHEMA) -> list:
    """[[(ids of a pair, its type ids, label)] of each record]."""
    (store,) = prepare(data, tokenizer, "train", schema=schema)
    rows, found = store.read(np.arange(len(store))), []
    for number, examples in enumerate(rows["tuples"]):
        ids, types, segments, labels = (
            rows[name][number] for name in ("token_ids", "token_type_ids", "segment_ids", "labels")
        )
        for example in examples[examples[:, 0] >= 0]:
            inside = [segments == place + 1 for place in example[example >= 0]]
            values = labels[example[example >= 0]].tolist()
            found.append([(ids[x].tolist(), types[x].tolist(), y) for x, y in zip(inside, values, strict=True)])
    return found


@pytest.mark.parametrize(
    ("record", "labels"),
    [
        ({"positive": "beta", "negative": "gamma", "negative_2": "delta delta"}, [1, 0, 0]),
        ({"positive": ["beta", "omega"], "negatives": ["gamma", "delta"], "negative": None}, [1, 1, 0, 0]),
        ({"documents": ["beta", "gamma", ""], "labels": [2, 0.5, None]}, [2, 0.5, NAN]),
        ({"positive": "beta", "negative": ["gamma", "omega"], "labels": [3, -1, "0.5"]}, [3, -1, 0.5]),
        ({"positive": "beta", "negative": "gamma", "scores": [0.9, 0.8]}, [1, 0]),
        ({"documents": ["beta", "gamma"], "scores": [0.9, 0.8]}, [0.9, 0.8]),
        ({"document": "beta", "label": 1}, [1]),
        ({"documents": ["beta"], "label": 0}, [0]),
    ],
)
def test_forms(record: dict, labels: list[float], tmp_path, tokenizer: Tokenizer) -> None:
    """The usual fields are found, and each document is encoded with the query."""
    records = [{"query": "alpha"} | record, {"query": "kappa omega"} | record]
    data = infer_fields(config(tmp_path / "a.jsonl", records), SCHEMA)
    value = record[data.pair_field]
    others = [x for name, x in record.items() if name.startswith("negative") and x]
    texts = [t for x in (value, *others) for t in (x if isinstance(x, list) else [x])]
    lists = lists_of(data, tokenizer)
    assert len(lists) == 2
    for query, pairs in zip(("alpha", "kappa omega"), sorted(lists, key=lambda x: len(x[0][0])), strict=True):
        encoded = tokenizer.encode_batch([query] * len(texts), texts)
        assert [pair[:2] for pair in pairs] == [(x.ids.tolist(), x.type_ids.tolist()) for x in encoded]
        np.testing.assert_array_equal([label for *_, label in pairs], np.array(labels, np.float32))


def test_margins(tmp_path, tokenizer: Tokenizer) -> None:
    """A teacher's differences, one for each negative, become scores with the same differences."""
    records = [
        {"query": "alpha", "positive": "beta", "negative": ["gamma", "delta"], "label": [1.5, -2]},
        {"query": "beta", "positive": "beta", "negative": "gamma", "label": 0.5},
        {"query": "gamma", "positive": "beta", "negative": "gamma", "label": [4, 1]},
    ]
    data = config(tmp_path / "a.jsonl", records, label_field="label")
    assert infer_fields(config(tmp_path / "a.jsonl", records), schema_for("mse")).label_field == "label"
    lists = lists_of(data, tokenizer, schema_for("margin_mse"))
    assert sorted([label for *_, label in pairs] for pairs in lists) == [[0, -1.5, 2], [0, -0.5], [4, 1]]


def test_long_lists_are_truncated_together(tmp_path, tokenizer: Tokenizer) -> None:
    records = [{"query": "alpha", "documents": ["beta", " ".join(WORDS * 9), "gamma " * 40], "labels": [1, 0, 0]}]
    ((short, *long),) = lists_of(infer_fields(config(tmp_path / "a.jsonl", records), SCHEMA), tokenizer)
    assert len(short[0]) == len(tokenizer.encode_batch(["alpha"], ["beta"])[0].ids)
    assert len(long[0][0]) == len(long[1][0]) == (48 - len(short[0])) // 2


def test_pairs_are_shorter_than_a_row(tmp_path, tokenizer: Tokenizer) -> None:
    records = [{"query": "alpha", "documents": ["beta " * 30, "gamma"], "labels": [1, 0]}]
    data = infer_fields(config(tmp_path / "a.jsonl", records, text_length=9), SCHEMA)
    ((long, short),) = lists_of(data, tokenizer)
    limited, unchanged = (tokenizer.encode_batch(["alpha"], [x], max_length=9)[0].ids for x in ("beta " * 30, "gamma"))
    assert (long[0], short[0]) == (limited.tolist(), unchanged.tolist()) and len(long[0]) == 9
    with pytest.raises(
        ValueError, match="text_length is 9, which is for embeddings and reranking; set data.row_length"
    ):
        TEXTS.check(DataConfig(text_length=9))


@pytest.mark.parametrize(
    ("record", "changes", "message"),
    [
        ({"documents": ["a", "b"]}, {}, "record 1: field 'documents' is a list of documents without labels; name"),
        ({"documents": []}, {}, "record 1: field 'documents' is an empty list; drop the record"),
        ({"documents": ["a", "b"], "labels": [1]}, {}, "record 1: 1 labels for 2 documents; give each one"),
        ({"documents": ["a", 3], "labels": [1, 0]}, {}, "record 1: field 'documents' is int, not text"),
        ({"positive": "a", "negative": 3}, {}, "record 1: field 'positive' is int, not text"),
        ({"document": "a", "label": "good"}, {}, "record 1: label 'good' is not a finite number"),
        ({"document": "a", "label": NAN}, {}, "record 1: label nan is not a finite number"),
        ({"document": "a", "label": 3}, {}, "record 1: label 3 is no probability from 0 to 1, as loss bce needs"),
        ({"document": "a", "label": -0.5}, {}, "record 1: label -0.5 is no probability"),
        ({"document": "a", "label": 1}, {"balance": 1.0, "label_field": "label"}, "data.balance is 1.0, which is for"),
    ],
)
def test_invalid_records(record: dict, changes: dict, message: str, tmp_path, tokenizer: Tokenizer) -> None:
    schema = schema_for("bce")
    with pytest.raises(ValueError, match=message):
        data = infer_fields(config(tmp_path / "a.jsonl", [{"query": "q"} | record], **changes), schema)
        schema.check(data)
        lists_of(data, tokenizer, schema)


def test_documents_of_a_query_are_held_out_together(tmp_path, tokenizer: Tokenizer) -> None:
    records = [{"query": f"alpha {i % 30}", "document": f"beta {i}", "label": i % 2} for i in range(90)]
    data = config(tmp_path / "a.jsonl", records, pair_field="document", label_field="label", validation_fraction=0.3)
    held_out = [record["query"] for _, record in SCHEMA.validation_records(data)]
    assert 0 < len(held_out) < 90 and all(held_out.count(query) == 3 for query in held_out)
