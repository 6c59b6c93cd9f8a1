"""Probing of masked language models: how high they rank the masked word of a sentence that states a fact.

Petroni et al. 2019 (LAMA), arXiv:1909.01066.
"""

import logging
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.fill_mask import check_mlm_head, excluded_tokens, slot_vectors
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import output_table, vocabulary_scores
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.records import numbered
from jaxencoder.text.buckets import BatchPlan, max_texts_per_row, require_tokenizer
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_MASKS = ("[MASK]", "<mask>")  # in published sets, whatever the tokenizer
_MAX_NAMED = 20  # answers in a warning


def evaluate_probing(
    model: OpenedModel,
    source: str,
    text_field: str = "text",
    label_field: str = "answer",
    batch_tokens: int | None = None,
) -> dict[str, float]:
    """Measure how high a model ranks the masked words of sentences.

    Answers that are not a single token in their sentence are left out, with one warning.

    Args:
        model: as for `Model.fill_mask`.
        source: records with a text that holds one mask, the tokenizer's or one of _MASKS, and an answer.
        text_field, label_field: of the text and the answer.
        batch_tokens: as in `Model.embed`.

    Returns:
        precision@1 and precision@10, the fractions of answers that rank first and among the first ten of all but the
        special tokens; mrr, the mean of 1 / rank; examples and left_out, the numbers of ranked and other answers.

    Raises:
        ValueError: the model has no masked-language-model head, a text has not exactly one mask or exceeds the model's
            length, an answer is not text, or no answer is a single token.
    """
    model = model.generator or model
    check_mlm_head(model)
    tokenizer = require_tokenizer(model.tokenizer)
    texts, answers = [], []
    for where, record in numbered(source, text_field, (label_field,)):
        text, answer = record[text_field], record[label_field]
        for mask in _MASKS:
            text = text.replace(mask, tokenizer.mask_token)
        if (number := text.count(tokenizer.mask_token)) != 1:
            raise ValueError(f"{where}: {text[:60]!r} has {number} masks; write {tokenizer.mask_token} once")
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(f"{where}: the answer {str(answer)[:60]!r} is no word; drop it")
        texts.append(text)
        answers.append(answer)
    all_ranks = answer_ranks(model, texts, answers, batch_tokens)
    ranks = all_ranks[all_ranks > 0]
    if left_out := [answer for answer, rank in zip(answers, all_ranks, strict=True) if not rank]:
        names = list(dict.fromkeys(left_out))
        listing = ", ".join(names[:_MAX_NAMED]) + (", ..." if len(names) > _MAX_NAMED else "")
        log.warning("%d of %d answers are not one token and were left out: %s.", len(left_out), len(answers), listing)
    if not len(ranks):
        raise ValueError(f"none of the {len(answers)} answers of {source} is one token of this model's; take another")
    return {
        "precision@1": float((ranks == 1).mean()),
        "precision@10": float((ranks <= 10).mean()),
        "mrr": float((1 / ranks).mean()),
        "examples": len(ranks),
        "left_out": len(left_out),
    }


def answer_ranks(
    model: OpenedModel, texts: Sequence[str], answers: Sequence[str], batch_tokens: int | None = None
) -> np.ndarray:
    """The rank of each answer among all but the special tokens at the one mask of its text: int64 [N].

    1 is the most probable token, and 0 stands for an answer that is not a single token.
    """
    tokenizer, length = require_tokenizer(model.tokenizer), model.max_length
    masked = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    if long := [text for text, ids in zip(texts, masked, strict=True) if len(ids) > length]:
        raise ValueError(
            f"{len(long)} texts are longer than the {length} tokens that are read; shorten {long[0][:60]!r}"
        )
    slots = np.array([int(np.flatnonzero(ids == tokenizer.mask_id)[0]) for ids in masked], np.int64)
    targets = _answer_tokens(tokenizer, texts, answers, masked, slots)
    excluded = excluded_tokens(tokenizer, model.config.model.vocab_size)
    targets[excluded[targets]] = -1
    rankable = np.flatnonzero(targets >= 0)
    ids = [masked[i] for i in rankable]

    def extra(plan: BatchPlan) -> Batch:
        values = np.zeros((2, plan.rows, max_texts_per_row(plan.length)), np.int32)
        examples = rankable[plan.texts]
        values[:, plan.row, plan.segment] = slots[examples] + plan.start, targets[examples]
        return {"slots": values[0], "answers": values[1]}

    ranks = np.zeros(len(texts), np.int64)
    function = partial(_ranks, model.config.model, model.compute, tuple(np.flatnonzero(excluded).tolist()))
    for plan, values in model.run(function, ids, batch_tokens, extra=extra):
        ranks[rankable[plan.texts]] = values[plan.row, plan.segment]
    return ranks


def _answer_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], answers: Sequence[str], masked: list[np.ndarray], slots: np.ndarray
) -> np.ndarray:
    """The id of each answer in place of the mask, at index `slots` of the ids `masked` of its text: int64 [N].

    -1 stands for an answer that is not a single token.
    """
    mask, tokens = tokenizer.mask_token, np.full(len(texts), -1, np.int64)
    filled = tokenizer.encode_batch([text.replace(mask, word) for text, word in zip(texts, answers, strict=True)])
    # Some vocabularies tokenize the text around a mask and around a word differently. There, an answer that begins a
    # word has its token after another word, "a".
    ids, sizes = tokenizer.encode_ids([f"a {answer}" for answer in answers])
    last, before = np.cumsum(sizes) - 1, tokenizer.encode_ids(["a"])[1].item()
    for i, (text, with_mask, encoding) in enumerate(zip(texts, masked, filled, strict=True)):
        same_length = len(with_mask) == len(encoding.ids)
        if same_length and (np.delete(with_mask, slots[i]) == np.delete(encoding.ids, slots[i])).all():
            tokens[i] = encoding.ids[slots[i]]
        elif sizes[i] == before + 1 and (text.startswith(mask) or " " + mask in text):
            tokens[i] = ids[last[i]]
    return tokens


@partial(jax.jit, static_argnums=(0, 1, 2))
def _ranks(
    encoder: EncoderConfig, compute: ComputeConfig, excluded: tuple[int, ...], params: Params, rows: Batch
) -> jax.Array:
    """Ranks int32 [B, E] of the tokens rows["answers"] [B, E] at rows["slots"] [B, E]; of equals the first counts."""
    x, bias = slot_vectors(encoder, compute, params, rows)
    scores = vocabulary_scores(x, bias, output_table(params)).at[..., jnp.array(excluded)].set(-jnp.inf)
    answers = rows["answers"][..., None]
    answer_scores, ids = jnp.take_along_axis(scores, answers, axis=-1), jnp.arange(scores.shape[-1])
    return 1 + ((scores > answer_scores) | ((scores == answer_scores) & (ids < answers))).sum(-1)
