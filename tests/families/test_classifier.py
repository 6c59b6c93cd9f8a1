"""A run's classifier as a family's heads and back: whole, in part, or not at all."""

import numpy as np
import pytest

from jaxencoder.families.classifier import from_heads, places, to_heads
from jaxencoder.model.heads import HeadConfig

POOLED = {"pooler": HeadConfig("cls", activation="tanh"), "sequence_head": HeadConfig("pooled", 3)}
OWN = {"pooler": HeadConfig("cls", activation="tanh"), "sequence_head": HeadConfig("cls", 3, "tanh")}
CLASSIFIER = {name: {"kernel": np.zeros(1), "bias": np.zeros(1)} for name in ("dense", "classifier")}


@pytest.mark.parametrize(("heads", "names"), [(POOLED, ["pooler", "sequence_head"]), (OWN, ["sequence_head"])])
def test_there_and_back(heads: dict, names: list[str]) -> None:
    found = to_heads(CLASSIFIER, "cls", heads)
    assert list(found) == names
    back = from_heads(found, "cls", heads)
    assert {name: arrays for name, (_, arrays) in back.items()} == CLASSIFIER
    for path, arrays in back.values():
        head, _, part = path.partition("/")
        assert found[head][part] is arrays


def test_a_pooler_alone_is_the_transform() -> None:
    pooler = {"pooler": {"dense": CLASSIFIER["dense"]}}
    assert from_heads(pooler, "cls", POOLED) == {"dense": ("pooler/dense", CLASSIFIER["dense"])}
    assert from_heads(pooler, "cls", {"pooler": POOLED["pooler"]}).keys() == {"dense"}  # of a run of pairs
    assert from_heads(pooler, "cls", OWN) == {}  # RoBERTa's classifier does not use it
    assert to_heads(CLASSIFIER, "cls", {"pooler": POOLED["pooler"]}) is None


@pytest.mark.parametrize("pooling", ["mean", "learned", ""])
@pytest.mark.parametrize("heads", [POOLED, OWN])
def test_another_pooling_is_another_head(pooling: str, heads: dict) -> None:
    assert to_heads(CLASSIFIER, pooling, heads) is None and from_heads(to_heads(CLASSIFIER, "cls", heads), "", {}) == {}


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig("cls", 3, "gelu"),
        HeadConfig("cls", 3, "tanh", norm=True),
        HeadConfig("cls", 3, "tanh", transform_bias=False),
        HeadConfig("cls", 3),
        HeadConfig("mean", 3, "tanh", pool_after_transform=True),
    ],
)
def test_what_computes_something_else(head: HeadConfig) -> None:
    assert places({"sequence_head": head, "pooler": POOLED["pooler"]}, "cls") is None
    assert places({"sequence_head": head}, "mean") is None


def test_a_global_first_token_is_the_runs_own() -> None:
    head = HeadConfig("cls", 3, "tanh", global_tokens="first")
    assert places({"sequence_head": head}, "cls") == {
        "dense": ("sequence_head", "dense"),
        "classifier": ("sequence_head", "output"),
    }
