"""The pieces of an example stay together, whole where they fit, and cut to their shares where not."""

import numpy as np
import pytest

from jaxencoder.tasks.multiple_choice.data import SCHEMA, choice_index, encode_choices
from jaxencoder.text.batches import Batches
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.tasks.conftest import write_records

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta"]
FIELDS = {"pair_field": "choices", "label_field": "label"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=120))


def config(path, records, **changes) -> DataConfig:
    settings = {"row_length": 48, "workers": 1, "validation_fraction": 0.0} | FIELDS | changes
    return DataConfig(train=(write_records(path, records),), **settings)


def records(count, longest=6, seed=0):
    random = np.random.default_rng(seed)
    text = lambda: " ".join(random.choice(WORDS, random.integers(1, longest)))  # noqa: E731
    found = []
    for _ in range(count):
        choices = [text() for _ in range(random.integers(2, 6))]
        found.append({"text": text(), "choices": choices, "label": int(random.integers(len(choices)))})
    return found


def groups_of(store):
    """[([ids of each piece], number of the right one)] of every example of every row."""
    rows, found = store.read(np.arange(len(store))), []
    for r in range(len(store)):
        groups, labels = rows["groups"][r], rows["labels"][r]
        assert groups[0] == 0 and set(np.diff(groups[groups >= 0])) <= {0, 1}
        np.testing.assert_array_equal(groups < 0, labels < 0)
        segments = np.unique(rows["segment_ids"][r])[-sum(groups >= 0) :]
        np.testing.assert_array_equal(np.flatnonzero(groups >= 0) + 1, segments)
        for group in range(groups.max() + 1):
            at = np.flatnonzero(groups == group)
            ids = [tuple(rows["token_ids"][r][rows["segment_ids"][r] == s + 1].tolist()) for s in at]
            assert labels[at].sum() == 1
            found.append((tuple(ids), int(labels[at].argmax())))
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_examples_stay_together(tmp_path, tokenizer, packing):
    examples = records(200, longest=5)
    data = config(tmp_path / "a.jsonl", examples, packing=packing, row_length=64)
    (store,) = prepare(data, tokenizer, "train", schema=SCHEMA)
    want = []
    for record in examples:
        pieces = tokenizer.encode_batch([record["text"]] * len(record["choices"]), record["choices"])
        want.append((tuple(tuple(x.ids.tolist()) for x in pieces), record["label"]))
    assert max(sum(map(len, ids)) for ids, _ in want) <= 64
    assert sorted(groups_of(store)) == sorted(want)
    assert store.meta["pieces"] == store.meta["documents"] == 200 and store.meta["label_kind"] == "choice"
    rows = store.read(np.arange(len(store)))
    assert rows["groups"].max() == 0 if not packing else rows["groups"].max() > 0
    batch = Batches((store,), data, len(store) + 1, shuffle=False).batch(0)
    assert (batch["groups"][-1] == -1).all() and batch["groups"].shape == batch["labels"].shape
    assert rows["token_type_ids"].any()


def test_workers_and_held_out_examples(tmp_path, tokenizer):
    examples = records(120)
    data = config(tmp_path / "a.jsonl", examples, row_length=96, validation_fraction=0.2)
    found = [groups_of(prepare(data, tokenizer, split, schema=SCHEMA)[0]) for split in ("train", "validation")]
    assert sum(map(len, found)) == 120 and len(found[1]) > 5
    assert len(list(SCHEMA.validation_records(data))) == len(found[1])


def test_long_examples_are_cut_to_their_shares(tokenizer):
    long, short = " ".join(WORDS * 4), "alpha"
    (group,), cut = encode_choices(tokenizer, [short], [[long, short, long]], 32)
    lengths = [len(x.ids) for x in group]
    whole = tokenizer.encode_batch([short], [short])[0].ids
    assert cut == 1 and group[1].ids.tolist() == whole.tolist()
    assert lengths[0] == lengths[2] == (32 - len(whole)) // 2
    assert all(x.ids[0] == tokenizer.cls_id and x.ids[-1] == tokenizer.sep_id for x in group)
    (group, other), cut = encode_choices(tokenizer, [long, short], [[short, short], [short, short]], 32)
    assert cut == 1 and [len(x.ids) for x in group] == [16, 16] and [len(x.ids) for x in other] == [len(whole)] * 2
    assert encode_choices(tokenizer, [], [], 32) == ([], 0)
    with pytest.raises(ValueError, match="rows of 16 tokens have no room for 4 texts"):
        encode_choices(tokenizer, [long], [[short] * 4], 16)


@pytest.mark.parametrize(
    ("label", "number"),
    [(1, 1), ("B", 1), ("b", 1), ("1", 1), ("two", 1), (0, 0), ("C", 2), ("3", 2), (" a", 0), (1.0, 1), ("1.0", 1)],
)
def test_which_one_is_right(label, number):
    assert choice_index(label, ["one", "two", "3"], "record 1") == number


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "record 1: label '2' is none of the 2 choices; give its number from 0, its letter or its text"),
        ({"label": -1}, "label '-1' is none of the 2 choices"),
        ({"label": "C"}, "label 'C' is none of the 2 choices"),
        ({"label": "gamma"}, "label 'gamma' is none"),
        ({"label": True}, "label 'True' is none"),
        ({"label": None}, "label 'None' is none"),
        ({"label": 0.5}, "label '0.5' is none"),
        ({"label": [0]}, r"label '\[0\]' is none"),
        ({"label": float("nan")}, "label 'nan' is none"),
        ({"choices": []}, r"record 1: there is nothing to choose among \[\]; give two choices or more"),
        ({"choices": ["alpha"], "label": 0}, r"nothing to choose among \['alpha'\]"),
        ({"choices": "alpha"}, "the choices 'alpha' are no list of texts; name another data.pair_field"),
        ({"choices": ["alpha", 3]}, "are no list of texts"),
        ({"choices": ["alpha", None]}, "are no list of texts"),
        ({"choices": None}, "the choices 'None' are no list of texts"),
        ({"text": ["alpha"]}, "field 'text' is list, not text"),
        ({"choices": ["alpha", "alpha"], "label": "alpha"}, "label 'alpha' is none of the 2 choices"),
        ({"choices": ["alpha"] * 30}, "rows of 48 tokens have no room for 30 texts"),
    ],
)
def test_hostile_records(tmp_path, tokenizer, change, message):
    record = {"text": "alpha", "choices": ["alpha", "beta"], "label": 1} | change
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path / "a.jsonl", [record]), tokenizer, "train", schema=SCHEMA)


def test_a_text_of_a_megabyte(tmp_path, tokenizer):
    record = {"text": "alpha beta " * 100_000, "choices": ["alpha", "", "gamma"], "label": 1}
    (store,) = prepare(config(tmp_path / "a.jsonl", [record]), tokenizer, "train", schema=SCHEMA)
    ((pieces, right),) = groups_of(store)
    assert [len(ids) for ids in pieces] == [16] * 3 and right == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pair_field": ""}, "name the field of the choices"),
        ({"labels": ("a", "b")}, "the task has no classes; leave it out"),
        ({"balance": 1.0}, "data.balance is 1.0, which is for labels of whole texts"),
    ],
)
def test_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SCHEMA.check(DataConfig(**(FIELDS | settings)))
