"""Fill masks in a text: the masked-language-model head applied at the masks only."""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
    if not isinstance(text, str):
        raise ValueError(f"text is {text!r:.60}, not a string; fill the masks of one text at a time")
    spans = [match.span() for match in re.finditer(re.escape(tokenizer.mask_token), text)]
    if not spans:
        quoted = text if len(text) <= 60 else f"{text[:60]}..."
        raise ValueError(f"{quoted!r} has no mask to fill; write {tokenizer.mask_token} in place of a word")
    (ids,) = model.tokenize([text])
    slots = np.flatnonzero(ids == tokenizer.mask_id)
    if len(slots) < len(spans):
        problem = f"{len(spans) - len(slots)} of {len(spans)} masks lie beyond the {model.max_length} tokens"
        raise ValueError(f"{problem} that this model reads; shorten the text before them")
    # Powers of two, so that another number of masks or of results needs no other program.
    slots = np.resize(slots, buckets.padded_size(len(slots)))
    extra = {"slots": slots[None], "excluded": excluded_tokens(tokenizer, model.config.model.vocab_size)[None]}
    function = partial(_predict, model.config.model, model.compute, min(ordinary, buckets.padded_size(k)))
    ((_, (probabilities, best)),) = model.run(function, [ids], extra=lambda plan: extra)
    starts = tokenizer.word_starts()
    return [
        [_filled(tokenizer, text, span, i, p, bool(starts[i])) for i, p in zip(tokens, values, strict=True)]
        for span, tokens, values in zip(spans, best[0, :, :k].tolist(), probabilities[0, :, :k].tolist(), strict=False)
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
    encoder: EncoderConfig, compute: ComputeConfig, k: int, params: Params, rows: Batch
) -> tuple[jax.Array, jax.Array]:
    """The k largest probabilities at rows["slots"] [B, M], and their ids: float32 and int32 [B, M, k]."""
    x, bias = slot_vectors(encoder, compute, params, rows)
    probabilities = jax.nn.softmax(vocabulary_scores(x, bias, output_table(params)))
    return jax.lax.top_k(jnp.where(rows["excluded"][:, None], -1, probabilities), k)


def slot_vectors(
    encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch
) -> tuple[jax.Array, jax.Array]:
    """The output of `MlmHead` at rows["slots"] [B, M]: [B, M, E] and the bias [V]."""
    x = jnp.take_along_axis(encoder_output(encoder, compute, params, rows), rows["slots"][..., None], axis=1)
    return apply(MlmHead(encoder), params["mlm_head"], x)


def _filled(
    tokenizer: Tokenizer, text: str, span: tuple[int, int], index: int, probability: float, starts: bool
) -> FilledMask:
    token = tokenizer.decode([index]).strip() or tokenizer.token(index)
    before = text[: span[0]] if starts else text[: span[0]].rstrip()  # a later piece continues the word before it
    return FilledMask(token, probability, before + token.removeprefix("##") + text[span[1] :])
