"""Exact match and F1 of answers, as SQuAD's official script computes them.

Rajpurkar et al. 2016 (SQuAD), arXiv:1606.05250, and 2018 (SQuAD 2.0, questions without an answer), arXiv:1806.03822.
"""

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def answer_metrics(predicted: Sequence[str], true: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of words; with several true answers, the best match counts.

    Args:
        predicted: "" for no answer.
        true: the annotators' answers to each question; empty, or with an empty text, for none.

    Returns:
        exact and f1, in [0, 1]; the same prefixed with has_answer_ and no_answer_ if there are questions of both kinds;
        and examples, their number.
    """
    exact, f1 = [], []
    for prediction, answers in zip(predicted, true, strict=True):
        answers = [x for x in answers if normalize(x)] or [""]
        exact.append(max(float(normalize(prediction) == normalize(answer)) for answer in answers))
        f1.append(max(_f1(prediction, answer) for answer in answers))
    has_answer = np.array([any(map(normalize, answers)) for answers in true], bool)
    values = {"exact": np.array(exact), "f1": np.array(f1)}
    result = {name: float(x.mean()) if len(x) else 0.0 for name, x in values.items()}
    if has_answer.any() and not has_answer.all():
        for prefix, part in (("has_answer", has_answer), ("no_answer", ~has_answer)):
            result |= {f"{prefix}_{name}": float(x[part].mean()) for name, x in values.items()}
    return result | {"examples": len(exact)}


def normalize(text: str) -> str:
    """Remove case, punctuation, English articles and superfluous spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(predicted: str, true: str) -> float:
    a, b = normalize(predicted).split(), normalize(true).split()
    if not a or not b:
        return float(a == b)
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b))
