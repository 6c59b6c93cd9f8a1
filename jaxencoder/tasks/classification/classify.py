"""What a classifier says of texts or pairs of any length: long ones are cut, or read in overlapping windows.

Long texts in overlapping segments: Pappagari et al. 2019, arXiv:1910.10781; here the segments' probabilities are
averaged, each weighted by the number of tokens of which it knows most, or pooled otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np
import scipy.special

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.outputs import text_scores
from jaxencoder.inference.windows import GROUP, Long, Reading, grouped
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.objective import Batch, Objective, ObjectiveConfig, Params
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.classification.windows import parts_of_pairs, parts_of_texts
from jaxencoder.text import buckets

ScorePooling = Literal["mean", "max", "first", "length"]  # of windows, as in `windows.Reading`
Threshold = float | Mapping[str, float]

SEQUENCE_HEAD = "sequence_head"  # of a published classifier, among the parameters
# config.json's problem_type
_CLASSES, _SEVERAL, _VALUES = "single_label_classification", "multi_label_classification", "regression"


class Classified(NamedTuple):
    """The name of the most probable class, its probability, and those of all by name; or a value, nan and nothing.

    Of a run that gives a text any number of classes: lists of those above the threshold, the most probable one first.
    """

    prediction: str | list[str] | float
    probability: float | list[float]
    probabilities: dict[str, float]


class Scored(NamedTuple):
    """What the classifier gives for N texts.

    scores: float64 [N, labels]: logits, or log-probabilities where windows were averaged, so that a softmax makes
    probabilities of both (a sigmoid, of a run with several classes for a text); of values, [N, 1], the values.
    tokens: int64 [N], of each text or pair before anything was cut, special tokens included.
    cut: how many lost tokens.
    """

    scores: np.ndarray
    tokens: np.ndarray
    cut: int


def class_names(model: OpenedModel) -> tuple[str, ...]:
    """Of the classes that a model tells apart, in order of id; none for one that predicts values.

    Raises:
        ValueError: the model has no classifier.
    """
    if _is_published(model):
        return () if _head(model).values else model.labels
    if not classifies(model):
        raise ValueError(_no_classifier(model))
    objective = model.config.objective
    if objective.labels == 1 or objective.class_names:
        return objective.class_names
    from jaxencoder.training.setup import training_rows

    # A run that was trained before its configuration had the names.
    return tuple(training_rows(model.config, model.tokenizer)[0][0].meta["labels"])


def classify(
    model: OpenedModel,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    batch_tokens: int | None = None,
    threshold: Threshold | None = None,
    window_pooling: ScorePooling | None = None,
) -> list[Classified]:
    """The prediction for each text; see `Model.classify`."""
    names = class_names(model)
    least = thresholds(model, threshold)
    found = score(model, texts, pairs, long, stride, batch_tokens, window_pooling)
    buckets.warn_of_cuts(found.cut, len(found.tokens), row_length(model))
    return classified(found.scores, names, least)


def thresholds(model: OpenedModel, threshold: Threshold | None) -> np.ndarray | None:
    """The probability from which on a text has each class, float64 [labels]; None for a run that predicts but one.

    Args:
        threshold: one for all classes, or some by their names; 0.5 for others, and for None.

    Raises:
        ValueError: a threshold for such a run, of an unknown class, or outside [0, 1].
    """
    names = class_names(model)
    if not decides_several(model):
        if threshold is not None:
            raise ValueError(f"threshold is {threshold}, but this run predicts one class or a value; leave it out")
        return None
    given = (
        threshold if isinstance(threshold, Mapping) else dict.fromkeys(names, 0.5 if threshold is None else threshold)
    )
    for name, value in given.items():
        if name not in names:
            raise ValueError(f"there is a threshold for {name!r}, which is none of the classes {', '.join(names[:20])}")
        if not 0 <= value <= 1:
            raise ValueError(f"threshold is {value}; give a probability from 0 to 1")
    return np.array([given.get(name, 0.5) for name in names])


def classified(scores: np.ndarray, names: Sequence[str], least: np.ndarray | None = None) -> list[Classified]:
    """The prediction for each of N scores [N, labels], by the names of the classes, or of values by none.

    Args:
        least: of `thresholds`.
    """
    if not names:
        return [Classified(float(value), float("nan"), {}) for value in scores[:, 0]]
    if least is not None:
        return [_several(share, names, least) for share in scipy.special.expit(scores)]
    shares = scipy.special.softmax(scores, axis=-1)
    return [
        Classified(names[best], share[best], dict(zip(names, share, strict=True)))
        for best, share in zip(scores.argmax(-1).tolist(), shares.tolist(), strict=True)
    ]


def _several(shares: np.ndarray, names: Sequence[str], least: np.ndarray) -> Classified:
    above = [i for i in np.argsort(-shares, kind="stable").tolist() if shares[i] >= least[i]]
    chosen = [names[i] for i in above], shares[above].tolist()
    return Classified(*chosen, dict(zip(names, shares.tolist(), strict=True)))


def row_length(model: OpenedModel) -> int:
    """Tokens of a text or pair, special ones included, that a classifier reads at once, as it was trained to."""
    return model.limit(model.config.data.row_length)


def score(
    model: OpenedModel,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    long: Long = "truncate",
    stride: int | None = None,
    batch_tokens: int | None = None,
    window_pooling: ScorePooling | None = None,
) -> Scored:
    """What the classifier gives for each text; see `Model.classify`. No warning is given of texts that were cut."""
    head, limit = _head(model), row_length(model)
    reading = Reading.of(long, stride, window_pooling, known=get_args(ScorePooling))
    tokenizer, texts = buckets.readable(model.tokenizer), texts if isinstance(texts, str | bytes) else list(texts)
    if pairs is None:
        parts = parts_of_texts(tokenizer, texts, limit, reading)
    else:
        parts = parts_of_pairs(tokenizer, texts, pairs, limit, reading)
    tokens, cut, owners, weights, found = np.zeros(len(texts), np.int64), 0, [], [], [np.zeros((0, head.outputs))]
    for group in grouped(parts, GROUP):
        types = None if pairs is None else [part.type_ids for part in group]
        ids = [part.ids for part in group]
        found.append(document_scores(model, head.scores, head.outputs, ids, types, batch_tokens, limit))
        for part in group:
            owners.append(part.text)
            weights.append(part.weight)
            tokens[part.text] += part.tokens
            cut += part.cut
    scores, owners, weights = np.concatenate(found), np.array(owners, np.int64), np.array(weights, np.int64)
    if reading.pooling == "max":
        logs = scipy.special.log_softmax(scores, axis=-1) if not (head.values or head.several) else scores
        most = np.full((len(tokens), scores.shape[1]), -np.inf)
        np.maximum.at(most, owners, logs)
        return Scored(most if head.values else _with_whole(most, scores, owners), tokens, cut)
    weights = weights if reading.pooling == "length" else np.ones_like(weights)
    average = _mean_value if head.values else _mean_odds if head.several else _mean_probability
    return Scored(average(scores, owners, weights, len(tokens)), tokens, cut)


def document_scores(
    model: OpenedModel,
    function: Callable[[Params, Batch], jax.Array],
    outputs: int,
    ids: Sequence[np.ndarray],
    type_ids: Sequence[np.ndarray] | None,
    batch_tokens: int | None = None,
    limit: int | None = None,
    progress: Callable[[int], object] = lambda number: None,
) -> np.ndarray:
    """The scores of documents, float64 [N, outputs].

    Args:
        function: gives them, [B, E, outputs], for packed rows; `run_scores` is that of a run.
        ids, type_ids: of the tokens of each document, special ones included; no type_ids for single texts.
        limit: the most tokens of one.
    """

    def more(plan: buckets.Plan) -> Batch:
        found = {"labels": np.zeros((plan.rows, buckets.texts_in_a_row(plan.length)), np.int32)}  # for its shape alone
        if type_ids is not None:
            types = np.zeros((plan.rows, plan.length), np.int32)
            for i, row, start in zip(plan.texts, plan.row, plan.start, strict=True):
                types[row, start : start + len(ids[i])] = type_ids[i]
            found["token_type_ids"] = types
        return found

    scores = np.zeros((len(ids), outputs))
    for plan, values in model.run(function, ids, batch_tokens, limit, more):
        scores[plan.texts] = values[plan.row, plan.place]
        progress(len(plan.texts))
    return scores


def classifies(model: OpenedModel) -> bool:
    """Whether a model has a classifier of texts: a run's, or a published one."""
    is_run = model.published is None and isinstance(model.config.objective, Classification)
    return _is_published(model) or (is_run and "classifier" in model.params)


