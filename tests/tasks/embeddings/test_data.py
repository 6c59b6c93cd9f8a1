"""Tuples of texts: they stay together in a row, with their scores, whatever their fields."""

from dataclasses import replace

import numpy as np
import pytest

from jaxencoder.tasks.embeddings import data as module
from jaxencoder.tasks.embeddings.data import SCHEMA
from jaxencoder.tasks.embeddings.schemas import schema_for
from jaxencoder.text.batches import Batches
from jaxencoder.text.cache import prepare
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.sources.fields import infer_fields
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.text.tokenizers.training import train_tokenizer
from tests.tasks.conftest import write_records

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega", "sigma", "theta"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 5, TokenizerConfig(vocab_size=120))


def config(path, records, **changes) -> DataConfig:
    settings = {"row_length": 48, "workers": 1, "validation_fraction": 0.0, "pair_field": "positive"} | changes
    return DataConfig(train=(write_records(path, records),), **{"text_field": "anchor"} | settings)


def records(count, seed=0):
    random = np.random.default_rng(seed)
    text = lambda: " ".join(random.choice(WORDS, random.integers(1, 5)))  # noqa: E731
    made = []
    for _ in range(count):
        negatives = {f"negative_{i}": text() for i in range(random.integers(4))}
        made.append({"anchor": text(), "positive": text(), **negatives, "score": float(random.integers(6)) / 2})
    return made


def examples_of(store):
    """[(ids of each text, score)] of every example of every row."""
    rows, examples = store.read(np.arange(len(store))), []
    for tuples, labels, ids, segments in zip(
        *(rows[name] for name in ("tuples", "labels", "token_ids", "segment_ids")), strict=True
    ):
        for example in tuples[tuples[:, 0] >= 0]:
            texts = tuple(tuple(ids[segments == segment + 1].tolist()) for segment in example[example >= 0])
            examples.append((texts, float(labels[example[0]])))
            np.testing.assert_array_equal(labels[example[example >= 0]], labels[example[0]])  # NaN too
        assert tuples.max() + 1 == segments.max()
    return examples


@pytest.mark.parametrize("packing", [True, False])
def test_examples_stay_together(tmp_path, tokenizer, packing):
    made = records(200)
    data = config(tmp_path / "a.jsonl", made, packing=packing, label_field="score")
    (store,) = prepare(data, tokenizer, "train", schema=SCHEMA)
    expected = []
    for record in made:
        texts = [text for name, text in record.items() if name != "score"]
        expected.append((tuple(tuple(x.ids.tolist()) for x in tokenizer.encode_batch(texts)), record["score"]))
    assert sorted(examples_of(store)) == sorted(expected)
    assert store.meta["pieces"] == store.meta["documents"] == 200 and store.meta["tuples"][1] == 5
    assert (store.meta["tuples"][0] == 1) != packing
    batch = Batches((store,), data, len(store) + 1, shuffle=False).batch(0)
    assert (batch["tuples"][-1] == -1).all() and np.isnan(batch["labels"][-1]).all()


def test_sources_of_different_sizes(tmp_path, tokenizer):
    """A batch of pairs and of longer tuples has room for the longest."""
    pairs = write_records(tmp_path / "pairs.jsonl", [{"anchor": "alpha", "positive": "beta"}] * 3)
    data = config(tmp_path / "tuples.jsonl", records(40))
    data = DataConfig(**{**vars(data), "train": (pairs, *data.train)})
    stores = prepare(data, tokenizer, "train", schema=SCHEMA)
    assert [store.meta["tuples"][1] for store in stores] == [2, 5]
    batch = Batches(stores, data, sum(map(len, stores)), shuffle=False).batch(0)
    assert batch["tuples"].shape[2] == 5 and (batch["tuples"][0, :, 2:] == -1).all()


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"negative": "gamma"}, ["alpha", "beta", "gamma"]),
        ({"negatives": ["gamma", "delta"]}, ["alpha", "beta", "gamma", "delta"]),
        ({"negative_1": "gamma", "negative_2": None, "negative_sampling": "delta"}, ["alpha", "beta", "gamma"]),
        ({"positive": ""}, ["alpha", ""]),
    ],
)
def test_negatives(record, texts, tmp_path, tokenizer):
    data = config(tmp_path / "a.jsonl", [{"anchor": "alpha", "positive": "beta"} | record])
    ((ids, score),) = examples_of(prepare(data, tokenizer, "train", schema=SCHEMA)[0])
    assert [list(x) for x in ids] == [x.ids.tolist() for x in tokenizer.encode_batch(texts)] and np.isnan(score)


