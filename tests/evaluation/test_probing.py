"""Probing: the rank of a word is its place among what fill-mask proposes."""

import json
import logging

import numpy as np
import pytest

from jaxencoder.api import load
from jaxencoder.evaluation.evaluate import evaluate_task
from jaxencoder.evaluation.probing import answer_ranks, evaluate_probing
from jaxencoder.text.buckets import BatchPlan
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model(masked):
    return load(masked.folder)


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


TEXTS = ["the [MASK] was bad", "[MASK] film", "a lovely [MASK]", "the plot was [MASK] bad"]
ANSWERS = ["cast", "the", "plot", "was"]


def test_ranks_are_those_of_fill_mask(model):
    texts, answers = TEXTS * 12, [answer for answer in ANSWERS for _ in range(12)]  # more than one row holds
    ranks = answer_ranks(model, texts, answers, batch_tokens=64)
    ordinary = model.tokenizer.vocab_size - len(model.tokenizer.special_ids)
    for text, answer, rank in zip(texts[::5], answers[::5], ranks[::5].tolist(), strict=True):
        (proposals,) = model.fill_mask(text, k=ordinary)
        assert [x.token for x in proposals].index(answer) + 1 == rank
    assert len(set(ranks.tolist())) > 3


def test_metrics_and_what_is_left_out(model, masked, tmp_path, caplog):
    records = [{"text": t, "answer": a} for t, a in zip(TEXTS, ANSWERS, strict=True)]
    records += [{"text": "the <mask>", "answer": "film plot"}, {"text": "a [MASK]", "answer": "Überraschung"}]
    source = write(tmp_path / "a.jsonl", records)
    with caplog.at_level(logging.WARNING):
        actual = evaluate_probing(model, source)
    (record,) = caplog.records
    assert record.getMessage() == "2 of 6 answers are not one token and were left out: film plot, Überraschung."
    ranks = answer_ranks(model, TEXTS, ANSWERS)
    precisions = {"precision@1": (ranks == 1).mean(), "precision@10": (ranks <= 10).mean()}
    assert actual == pytest.approx({**precisions, "mrr": (1 / ranks).mean(), "examples": 4, "left_out": 2})
    renamed = write(tmp_path / "b.jsonl", [{"masked": x["text"], "obj": x["answer"]} for x in records])
    result = evaluate_task(masked.folder, "probing", [renamed], text_field="masked", label_field="obj")
    assert result[renamed] == pytest.approx(actual)
    assert json.loads((masked.folder / "results.json").read_text())["probing"][renamed]["left_out"] == 2


@pytest.mark.parametrize("name", ["bert-base-cased", "roberta-base", "modernbert", "deberta-v3"])
def test_published_tokenizers_know_the_words(model, shared_data, name):
    """Whatever the marks of words that a vocabulary has: seen through the ids alone, the model is a stand-in."""

    class Standin:
        tokenizer = Tokenizer.load(shared_data / "tokenizers" / name)
        max_length, placed, compute = 64, None, None

        class config:
            class model:
                vocab_size = 300_000

        def run(self, function, ids, batch_tokens, extra):
            self.ids = ids
            plan = BatchPlan(np.arange(len(ids)), np.arange(len(ids)), *np.zeros((2, len(ids)), int), len(ids), 64)
            self.answers = extra(plan)["answers"][:, 0]
            return ()

    texts = [f"Paris is the capital of {Standin.tokenizer.mask_token}.", f"The {Standin.tokenizer.mask_token} is red."]
    standin = Standin()
    answer_ranks(standin, texts * 2, ["France", "house", "Antidisestablishmentarianism", "house of cards"])
    assert len(standin.ids) == 2  # of the others none is one token
    words = [standin.tokenizer.decode([i]).strip() for i in standin.answers.tolist()]
    assert words == ["France", "house"]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "no mask", "answer": "film"}, "record 1: 'no mask' has 0 masks; write .MASK. once"),
        ({"text": "[MASK] and <mask>", "answer": "film"}, "has 2 masks"),
        ({"text": "[MASK]", "answer": ""}, "record 1: the answer '' is no word"),
        ({"text": "[MASK]", "answer": 3}, "the answer '3' is no word"),
        ({"text": "[MASK]", "answer": None}, "the answer 'None' is no word"),
        ({"text": "[MASK]"}, "no field 'answer'"),
        ({"text": "[MASK]", "answer": "[SEP]"}, "none of the 1 answers of .* is one token"),
        ({"text": "film " * 99 + "[MASK]", "answer": "film"}, "1 texts are longer than the 32 tokens"),
    ],
)
def test_hostile_records(model, tmp_path, record, message):
    with pytest.raises(ValueError, match=message):
        evaluate_probing(model, write(tmp_path / "a.jsonl", [record]))


def test_models_without_the_head(classifier, tmp_path):
    with pytest.raises(ValueError, match="was trained for Classification and cannot fill masks"):
        evaluate_probing(load(classifier.folder), write(tmp_path / "a.jsonl", [{"text": "[MASK]", "answer": "a"}]))