def decides_several(model: OpenedModel) -> bool:
    """Whether a text may have several of the classes; ValueError for a model without a classifier."""
    return _head(model).several


def _is_published(model: OpenedModel) -> bool:
    return model.published is not None and SEQUENCE_HEAD in model.heads


def run_scores(model: OpenedModel) -> Callable[[Params, Batch], jax.Array]:
    """The scores(params, rows) -> [B, E, outputs] of a run's objective."""
    return partial(_scores, model.config.model, model.compute, model.config.objective)


class _Head(NamedTuple):
    """A classifier: how many numbers it gives, and scores(params, rows) -> [B, E, outputs].

    Either they are values, or of one class for a text, or of several.
    """

    outputs: int
    values: bool
    several: bool
    scores: Callable[[Params, Batch], jax.Array]


def _head(model: OpenedModel) -> _Head:
    """The model's classifier.

    Raises:
        ValueError: it has none, or one that tells neither classes apart nor predicts one value.
    """
    if not classifies(model):
        raise ValueError(_no_classifier(model))
    encoder, compute, objective = model.config.model, model.compute, model.config.objective
    if not _is_published(model):
        return _Head(objective.labels, objective.labels == 1, objective.multi_label, run_scores(model))
    heads = tuple((name, head) for name, head in model.heads.items() if name in ("pooler", SEQUENCE_HEAD))
    outputs = model.heads[SEQUENCE_HEAD].outputs
    kind = model.published.settings.get("problem_type") or (_CLASSES if outputs > 1 else _VALUES)
    if kind not in (_CLASSES, _SEVERAL, _VALUES) or (kind == _VALUES and outputs > 1):
        raise ValueError(
            f"this model's config.json has problem_type {kind!r} and {outputs} labels; only {_CLASSES}, {_SEVERAL}, or "
            f"{_VALUES} of one value, can be predicted"
        )
    return _Head(outputs, kind == _VALUES, kind == _SEVERAL, partial(text_scores, encoder, compute, heads))


