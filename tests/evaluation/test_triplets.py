"""Accuracy of triplets: by hand, and as sentence-transformers computes it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxencoder.evaluation import vectors
from jaxencoder.evaluation.triplets import evaluate_triplets, read_triplets
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.model.sentence import SentenceConfig
from tests.evaluation.conftest import MODEL, write

RECORDS = [
    {"anchor": "0", "positive": "10", "negative": "50"},
    {"anchor": "20", "positive": "80", "negative_1": "90", "negative_2": "30"},
    {"anchor": "5", "positive": "10", "negatives": ["10", "40"]},  # a tie, which is an error
]


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_accuracy(similarity: str, embedded, tmp_path) -> None:
    peers = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    source = write(tmp_path / "a.jsonl", RECORDS)
    model: Any = SimpleNamespace(sentence=SentenceConfig(similarity=similarity))
    result = evaluate_triplets(model, [source])
    assert result == {"triplets": 5, "similarity": similarity, "accuracy": 0.6}

    class Encoder(peers.TripletEvaluator):
        def embed_inputs(self, model, sentences, **_):
            angles = np.radians(np.array(sentences, np.float64))
            return np.stack([np.cos(angles), np.sin(angles)], 1)

        def store_metrics_in_model_card_data(self, *_):
            pass

    columns = map(list, zip(*read_triplets([source]), strict=True))
    theirs = Encoder(*columns, main_similarity_function=similarity)
    name = f"{similarity}_accuracy"
    assert theirs(SimpleNamespace())[name] == pytest.approx(result["accuracy"])


def test_two_towers(monkeypatch, tmp_path) -> None:
    """Anchors are queries and the others documents, after the prompts of these roles or the given one."""
    seen = set()

    def embed(model, texts, options):
        seen.add((tuple(sorted(texts)), options.role, options.prompt))
        angles = np.radians(np.array(texts, np.float32))
        return np.stack([np.cos(angles), np.sin(angles)], 1)

    monkeypatch.setattr(vectors, "embed", embed)
    model: Any = SimpleNamespace(sentence=SentenceConfig(prompts=(("query", "q: "),), default_role="document"))
    source = write(tmp_path / "a.jsonl", RECORDS[:1])
    assert evaluate_triplets(model, [source])["accuracy"] == 1
    evaluate_triplets(model, [source], options=EmbedOptions(prompt="a: "))
    anchors, others = (("0",), "query"), (("10", "50"), "document")
    assert seen == {(*anchors, "query"), (*others, ""), (*anchors, "a: "), (*others, "a: ")}


def test_errors(embedded, tmp_path) -> None:
    with pytest.raises(ValueError, match="has the fields a, b, and no usual pair of texts; name them with"):
        evaluate_triplets(MODEL, [write(tmp_path / "a.jsonl", [{"a": "0", "b": "1"}])])
    source = write(tmp_path / "b.jsonl", [*RECORDS, {"anchor": "0", "positive": "1"}])
    with pytest.raises(ValueError, match="record 4: no text in negative, negative_1, ...; add one or drop the record"):
        evaluate_triplets(MODEL, [source])
