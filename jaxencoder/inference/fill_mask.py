"""Fill masks in a text: the masked-language-model head applied at the masks only."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.devices import compute_context
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import MlmHead, output_table, vocabulary_scores
from jaxencoder.model.layers import apply
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text import buckets
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


class FilledMask(NamedTuple):
    """A token for one mask, its probability, and the text with that mask filled."""

    token: str
    probability: float
    sentence: str


def fill_mask(model: OpenedModel, text: str, k: int = 5) -> list[list[FilledMask]]:
    """See `Model.fill_mask`. Special tokens are not proposed, but keep their share of the probability."""
    check_mlm_head(model)
    tokenizer = buckets.require_tokenizer(model.tokenizer)
    ordinary = tokenizer.vocab_size - len(tokenizer.special_ids)
    if not 1 <= k <= ordinary:
        raise ValueError(f"k is {k}; give 1 to {ordinary}, the tokens of the vocabulary")
    spans = [match.span() for match in re.finditer(re.escape(tokenizer.mask_token), text)]
    if not spans:
        raise ValueError(f"{_short(text)} has no mask to fill; write {tokenizer.mask_token} in place of a word")
    (ids,) = model.tokenize([text])
    slots = np.flatnonzero(ids == tokenizer.mask_id)
    if len(slots) < len(spans):
        raise ValueError(
            f"{len(spans) - len(slots)} of {len(spans)} masks lie beyond the {model.max_length} tokens that this model "
            "reads; shorten the text before them"
        )

    (plan,) = buckets.plan([len(ids)], buckets.row_lengths(model.max_length), 1)
    rows = model.place(buckets.batch([ids], plan, tokenizer.pad_id))
    excluded = excluded_tokens(tokenizer, model.config.model.vocab_size)
    # Powers of two, so that another number of masks or of results needs no other program.
    padded_slots = np.resize(slots, _power_of_two(len(slots)))
    with compute_context(model.mesh, model.compute):
        best, probabilities = _predict(
            model.config.model,
            model.compute,
            min(ordinary, _power_of_two(k)),
            model.device_params,
            rows,
            padded_slots,
            excluded,
        )
    best, probabilities = np.asarray(best), np.asarray(probabilities)
    starts = tokenizer.word_starts()[best]
    return [
        [_filled(tokenizer, text, spans[i], best[i, j], probabilities[i, j], starts[i, j]) for j in range(k)]
        for i in range(len(spans))
    ]


def check_mlm_head(model: OpenedModel) -> None:
    """ValueError for a model without a masked-language-model head."""
    if "mlm_head" not in model.params:
        trained = type(model.config.objective).__name__
        raise ValueError(
            "this checkpoint has no masked-language-model head and cannot fill masks; use one that has"
            if model.published
            else f"this run was trained for {trained} and cannot fill masks; use the run that it was initialized from"
        )


def excluded_tokens(tokenizer: Tokenizer, size: int) -> np.ndarray:
    """True for ids that are never proposed, special tokens and ids beyond the vocabulary: bool [size]."""
    excluded = np.zeros(size, bool)
    excluded[[*tokenizer.special_ids, *range(tokenizer.vocab_size, size)]] = True
    return excluded


@partial(jax.jit, static_argnums=(0, 1, 2))
def _predict(
    encoder: EncoderConfig,
    compute: ComputeConfig,
    k: int,
    params: Params,
    rows: Batch,
    slots: jax.Array,
    excluded: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The k best ids and their probabilities at slots [M] of a single row: int32 and float32 [M, k]."""
    x = encoder_output(encoder, compute, params, rows)[:, slots]
    x, bias = apply(MlmHead(encoder), params["mlm_head"], x)
    probabilities = jax.nn.softmax(vocabulary_scores(x[0], bias, output_table(params)))
    values, best = jax.lax.top_k(jnp.where(excluded, -1, probabilities), k)
    return best, values


def _filled(
    tokenizer: Tokenizer, text: str, span: tuple[int, int], index: int, probability: float, starts: bool
) -> FilledMask:
    index, probability = int(index), float(probability)
    token = tokenizer.decode([index]).strip() or tokenizer.token(index)
    before, after = text[: span[0]], text[span[1] :]
    if not starts:  # a piece that continues the word before it
        before = before.rstrip()
    return FilledMask(token, probability, before + token.removeprefix("##") + after)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
