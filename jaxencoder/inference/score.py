"""Pseudo-log-likelihoods of texts by a masked language model: the sum over tokens, each masked in turn.

Salazar et al. 2020, arXiv:1910.14659; masking the rest of the word too: Kauf and Ivanova 2023, arXiv:2305.10588.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.fill_mask import slot_vectors
from jaxencoder.inference.load import opened
from jaxencoder.inference.model import OpenedModel
from jaxencoder.kernels.cross_entropy import cross_entropy
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import output_table
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.records import chunks
from jaxencoder.text import buckets
from jaxencoder.text.sources import Record, read
from jaxencoder.text.windows import group_windows

_COPY_TOKENS = 1 << 20  # tokens of masked copies in memory at once


class PseudoLikelihood(NamedTuple):
    """A text's pseudo-log-likelihood in nats, and the number of tokens that it sums over."""

    log_likelihood: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token; nan for a text without tokens."""
        return math.exp(min(-self.log_likelihood / self.tokens, 700.0)) if self.tokens else math.nan


def score(model: OpenedModel, texts: Sequence[str], whole_words: bool = True) -> list[PseudoLikelihood]:
    """The pseudo-log-likelihood of each text; see `Model.score`."""
    if "mlm_head" not in model.params:
        raise ValueError("this model has no masked-language-model head and cannot score texts; use one that has")
    tokenizer = buckets.require_tokenizer(model.tokenizer)
    ids = model.tokenize(texts)
    losses, counts = np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    all_copies = _copies(ids, tokenizer.word_starts(), tokenizer.special_ids, tokenizer.mask_id, whole_words)
    for copies in group_windows(all_copies, _COPY_TOKENS):
        texts_of_copies = np.array([copy.text for copy in copies])
        np.add.at(losses, texts_of_copies, _losses(model, copies))
        np.add.at(counts, texts_of_copies, 1)
    return [PseudoLikelihood(-float(loss), int(count)) for loss, count in zip(losses, counts, strict=True)]


def score_source(
    run: str | Path | OpenedModel,
    source: str | Iterable[Record],
    fields: Sequence[str] = ("text",),
    whole_words: bool = True,
) -> Iterator[tuple[Record, tuple[PseudoLikelihood, ...]]]:
    """Yield each record of a source with the scores of its texts, in bounded memory; see `score`.

    `run` is anything that `load` takes, or an open model; `source` is as in `jaxencoder.text.sources`, or records;
    `fields` hold texts, such as an acceptable and an unacceptable sentence. ValueError for a record that lacks one.
    """
    records = read(source, text_field=fields[0], fields=fields[1:]) if isinstance(source, str) else source
    model = opened(run)
    for chunk in chunks(records, lambda record: len(record[fields[0]])):
        for record, field in itertools.product(chunk, fields[1:]):
            if not isinstance(record[field], str):
                raise ValueError(f"field {field!r} is {record[field]!r:.60}, not text; name another field")
        scores = [score(model, [record[field] for record in chunk], whole_words) for field in fields]
        yield from zip(chunk, zip(*scores, strict=True), strict=True)


class _Copy(NamedTuple):
    """A text with masked tokens, of which the one at `slot` is predicted: `target`."""

    text: int
    ids: np.ndarray
    slot: int
    target: int


def _copies(
    ids: Sequence[np.ndarray], starts: np.ndarray, special_ids: Sequence[int], mask_id: int, whole_words: bool
) -> Iterator[_Copy]:
    """Yield the masked copies of all texts."""
    for text, tokens in enumerate(ids):
        is_ordinary = ~np.isin(tokens, special_ids)
        for slot in np.flatnonzero(is_ordinary).tolist():
            copy = tokens.copy()
            copy[slot] = mask_id
            after = slot + 1
            while whole_words and after < len(copy) and is_ordinary[after] and not starts[tokens[after]]:
                copy[after] = mask_id
                after += 1
            yield _Copy(text, copy, slot, int(tokens[slot]))


def _losses(model: OpenedModel, copies: list[_Copy]) -> np.ndarray:
    """Loss in nats of each copy's target."""

    def targets_of(plan: buckets.BatchPlan) -> Batch:
        slots = np.zeros((plan.rows, buckets.max_texts_per_row(plan.length)), np.int32)
        targets = np.zeros_like(slots)
        slots[plan.row, plan.segment] = plan.start + [copies[i].slot for i in plan.texts]
        targets[plan.row, plan.segment] = [copies[i].target for i in plan.texts]
        return {"slots": slots, "targets": targets}

    losses = np.zeros(len(copies))
    function = partial(_slot_losses, model.config.model, model.compute)
    for plan, values in model.run(function, [copy.ids for copy in copies], extra=targets_of):
        losses[plan.texts] = values[plan.row, plan.segment]
    return losses


@partial(jax.jit, static_argnums=(0, 1))
def _slot_losses(encoder: EncoderConfig, compute: ComputeConfig, params: Params, rows: Batch) -> jax.Array:
    """Cross-entropy of rows["targets"] at rows["slots"], [B, E] each: float32 [B, E]."""
    x, bias = slot_vectors(encoder, compute, params, rows)
    weights = jnp.ones(rows["slots"].shape)
    return cross_entropy(x, output_table(params), bias, rows["targets"], weights, 16)[1].losses  # pyright: ignore[reportIndexIssue]  # custom_vjp
