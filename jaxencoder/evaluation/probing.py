"""Masked-word probing: what does a masked language model know, that has been told nothing of it?

Petroni et al. 2019 (LAMA), arXiv:1909.01066: sentences with one word masked, and how far up the model ranks that word.
"""

import logging
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.inference.fill_mask import check_mlm_head, excluded_tokens
from jaxencoder.inference.model import OpenedModel
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.heads import MlmHead, output_table, vocabulary_scores
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.tasks.running import encoder_output
from jaxencoder.text.buckets import BatchPlan, max_texts_per_row
from jaxencoder.text.sources import read
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

MASKS = ("[MASK]", "<mask>")  # as published sets write the gap, whatever the tokenizer
_NAMED = 20  # answers that a warning names


def evaluate_probing(
    model: OpenedModel,
    source: str,
    text_field: str = "text",
    label_field: str = "answer",
    batch_tokens: int | None = None,
) -> dict[str, float]:
    """How far up a model ranks the words that are missing in some sentences.

    An answer that is not one token where it stands is left out, and one warning counts and names them.

    Args:
        model: one that `Model.fill_mask` takes.
        source: of records with a text that holds one mask, the tokenizer's own or one of MASKS, and an answer.
        text_field, label_field: of the text and of the answer.
        batch_tokens: as in `Model.embed`.

    Returns:
        precision@1 and precision@10, the shares of answers that are the best and among the ten best of all tokens but
        the special ones, mrr, the mean of 1 / rank, examples, their number, and left_out, that of the others.

    Raises:
        ValueError: a model that fills no masks, a text without its one mask or longer than the model reads, an answer
            that is no text, or no answer that is one token.
        OSError: the source cannot be read.
    """
    model = model.generator or model
    check_mlm_head(model)
    texts, answers = [], []
    for number, record in enumerate(read(source, text_field=text_field, required=(label_field,)), 1):
        texts.append(_with_mask(model.tokenizer, record[text_field], f"{source}, record {number}"))
        answers.append(record[label_field])
        if not isinstance(answers[-1], str) or not answers[-1].strip():
            raise ValueError(f"{source}, record {number}: the answer {str(answers[-1])[:60]!r} is no word; drop it")
    found = answer_ranks(model, texts, answers, batch_tokens)
    ranks = found[found > 0]
    others = [answer for answer, rank in zip(answers, found, strict=True) if not rank]
    if others:
        named = dict.fromkeys(others)
        which = ", ".join(list(named)[:_NAMED]) + (", ..." if len(named) > _NAMED else "")
        log.warning("%d of %d answers are not one token and were left out: %s.", len(others), len(found), which)
    if not len(ranks):
        raise ValueError(f"none of the {len(found)} answers of {source} is one token of this model's; take another")
    return {
        "precision@1": float((ranks == 1).mean()),
        "precision@10": float((ranks <= 10).mean()),
        "mrr": float((1 / ranks).mean()),
        "examples": len(ranks),
        "left_out": len(others),
    }


def answer_ranks(
    model: OpenedModel, texts: Sequence[str], answers: Sequence[str], batch_tokens: int | None = None
) -> np.ndarray:
    """The rank of each answer among all tokens but the special ones, at the mask of its text.

    Args:
        model: with a masked-language-model head.
        texts: each with the tokenizer's mask token once.
        answers: as many.
        batch_tokens: as in `Model.embed`.

    Returns:
        int64 [N], 1 for the most probable token; 0 for an answer that is not one token there.
    """
    tokenizer, length = model.tokenizer, model.max_length
    masked = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    if long := [text for text, ids in zip(texts, masked, strict=True) if len(ids) > length]:
        raise ValueError(
            f"{len(long)} texts have more than the {length} tokens that are read; shorten {long[0][:60]!r}"
        )
    slots = np.array([int(np.flatnonzero(ids == tokenizer.mask_id)[0]) for ids in masked], np.int64)
    targets = _tokens_of(tokenizer, texts, answers, masked, slots)
    excluded = excluded_tokens(tokenizer, model.config.model.vocab_size)
    targets[excluded[targets]] = -1
    chosen = np.flatnonzero(targets >= 0)
    ids = [masked[i] for i in chosen]

    def extra(plan: BatchPlan) -> Batch:
        places = np.zeros((2, plan.rows, max_texts_per_row(plan.length)), np.int32)
        own = chosen[plan.texts]
        places[0, plan.row, plan.segment], places[1, plan.row, plan.segment] = slots[own] + plan.start, targets[own]
        return {"slots": places[0], "answers": places[1]}

    ranks = np.zeros(len(texts), np.int64)
    function = partial(_ranks, model.config.model, model.compute, tuple(np.flatnonzero(excluded).tolist()))
    for plan, values in model.run(function, ids, batch_tokens, extra=extra):
        ranks[chosen[plan.texts]] = values[plan.row, plan.segment]
    return ranks


def _with_mask(tokenizer: Tokenizer, text: str, where: str) -> str:
    """The text with the tokenizer's own mask; ValueError unless there is one."""
    for mask in MASKS:
        text = text.replace(mask, tokenizer.mask_token)
    if (number := text.count(tokenizer.mask_token)) != 1:
        raise ValueError(f"{where}: {text[:60]!r} has {number} masks; write {tokenizer.mask_token} once")
    return text


def _tokens_of(
    tokenizer: Tokenizer, texts: Sequence[str], answers: Sequence[str], masked: list[np.ndarray], slots: np.ndarray
) -> np.ndarray:
    """The token that each answer is in place of the mask, int64 [N]; -1 where it is not one.

    Args:
        masked, slots: of each text the ids, and where among them the mask stands.
    """
    mask, found = tokenizer.mask_token, np.full(len(texts), -1, np.int64)
    filled = tokenizer.encode_batch([text.replace(mask, word) for text, word in zip(texts, answers, strict=True)])
    # Some vocabularies write what is around a mask in other tokens than around a word: there, as a word after another.
    ids, sizes = tokenizer.encode_ids([f"a {answer}" for answer in answers])
    last, before = np.cumsum(sizes) - 1, tokenizer.encode_ids(["a"])[1].item()
    for i, (text, own, other) in enumerate(zip(texts, masked, filled, strict=True)):
        with_word = other.ids
        alike = len(own) == len(with_word) and (np.delete(own, slots[i]) == np.delete(with_word, slots[i])).all()
        if alike:
            found[i] = with_word[slots[i]]
        elif sizes[i] == before + 1 and (text.startswith(mask) or " " + mask in text):
            found[i] = ids[last[i]]
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _ranks(
    encoder: EncoderConfig, compute: ComputeConfig, excluded: tuple[int, ...], params: Params, rows: Batch
) -> jax.Array:
    """Ranks int32 [B, E] of the tokens rows["answers"] [B, E] at rows["slots"] [B, E]; of equals the first counts."""
    x = jnp.take_along_axis(encoder_output(encoder, compute, params, rows), rows["slots"][..., None], axis=1)
    x, bias = MlmHead(encoder).apply({"params": params["mlm_head"]}, x)
    scores = vocabulary_scores(x, bias, output_table(params)).at[..., jnp.array(excluded)].set(-jnp.inf)
    answers = rows["answers"][..., None]
    own, ids = jnp.take_along_axis(scores, answers, axis=-1), jnp.arange(scores.shape[-1])
    return 1 + ((scores > own) | ((scores == own) & (ids < answers))).sum(-1)
