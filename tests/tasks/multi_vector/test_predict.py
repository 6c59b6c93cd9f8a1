"""How well queries find their documents by the vectors of tokens."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jaxencoder.model.multi_vector import MultiVectorConfig
from jaxencoder.tasks.embeddings.predict import ranking_metrics
from jaxencoder.tasks.multi_vector import predict
from jaxencoder.text.config import DataConfig
from tests.tasks.conftest import write_records

RECORDS = [
    {"anchor": "0", "positive": "10", "negative": "50"},
    {"anchor": "0", "positive": "45", "negative": "30"},
    {"anchor": "20", "positive": "0", "negative": "90"},  # the first query, which is not ranked for itself
]


def angles(texts: list[str]) -> np.ndarray:
    """Text "30" has the vector at 30 degrees."""
    radians = np.radians(np.array(texts, np.float32))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_metrics(monkeypatch, tmp_path) -> None:
    """Those of embeddings, of texts that have a single token."""
    monkeypatch.setattr(predict, "checked_matrices", lambda model, config, texts, role: list(angles(texts)[:, None]))
    data = DataConfig(text_field="anchor", pair_field="positive")
    model: Any = SimpleNamespace(multi_vector=MultiVectorConfig(), config=SimpleNamespace(data=data))
    for block in (1, 256):
        monkeypatch.setattr(predict, "_QUERIES", block)
        result = predict.evaluate_token_vectors(model, write_records(tmp_path / "a.jsonl", RECORDS)).metrics
        expected = {"accuracy": pytest.approx(1 / 3), "mrr": pytest.approx((1 + 1 / 2 + 1 / 3) / 3)}
        assert result == expected | {"texts": 6, "examples": 3}
    numbers: dict[str, int] = {}
    tuples = [[numbers.setdefault(text, len(numbers)) for text in record.values()] for record in RECORDS]
    assert result == ranking_metrics(angles(list(numbers)), tuples, "cosine")
