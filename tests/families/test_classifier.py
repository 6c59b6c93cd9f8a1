"""A run's classifier as a family's heads and back: completely, in part, or not at all."""

import numpy as np
import pytest

from jaxencoder.families.classifier import from_heads, head_slots, to_heads
from jaxencoder.model.heads import HeadConfig

POOLED = {"pooler": HeadConfig("cls", activation="tanh"), "sequence_head": HeadConfig("pooled", 3)}
SEPARATE = {"pooler": HeadConfig("cls", activation="tanh"), "sequence_head": HeadConfig("cls", 3, "tanh")}
CLASSIFIER = {name: {"kernel": np.zeros(1), "bias": np.zeros(1)} for name in ("dense", "classifier")}


def test_a_projection_alone() -> None:
    heads = {"sequence_head": HeadConfig("lasttoken", 3, output_bias=False, pad_id=7)}
    projection = {"classifier": {"kernel": np.zeros(1)}}
    params = to_heads(projection, "lasttoken", heads)
    assert params == {"sequence_head": {"output": projection["classifier"]}}
    assert from_heads(params, "lasttoken", heads, transform=False).keys() == {"classifier"}
    assert to_heads(projection, "mean", heads) is None and to_heads(CLASSIFIER, "lasttoken", heads) is None
    assert from_heads(params, "lasttoken", heads) == {} and to_heads(projection, "cls", POOLED) is None


@pytest.mark.parametrize(("heads", "names"), [(POOLED, ["pooler", "sequence_head"]), (SEPARATE, ["sequence_head"])])
def test_round_trip(heads: dict, names: list[str]) -> None:
    params = to_heads(CLASSIFIER, "cls", heads)
    assert list(params) == names
    back = from_heads(params, "cls", heads)
    assert {name: arrays for name, (_, arrays) in back.items()} == CLASSIFIER
    for path, arrays in back.values():
        head, _, part = path.partition("/")
        assert params[head][part] is arrays


def test_a_pooler_alone_is_the_transform() -> None:
    pooler = {"pooler": {"dense": CLASSIFIER["dense"]}}
    assert from_heads(pooler, "cls", POOLED) == {"dense": ("pooler/dense", CLASSIFIER["dense"])}
    assert from_heads(pooler, "cls", {"pooler": POOLED["pooler"]}).keys() == {"dense"}  # of a run of pairs
    assert from_heads(pooler, "cls", SEPARATE) == {}  # RoBERTa's classifier does not use it
    assert to_heads(CLASSIFIER, "cls", {"pooler": POOLED["pooler"]}) is None


@pytest.mark.parametrize("pooling", ["mean", "learned", ""])
@pytest.mark.parametrize("heads", [POOLED, SEPARATE])
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
def test_heads_that_compute_something_else(head: HeadConfig) -> None:
    assert head_slots({"sequence_head": head, "pooler": POOLED["pooler"]}, "cls") is None
    assert head_slots({"sequence_head": head}, "mean") is None


def test_a_global_first_token_is_that_of_the_run() -> None:
    head = HeadConfig("cls", 3, "tanh", global_tokens="first")
    assert head_slots({"sequence_head": head}, "cls") == {
        "dense": ("sequence_head", "dense"),
        "classifier": ("sequence_head", "output"),
    }
