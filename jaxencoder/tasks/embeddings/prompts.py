"""Prompts before texts: which ones, and the tokens that they put at the beginning of the texts of a batch."""

import functools
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.objectives.objective import Batch
from jaxencoder.tasks.embeddings.examples import is_anchor
from jaxencoder.text.batches import SOURCES
from jaxencoder.text.buckets import prompt_tokens, shared_tokens
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

NO_PROMPT = "none"  # a value of the settings of prompts


def chosen_prompt(setting: str, value: str, name: str, sentence: SentenceConfig) -> str:
    """The text of a prompt: the value of a setting, the stored prompt of that name, or if it is empty, of `name`.

    A model without a prompt of `name` has its default one. ValueError, which names the setting, for an unknown name.
    """
    if value == NO_PROMPT:
        return value
    try:
        return sentence.prompt(value or (name if name in dict(sentence.prompts) else None))
    except ValueError as error:
        raise ValueError(f"{setting} is {value!r}: {error}") from None


def prompt_counter(
    tokenizer: Tokenizer, prompts: Sequence[tuple[str, str]], are_pooled: bool
) -> Callable[[Batch], Batch]:
    """A function that adds the numbers of the prompts' tokens to a batch, int [B, E].

    They are "prompt_tokens", those of `shared_tokens`, and if prompts are not pooled "skipped", those of
    `buckets.prompt_tokens`, as in sentence-transformers.

    Args:
        tokenizer: of the texts.
        prompts: before the anchors and before the other texts of each source; of one source for all batches.
        are_pooled: whether the tokens of prompts count in the vector of a text.
    """

    @functools.cache  # counted where a batch needs it, not where a model is only built
    def arrays() -> dict[str, np.ndarray]:
        shared = [[shared_tokens(tokenizer, text) for text in pair] for pair in prompts]  # [sources, 2]
        if are_pooled:
            return {"prompt_tokens": np.array(shared)}
        skipped = [[prompt_tokens(tokenizer, text) if text else 0 for text in pair] for pair in prompts]
        return {"prompt_tokens": np.array(shared), "skipped": np.array(skipped)}

    def with_counts(batch: Batch) -> Batch:
        source = batch[SOURCES].max() if len(prompts) > 1 else 0
        numbers = {name: jnp.asarray(x)[source] for name, x in arrays().items()}
        return batch | {name: jnp.where(is_anchor(batch), *x) for name, x in numbers.items()}

    return with_counts
