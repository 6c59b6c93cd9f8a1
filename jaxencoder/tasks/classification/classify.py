"""Scores and predictions of a classifier for texts or pairs of any length.

Windows over long texts: Pappagari et al. 2019, arXiv:1910.10781. Here the windows' probabilities are averaged, each
weighted by the number of tokens that belong to it, or pooled otherwise.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import scipy.special

from jaxencoder.model.cross_encoder import CrossEncoderConfig
from jaxencoder.tasks.classification.objective import ONE_CLASS, SEVERAL_CLASSES, VALUE, Classification
from jaxencoder.tasks.classification.windows import pair_parts, text_parts
from jaxencoder.tasks.running import Scores, head_scores, objective_scores, row_length, score_texts
from jaxencoder.tasks.task import TaskModel
from jaxencoder.text import buckets
from jaxencoder.text.config import WindowConfig
from jaxencoder.text.tokenizers.encoding import as_list
from jaxencoder.text.windows import GROUP_TOKENS, group_windows

Threshold = float | Mapping[str, float]

PUBLISHED_HEAD = "sequence_head"  # its name among the parameters of a published classifier


class Prediction(NamedTuple):
    """The most probable class, its probability, and those of all classes by name; or a value, nan and no classes.

    With multi_label, the classes above the threshold and their probabilities are lists, the most probable first.
    """

    prediction: str | list[str] | float
    probability: float | list[float]
    probabilities: dict[str, float]


class ClassScores(NamedTuple):
    """A classifier's scores of N texts.

    `scores`, float64 [N, labels], are logits, or log-probabilities of pooled windows, so that a softmax gives
    probabilities of both (a sigmoid with multi_label); values are [N, 1].
    """

    scores: np.ndarray
    tokens: np.ndarray  # int64 [N], of each text or pair before truncation, special tokens included
    truncated: int  # number of texts that lost tokens


class ClassifierHead(NamedTuple):
    """A model's classifier of texts."""

    names: tuple[str, ...]  # of the classes, in order of id; empty for values
    outputs: int
    kind: str  # a value of problem_type
    scores: Scores  # [B, E, outputs] for packed rows


def classifier_head(model: TaskModel) -> ClassifierHead:
    """The model's classifier; ValueError if there is none, or one of a problem_type that cannot be predicted."""
    objective, published = model.config.objective, model.published
    if published is None and isinstance(objective, Classification) and "classifier" in model.params:
        outputs, kind, scores = objective.labels, objective.problem_type, objective_scores(model)
    elif PUBLISHED_HEAD in model.heads:
        outputs = model.heads[PUBLISHED_HEAD].outputs
        settings = {} if published is None else published.settings
        kind = settings.get("problem_type") or (ONE_CLASS if outputs > 1 else VALUE)
        if outputs == 1 and model.cross_encoder is not None:
            kind = VALUE  # whatever loss it was trained with
        if kind not in (ONE_CLASS, SEVERAL_CLASSES, VALUE) or (kind == VALUE and outputs > 1):
            raise ValueError(
                f"this model's config.json has problem_type {kind!r} and {outputs} labels; only {ONE_CLASS}, "
                f"{SEVERAL_CLASSES}, or {VALUE} of one value, can be predicted"
            )
        heads = tuple((name, model.heads[name]) for name in ("pooler", PUBLISHED_HEAD) if name in model.heads)
        scores = partial(head_scores, model.config.model, model.compute, heads)
    else:
        kind = f"trained for {type(objective).__name__}" if published is None else "no run"
        raise ValueError(
            f"this model is {kind} and has no classifier; use a run of finetune_classification, or a published model "
            "for sequence classification"
        )
    names = () if kind == VALUE else model.labels or tuple(map(str, range(outputs)))
    return ClassifierHead(names, outputs, kind, scores)


def classify(
    model: TaskModel,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    windows: WindowConfig | None = None,
    batch_tokens: int | None = None,
    threshold: Threshold | None = None,
) -> list[Prediction]:
    """The prediction for each text, or pair of texts, by a run of Classification or a published classifier.

    Args:
        texts, pairs, batch_tokens: as in `Model.classify`.
        windows: how to split texts longer than the rows of training, of a pair the second one; None truncates them,
            with one warning. In a pair each window has the first text, unless that leaves less than a quarter of a row.
            A stride of at most a quarter of a row fits after any first text. Probabilities (or values) of windows are
            pooled; "max" normalizes those of exclusive classes again.
        threshold: see `thresholds`.

    Raises:
        ValueError: no list of strings, no classifier, "learned" pooling of windows, a stride that skips tokens, or an
            unknown threshold.
    """
    head = classifier_head(model)
    minimum = thresholds(head, threshold)
    result = score(model, texts, pairs, windows, batch_tokens)
    buckets.warn_truncated(result.truncated, len(result.tokens), row_length(model))
    return decide(result.scores, head.names, minimum)