def test_texts_are_shorter_than_a_row(tmp_path, tokenizer):
    """What does not fit into the row even so is truncated as without a limit, longest first."""
    texts = ["alpha", *(" ".join(WORDS[:4] * n) for n in (3, 4, 5, 6))]
    limited = [x.ids.tolist() for x in tokenizer.encode_batch(texts, max_length=12)]
    assert len(limited[0]) < len(limited[1]) == 12
    for row_length, kept in ((len(limited[0]) + 48, 12), (48, (48 - len(limited[0])) // 4)):
        made = {"anchor": texts[0], "positive": texts[1], "negatives": texts[2:]}
        data = config(tmp_path / "a.jsonl", [made], row_length=row_length, text_length=12)
        ((ids, _),) = examples_of(prepare(data, tokenizer, "train", schema=SCHEMA)[0])
        assert [list(x) for x in ids] == [x.ids.tolist() for x in tokenizer.encode_batch(texts, max_length=kept)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"positive": 3}, "record 1: field 'positive' is int, not text"),
        ({"negative": {"a": 1}}, "record 1: field 'positive' is dict, not text"),
        ({"score": "high"}, "record 1: label 'high'"),
        ({"score": float("nan")}, "record 1"),
        ({"negatives": ["alpha"] * 40}, "rows of 48 tokens have no room for 42 texts; make them longer"),
    ],
)
def test_invalid_records(record, message, tmp_path, tokenizer):
    made = {"anchor": "alpha", "positive": "beta", "score": 1.0} | record
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path / "a.jsonl", [made], label_field="score"), tokenizer, "train", schema=SCHEMA)


def test_prompts(tmp_path, tokenizer):
    """They are part of the texts, and of the address of the rows."""
    data = config(tmp_path / "a.jsonl", [{"anchor": "alpha", "positive": "beta", "negative": "gamma"}])
    folders = set()
    for prompts in (("", ""), ("delta ", ""), ("delta ", "kappa ")):
        (store,) = prepare(data, tokenizer, "train", schema=schema_for("ranking", prompts))
        ((ids, _),) = examples_of(store)
        texts = [prompts[0] + "alpha", prompts[1] + "beta", prompts[1] + "gamma"]
        assert [list(x) for x in ids] == [x.ids.tolist() for x in tokenizer.encode_batch(texts)]
        folders.add(store.path)
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"text_length": 4}, "leaves none of 4 for a text; give a shorter prompt or a larger data.text_length"),
        ({"row_length": 4}, "leaves none of 4 for a text; give a shorter prompt or a larger data.row_length"),
        ({"row_length": 12}, "rows of 12 tokens have no room for 3 texts"),  # 4 tokens each, all of the prompt
    ],
)
def test_prompts_that_leave_no_room(lengths, message, tmp_path, tokenizer):
    made = {"anchor": "alpha beta", "positive": "beta gamma", "negative": "gamma delta"}
    data = config(tmp_path / "a.jsonl", [made], **lengths)
    with pytest.raises(ValueError, match=message):
        prepare(data, tokenizer, "train", schema=schema_for("ranking", ("delta kappa ", "")))


