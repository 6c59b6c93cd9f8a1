"""Records with classes: texts of a class share a row, and the class of a pair is the label of its texts."""

from collections import Counter

import numpy as np
import pytest

from jaxencoder.tasks.embeddings.labeled_data import PairClasses, TextClasses
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig
from jaxencoder.text.sources.fields import infer_fields
from tests.tasks.conftest import write_records
from tests.tasks.embeddings.test_data import WORDS, examples_of, tokenizer  # noqa: F401  # a fixture

DEFAULTS = {"text_field": "anchor", "pair_field": "positive", "row_length": 48, "workers": 1}  # of the recipe


def data_of(path, records, schema, **changes) -> DataConfig:
    settings = DEFAULTS | {"validation_fraction": 0.0} | changes
    data = DataConfig(train=(write_records(path, records),), **settings)
    schema.check(data)
    return infer_fields(data, schema)


@pytest.mark.parametrize("name", ["label", "intent"])
def test_groups_of_a_class(tmp_path, tokenizer, name) -> None:  # noqa: F811
    """Each text once, with another one of its class if there is one; texts without a class are left out."""
    counts = {"a": 5, "b": 2, "c": 1, "-1": 3}
    made = [{"text": f"{word} {WORDS[i]}", name: word} for word, count in counts.items() for i in range(count)]
    made = [made[i] for i in np.random.default_rng(0).permutation(len(made))]
    data = data_of(tmp_path / "texts.jsonl", made, TextClasses())
    assert (data.text_field, data.pair_field, data.label_field) == ("text", "", name)
    (store,) = prepare(data, tokenizer, "train", schema=TextClasses())
    examples = examples_of(store)
    assert store.meta["labels"] == ["a", "b", "c"] and store.meta["unlabeled"] == 3
    assert Counter((label, len(texts)) for texts, label in examples) == {(0, 2): 1, (0, 3): 1, (1, 2): 1, (2, 1): 1}
    expected = [tokenizer.encode_batch([record["text"]])[0].ids for record in made if record[name] != "-1"]
    assert sorted(text for texts, _ in examples for text in texts) == sorted(map(tuple, expected))


def test_classes_of_pairs(tmp_path, tokenizer) -> None:  # noqa: F811
    names = ["entailment", "neutral", "contradiction"]
    made = [{"premise": WORDS[i], "hypothesis": WORDS[i + 1], "label": names[i % 3], "negative": "x"} for i in range(6)]
    data = data_of(tmp_path / "pairs.jsonl", made, PairClasses())
    assert (data.text_field, data.pair_field, data.label_field) == ("premise", "hypothesis", "label")
    (store,) = prepare(data, tokenizer, "train", schema=PairClasses())
    assert store.meta["labels"] == sorted(names) and store.meta["tuples"][1] == 2
    assert Counter(label for _, label in examples_of(store)) == {0: 2, 1: 2, 2: 2}


@pytest.mark.parametrize(
    ("schema", "record", "settings", "message"),
    [
        (TextClasses, {"text": "a"}, {}, "objective.loss needs a class of each record; name data.label_field"),
        (
            TextClasses,
            {"text": "a", "label": 0.5},
            {},
            "field 'label' holds values, but objective.loss needs one",
        ),
        (
            TextClasses,
            {"text": "a", "label": ["b"]},
            {},
            "field 'label' holds lists of classes, but objective.loss",
        ),
        (TextClasses, {"text": "a", "label": "b"}, {"pair_field": "b"}, "data.pair_field is 'b', but the task is emb"),
        (PairClasses, {"premise": "a", "hypothesis": "b"}, {}, "objective.loss needs a class of each record"),
    ],
)
def test_refused(tmp_path, tokenizer, schema, record, settings, message) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=message):
        data = data_of(tmp_path / "a.jsonl", [record] * 3, schema(), **settings)
        prepare(data, tokenizer, "train", schema=schema())
