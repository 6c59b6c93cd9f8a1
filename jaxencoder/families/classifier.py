"""A run's classifier of texts among a family's heads, both ways, where those compute the same.

It pools, transforms by tanh and projects. Where it pools the first token, that is BERT's pooler and classifier, or
RoBERTa's classifier; the heads of other families have another activation or a norm.
"""

import dataclasses
from collections.abc import Mapping

from jaxencoder.families.tables import Params
from jaxencoder.model.heads import HeadConfig

NAME = "classifier"  # among the parameters: {"dense": ..., "classifier": ...}


def places(heads: Mapping[str, HeadConfig], pooling: str) -> dict[str, tuple[str, str]] | None:
    """Where the classifier's parts stand among a family's heads, or None where no head computes what it does.

    BERT: {"dense": ("pooler", "dense"), "classifier": ("sequence_head", "output")}.

    Args:
        heads: of the family, or of what has them.
        pooling: of the classifier.
    """
    transform = HeadConfig(pooling, activation="tanh")
    projection = "sequence_head", "output"
    if _alone(heads.get("sequence_head")) == transform:
        return {"dense": ("sequence_head", "dense"), "classifier": projection}
    if _alone(heads.get("sequence_head")) in (None, HeadConfig("pooled")) and _alone(heads.get("pooler")) == transform:
        return {"dense": ("pooler", "dense"), "classifier": projection}
    return None


def to_heads(classifier: Params, pooling: str, heads: Mapping[str, HeadConfig]) -> Params | None:
    """The parameters of the family's heads, or None where the family has no such classifier."""
    found: Params = {}
    for part, (name, place) in (places(heads, pooling) or {}).items():
        found.setdefault(name, {})[place] = classifier[part]
    return found if found.keys() and found.keys() <= heads.keys() else None


def from_heads(params: Params, pooling: str, heads: Mapping[str, HeadConfig]) -> dict[str, tuple[str, Params]]:
    """The classifier's parts that heads hold: name of each -> (the path that it has there, its arrays).

    Args:
        params: of the heads that are there; a pooler alone gives "dense" alone.
        pooling, heads: as in `places`.
    """
    found = (places(heads, pooling) or {}).items()
    return {part: (f"{name}/{place}", params[name][place]) for part, (name, place) in found if name in params}


def _alone(head: HeadConfig | None) -> HeadConfig | None:
    """The head as it is before its projection; its global tokens are those of a run that pools the first token."""
    return head and dataclasses.replace(head, outputs=0, global_tokens="none", separator=None)