def thresholds(head: ClassifierHead, threshold: Threshold | None) -> np.ndarray | None:
    """The probability from which a text has each class, float64 [labels]; None for exclusive classes and values.

    `threshold` is one for all classes, or some by their names; 0.5 for others, and for None. ValueError for one without
    multi_label, of an unknown class, or outside [0, 1].
    """
    if head.kind != SEVERAL_CLASSES:
        if threshold is not None:
            raise ValueError(f"threshold is {threshold}, but this run predicts one class or a value; leave it out")
        return None
    threshold = 0.5 if threshold is None else threshold
    by_name = threshold if isinstance(threshold, Mapping) else dict.fromkeys(head.names, threshold)
    for name, value in by_name.items():
        if name not in head.names:
            classes = ", ".join(head.names[:20])
            raise ValueError(f"there is a threshold for {name!r}, which is none of the classes {classes}")
        if not 0 <= value <= 1:
            raise ValueError(f"threshold is {value}; give a probability from 0 to 1")
    return np.array([by_name.get(name, 0.5) for name in head.names])


def decide(scores: np.ndarray, names: Sequence[str], minimum: np.ndarray | None = None) -> list[Prediction]:
    """The predictions of N scores [N, labels]; no names for values, and the result of `thresholds` as `minimum`."""
    if not names:
        return [Prediction(float(value), float("nan"), {}) for value in scores[:, 0]]
    probabilities = scipy.special.softmax(scores, axis=-1) if minimum is None else scipy.special.expit(scores)
    predictions = []
    for best, row in zip(scores.argmax(-1), probabilities, strict=True):
        by_name = dict(zip(names, row.tolist(), strict=True))
        if minimum is None:
            predictions.append(Prediction(names[int(best)], float(row[best]), by_name))
        else:
            ranked: list[int] = np.argsort(-row, kind="stable").tolist()
            above = [i for i in ranked if row[i] >= minimum[i]]  # by index: two classes may have one name
            predictions.append(Prediction([names[i] for i in above], row[above].tolist(), by_name))
    return predictions


def score(
    model: TaskModel,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    windows: WindowConfig | None = None,
    batch_tokens: int | None = None,
    prompt: str | None = None,
) -> ClassScores:
    """The scores of each text; arguments and errors as in `classify`, without a warning of truncated texts.

    A cross-encoder's activation is applied to its values. `prompt`, a text or the name of a stored one, precedes the
    first text of a pair; None: the cross-encoder's default prompt, if it has one.
    """
    head, limit = classifier_head(model), row_length(model)
    if windows is not None and windows.pooling == "learned":
        raise ValueError("window pooling is 'learned', which is for embeddings; give length, mean, max or first")
    tokenizer = buckets.require_tokenizer(model.tokenizer)
    texts = as_list(texts)
    if pairs is None:
        parts = text_parts(tokenizer, texts, limit, windows)
    else:
        prefix = (model.cross_encoder or CrossEncoderConfig()).prompt(prompt)
        if prefix:  # what is no string is refused below
            texts = [prefix + text if isinstance(text, str) else text for text in texts]
        parts = pair_parts(tokenizer, texts, pairs, limit, windows)
    tokens, truncated, owners, weights = np.zeros(len(texts), np.int64), 0, [], []
    scores = [np.zeros((0, head.outputs))]
    for group in group_windows(parts, GROUP_TOKENS):
        types = None if pairs is None else [part.type_ids for part in group if part.type_ids is not None]
        ids = [part.ids for part in group]
        scores.append(score_texts(model, head.scores, head.outputs, ids, types, batch_tokens, limit))
        for part in group:
            owners.append(part.text)
            weights.append(part.weight)
            tokens[part.text] += part.tokens
            truncated += part.is_truncated
    pooling = "length" if windows is None else windows.pooling or "length"
    owners, weights = np.array(owners, np.int64), np.array(weights, np.int64)
    pooled = _pool(np.concatenate(scores), owners, weights, len(texts), head.kind, pooling)
    if head.kind == VALUE and model.cross_encoder is not None:
        pooled = model.cross_encoder.scores(pooled)
    return ClassScores(pooled, tokens, truncated)


def _pool(
    scores: np.ndarray, owners: np.ndarray, weights: np.ndarray, texts: int, kind: str, pooling: str
) -> np.ndarray:
    """Scores of texts [texts, labels] from those of their parts [parts, labels]; a single part keeps its scores.

    `owners` [parts] is the text of each part, `weights` [parts] its number of tokens, `pooling` as in `WindowConfig`.
    """
    weights = weights if pooling == "length" else np.ones_like(weights)
    total = np.bincount(owners, weights, texts)

    def log_mean(log_p: np.ndarray) -> np.ndarray:
        mean = np.full((texts, scores.shape[1]), -np.inf)
        np.logaddexp.at(mean, owners, log_p + np.log(weights / total[owners])[:, None])
        return mean

    log_p = scipy.special.log_softmax(scores, axis=-1) if kind == ONE_CLASS else scores
    if pooling == "max":
        pooled = np.full((texts, scores.shape[1]), -np.inf)
        np.maximum.at(pooled, owners, log_p)
    elif kind == VALUE:
        return (np.bincount(owners, weights * scores[:, 0], texts) / total)[:, None]
    elif kind == ONE_CLASS:
        pooled = log_mean(log_p)
    else:  # logits of the average probability of each class
        pooled = log_mean(scipy.special.log_expit(scores)) - log_mean(scipy.special.log_expit(-scores))
    if kind != VALUE:
        is_single = np.bincount(owners, minlength=texts)[owners] == 1
        pooled[owners[is_single]] = scores[is_single]
    return pooled
