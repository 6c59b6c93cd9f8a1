"""Cross-encoders: from the logits of a pair of texts to its score.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erf, expit

from jaxencoder.model.sentence import prompt_text

# Those of `sentence.ACTIVATIONS` in numpy: jax would compile each for every number of scores.
_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / np.float32(np.sqrt(2)))) / 2,
    "silu": lambda x: x * expit(x),
    "sigmoid": expit,
}


@dataclass(frozen=True)
class CrossEncoderConfig:
    """Steps around a published classifier of pairs that gives scores; its prompts precede the first text."""

    activation: str = "sigmoid"  # of `sentence.ACTIVATIONS`, applied to the logit
    prompts: tuple[tuple[str, str], ...] = ()  # (name, text) of each
    default_prompt: str | None = None

    def prompt(self, name_or_text: str | None) -> str:
        """The text to put before every first text; see `prompt_text`."""
        return prompt_text(dict(self.prompts), self.default_prompt, name_or_text)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Scores of logits of any shape, float64, computed in float32 as by sentence-transformers."""
        return np.asarray(_ACTIVATIONS[self.activation](np.asarray(logits, np.float32)), np.float64)