@pytest.mark.parametrize(
    ("label", "scores"),
    [([3, 1.5, -2], [3, 1.5, -2]), ([1.5, 5], [0, -1.5, -5]), (None, [np.nan] * 3)],
)
def test_scores_of_a_teacher(label, scores, tmp_path, tokenizer):
    made = {"anchor": "alpha", "positive": "beta", "negatives": ["gamma", "delta"], "scores": label}
    data = config(tmp_path / "a.jsonl", [made], label_field="scores")
    (store,) = prepare(data, tokenizer, "train", schema=schema_for("kl"))
    np.testing.assert_array_equal(store.read(np.zeros(1, int))["labels"], [[np.nan, *scores]])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"negative": None}, "record 1: the record has no negative, and a teacher's scores of one text have no order"),
        ({"scores": [1.0, 2.0, 3.0]}, "3 scores of a teacher for 2 texts; give 2 scores, or 1 differences"),
        ({"scores": [1.0, float("nan")]}, "record 1: label nan is not a finite number"),
    ],
)
def test_invalid_scores_of_a_teacher(record, message, tmp_path, tokenizer):
    made = {"anchor": "alpha", "positive": "beta", "negative": "gamma", "scores": 2.0} | record
    with pytest.raises(ValueError, match=message):
        data = config(tmp_path / "a.jsonl", [made], label_field="scores")
        prepare(data, tokenizer, "train", schema=schema_for("margin_mse"))


@pytest.mark.parametrize("names", [("query", "document"), ("question", "answer"), ("sentence1", "sentence2")])
def test_usual_fields(names, tmp_path):
    source = write_records(tmp_path / "a.jsonl", [dict.fromkeys([*names, "label"], "alpha")])
    data = infer_fields(DataConfig(train=(source,), text_field="anchor", pair_field="positive"), SCHEMA)
    assert (data.text_field, data.pair_field, data.label_field) == (*names, "")


def test_aligned_files_are_pairs(tmp_path, tokenizer):
    """In their order, with the names of the settings, alone or beside other files."""
    for name, lines in (("a.txt", WORDS[:4]), ("b.txt", WORDS[4:])):
        (tmp_path / name).write_text("\n".join(lines))
    source = f"aligned:{tmp_path}/a.txt|{tmp_path}/b.txt"
    data = config(tmp_path / "pairs.jsonl", [{"anchor": "alpha", "positive": "beta"}])
    data = replace(data, train=(source, *data.train), validation=(source,))
    assert infer_fields(data, SCHEMA) == data
    pairs = [*zip(WORDS[:4], WORDS[4:], strict=True), ("alpha", "beta")]
    expected = [tuple(tuple(x.ids.tolist()) for x in tokenizer.encode_batch(pair)) for pair in pairs]
    stores = prepare(data, tokenizer, "train", schema=SCHEMA)
    assert sorted(texts for store in stores for texts, _ in examples_of(store)) == sorted(expected)
    held_out = [(record["anchor"], record["positive"]) for _, record in SCHEMA.validation_records(data)]
    assert held_out == [(a, [b]) for a, b in pairs[:4]]


def test_single_texts(tmp_path, tokenizer, monkeypatch):
    """They suit a teacher's vectors alone, and may stand beside pairs; each text has its number."""
    numbered = schema_for("mse", vectors_of="each")
    single = config(tmp_path / "single.jsonl", [{"sentence": word} for word in WORDS[:3]])
    assert vars(infer_fields(single, numbered)) == vars(replace(single, text_field="sentence", pair_field=""))
    anchors = config(tmp_path / "anchors.jsonl", [{"anchor": word} for word in WORDS[:3]])
    pairs = config(tmp_path / "pairs.jsonl", [{"anchor": "alpha", "positive": "beta", "negative": "gamma"}] * 2)
    data = infer_fields(replace(anchors, train=anchors.train + pairs.train), numbered)
    assert data.pair_field == "positive"
    numbers = []
    for store in prepare(data, tokenizer, "train", schema=numbered):
        labels = store.read(np.arange(len(store)))["labels"]
        numbers.append(sorted(labels[~np.isnan(labels)].tolist()))
    assert numbers == [[0, 1, 2], [0, 1, 2, 3, 4, 5]]
    with pytest.raises(ValueError, match="anchors.jsonl:1: no field 'positive' among anchor"):
        prepare(replace(pairs, train=pairs.train + anchors.train), tokenizer, "train", schema=SCHEMA)
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2)
    with pytest.raises(ValueError, match="holds more than 2 texts with vectors of another model; split it"):
        prepare(replace(data, text_field="anchor", row_length=47), tokenizer, "train", schema=numbered)
