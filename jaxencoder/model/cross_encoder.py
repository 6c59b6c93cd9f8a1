"""Cross-encoders: from the logits of a pair of texts to its score.

Nogueira and Cho 2019, "Passage re-ranking with BERT", arXiv:1901.04085.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import ACTIVATIONS, prompt_text


@dataclass(frozen=True)
class CrossEncoderConfig:
    """Steps around a published classifier of pairs that gives scores; its prompts precede the first text."""

    activation: str = "sigmoid"  # of ACTIVATIONS, applied to the logit
    prompts: tuple[tuple[str, str], ...] = ()  # (name, text) of each
    default_prompt: str | None = None

    def prompt(self, name_or_text: str | None) -> str:
        """The text to put before every first text; see `prompt_text`."""
        return prompt_text(dict(self.prompts), self.default_prompt, name_or_text)

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Scores of logits of any shape, float64, computed in float32 as by sentence-transformers."""
        return np.asarray(ACTIVATIONS[self.activation](jnp.asarray(logits, jnp.float32)), np.float64)