def _no_classifier(model: OpenedModel) -> str:
    kind = f"trained for {type(model.config.objective).__name__}" if model.published is None else "no run"
    return (
        f"this model is {kind} and has no classifier; use a run of finetune_classification, or a published model for "
        "sequence classification"
    )


def _mean_value(scores: np.ndarray, owners: np.ndarray, weights: np.ndarray, texts: int) -> np.ndarray:
    total, weight = np.zeros((texts, 1)), np.zeros((texts, 1))
    np.add.at(total, owners, scores * weights[:, None])
    np.add.at(weight, owners, weights[:, None])
    return total / weight


def _mean_probability(scores: np.ndarray, owners: np.ndarray, weights: np.ndarray, texts: int) -> np.ndarray:
    """Logits of texts in one part as they are, of others the log of the parts' average probabilities."""
    mean = _log_mean(scipy.special.log_softmax(scores, axis=-1), owners, weights, texts)
    return _with_whole(mean, scores, owners)


def _mean_odds(scores: np.ndarray, owners: np.ndarray, weights: np.ndarray, texts: int) -> np.ndarray:
    """Logits of texts in one part as they are, of others those of the parts' average probability of each class."""
    sides = (_log_mean(scipy.special.log_expit(x), owners, weights, texts) for x in (scores, -scores))
    return _with_whole(np.subtract(*sides), scores, owners)


def _log_mean(logs: np.ndarray, owners: np.ndarray, weights: np.ndarray, texts: int) -> np.ndarray:
    total = np.bincount(owners, weights, texts)
    mean = np.full((texts, logs.shape[1]), -np.inf)
    np.logaddexp.at(mean, owners, logs + np.log(weights / total[owners])[:, None])
    return mean


def _with_whole(mean: np.ndarray, scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The means [texts, labels], with the scores of texts in one part in their places."""
    alone = np.bincount(owners, minlength=len(mean))[owners] == 1
    mean[owners[alone]] = scores[alone]
    return mean


@partial(jax.jit, static_argnums=(0, 1, 2))
def _scores(
    encoder: EncoderConfig, compute: ComputeConfig, objective: ObjectiveConfig, params: Params, rows: Batch
) -> jax.Array:
    return _built(encoder, compute, objective).scores(params, rows, jax.random.key(0), False)


@lru_cache
def _built(encoder: EncoderConfig, compute: ComputeConfig, objective: ObjectiveConfig) -> Objective:
    return objective.build(encoder, compute, None)  # a classifier asks nothing of the vocabulary
