"""What rows cost: products against the analytic count, memory against what attention must hold, and mistakes."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxencoder.config_io import load
from jaxencoder.describe import cost as module
from jaxencoder.describe.cost import Cost, cost
from jaxencoder.model.config import ComputeConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.flops import forward_flops, training_flops
from jaxencoder.training.program import Program, product_flops
from tests.describe.test_inspect import published_folder, run_folder
from tests.model.examples import BERT, mlm

SIZES = "num_layers=2, hidden_size=32, mlp_size=48, num_heads=2, max_length=128, vocab_size=99"
ROTARY = 'windows=(0, 8), positions="rotary", norm_placement="pre"'
LENGTHS = (256, 1024)
WIDE = dataclasses.replace(BERT, vocab_size=500, hidden_size=64, mlp_size=256, num_heads=4, max_length=4096)
DENSE = ComputeConfig(dtype="float32", attention="dense")


def recipe(folder: Path, model: str = "", rest: str = "") -> str:
    path = folder / "tiny.py"
    body = f"model=EncoderConfig({SIZES}, {model}), {rest}"
    path.write_text(f"from jaxencoder.config import *\n\ndef get_config():\n    return RunConfig({body})\n")
    return str(path)


@pytest.fixture(scope="module")
def actual(tmp_path_factory: pytest.TempPathFactory) -> Cost:
    """Of one local layer and one global layer, compiled with all scores in memory."""
    return cost(recipe(tmp_path_factory.mktemp("cost"), ROTARY), LENGTHS, attention=("own",), rows=2, backend="dense")


@pytest.fixture
def compiled(monkeypatch) -> list[tuple]:
    """Nothing is compiled: FLOPs are the square of the length, and memory its cube."""
    asked = []

    def make(config, mesh, rows, use, model, compute, length) -> Program:
        asked.append((use, model.windows, compute.attention, length))
        return Program(rows * float(length**2), 0, 0, length**3)

    monkeypatch.setattr(module, "_compiled", make)
    return asked


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gated_mlp": True, "positions": "rotary", "norm_placement": "pre"},
        {"num_kv_heads": 2, "num_layers": 7},
        {"embedding_size": 16, "num_layer_groups": 1, "num_layers": 4},
        {"bottleneck": 8},
        {"head_dim": 24, "num_kv_heads": 2, "causal": True},
    ],
)
def test_products_of_the_encoder_are_the_analytic_ones(settings: dict) -> None:
    """Whether its layers are a loop, a loop in a loop, or written out."""
    model, T = dataclasses.replace(WIDE, **settings), 256
    rows = jax.ShapeDtypeStruct((2, T), jnp.int32)
    encoder = Encoder(model, DENSE)
    params = jax.eval_shape(encoder.init, jax.random.key(0), rows, rows, rows)
    traced = jax.make_jaxpr(encoder.apply)(params, rows, rows, rows)
    assert product_flops(traced.jaxpr) == pytest.approx(2 * T * forward_flops(model, T), rel=1e-6)


@pytest.mark.parametrize(("remat", "times"), [("none", 3), ("full", 4)])
def test_products_of_training(remat: str, times: int) -> None:
    """Three forward passes, and a fourth where layers are computed again."""
    model, T = dataclasses.replace(WIDE, num_layers=8), 256
    compute = dataclasses.replace(DENSE, remat=remat)
    objective = mlm(model, compute, rate=0.15)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    batch = {name: jax.ShapeDtypeStruct((2, T), jnp.int32) for name in ("token_ids", "segment_ids", "positions")}
    step = jax.value_and_grad(lambda params, batch: objective.loss(params, batch, jax.random.key(0), True)[0])
    flops = product_flops(jax.make_jaxpr(step)(params, batch).jaxpr) / (2 * T)
    assert flops == pytest.approx(training_flops(model, T, 0.15) * times / 3, rel=0.03)


@pytest.mark.parametrize("use", ["training", "inference"])
def test_growth_with_all_scores_in_memory(actual: Cost, use: str) -> None:
    short, long = (line for line in actual.lines if line.use == use)
    assert (short.length, long.length) == LENGTHS
    assert short.flops_growth is None and short.activations_growth is None
    assert 1.5 < long.flops_growth < 2 and 1.7 < long.activations_growth < 2.1
    assert long.activations_growth == pytest.approx(math.log(long.activations / short.activations, 4))
    assert long.flops_token == long.flops / LENGTHS[1]


def test_local_layers_alone_grow_with_the_length(tmp_path: Path) -> None:
    config = load(recipe(tmp_path, "windows=(8,), token_types=0"), ["--model.max-length", "1024"])
    config = dataclasses.replace(config, compute=ComputeConfig(dtype="float32"))
    made = [
        module._compiled(config, module._mesh({}), 1, "inference", config.model, config.compute, T) for T in LENGTHS
    ]
    assert made[1].flops == 4 * made[0].flops
    assert made[1].temporaries < 4.2 * made[0].temporaries and made[1].temporaries < 4 * LENGTHS[1] ** 2


def test_training_holds_what_inference_does_not(actual: Cost) -> None:
    training, inference = (line for line in actual.lines if line.length == LENGTHS[1])
    assert 2.5 < training.flops / inference.flops < 4
    assert training.activations > inference.activations
    # Of 2 layers, rows and heads, in two bytes at the very least.
    assert training.activations > 2 * 2 * 2 * LENGTHS[1] ** 2 * 2
    assert (actual.rows, actual.kind, actual.dtype) == (2, "recipe", "bfloat16")
    assert actual.state["optimizer"].device > actual.state["parameters"].device == actual.state["gradients"].device


def backends(actual: Cost, attention: str) -> set[str]:
    return {kind.backend for line in actual.lines if line.attention == attention for kind in line.layers}


def test_each_attention(compiled: list, tmp_path: Path) -> None:
    path = recipe(tmp_path, ROTARY)
    actual = cost(path, (1024, 16), overrides=["--model.dropout", "0"])
    assert actual.windows == {"own": (0, 8), "global": (0,), "local": (8,), "dense": (0, 8)}
    assert {(line.flops_growth, line.activations_growth) for line in actual.lines if line.length > 16} == {(2, 3)}
    assert actual.lines[0].flops == 16**2
    assert backends(actual, "dense") == {"dense"} and backends(actual, "global") == {"dense", "chunked"}
    assert backends(actual, "own") == {"dense", "chunked", "banded"}
    # At 16 tokens the model's own attention is dense too: that program is not compiled twice.
    assert compiled.count(("training", (0, 8), "dense", 16)) == 1
    assert len(compiled) == len(set(compiled))


def test_what_is_the_same_is_left_out(compiled: list, tmp_path: Path) -> None:
    actual = cost(recipe(tmp_path), (16,), window=4)
    assert actual.windows == {"own": (0,), "local": (4,), "dense": (0,)}
    assert "global is left out: it equals own" in actual.notes
    assert cost(recipe(tmp_path), (16,), attention=("local",)).windows == {"local": (64,)}


def test_global_tokens_become_global_layers(compiled: list, tmp_path: Path) -> None:
    actual = cost(recipe(tmp_path, "windows=(4,), global_tokens=True"), (16,), attention=("global",))
    assert actual.windows == {"global": (0,)} and not any("left out" in note for note in actual.notes)


def test_rows_longer_than_the_positions(compiled: list, tmp_path: Path) -> None:
    actual = cost(recipe(tmp_path), (512,), attention=("own",))
    assert "the model has 128 positions; its cost is that of one with 512 positions" in actual.notes
    shorter = cost(recipe(tmp_path), (128,), attention=("own",))
    assert actual.state["parameters"].total - shorter.state["parameters"].total == 4 * 32 * (512 - 128)


def test_a_published_model_and_a_run(compiled: list, make_model, tmp_path: Path) -> None:
    published = cost(published_folder(tmp_path / "bert", BERT, "pooler"), (16,), backend="dense")
    assert published.kind == "transformers" and "as a masked language model" in " ".join(published.notes)
    run = cost(run_folder(tmp_path / "run", make_model()), (16,))
    assert run.kind == "run" and not any("published" in note for note in run.notes)


def test_memory_on_each_of_several_devices(tmp_path: Path) -> None:
    """Which a CPU is taken for, in a process of its own."""
    path = recipe(tmp_path)
    words = [path, "--length", "64", "--attention", "own", "--batch", "4", "--mesh.fsdp", "4", "--json"]
    command, root = [sys.executable, "-m", "jaxencoder", "cost", *words], Path(__file__).resolve().parents[2]
    made = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(root)})
    assert made.returncode == 0, made.stderr
    four, one = json.loads(made.stdout), cost(path, (64,), attention=("own",), rows=4)
    assert (four["rows"], four["mesh"]["fsdp"]) == (4, 4)
    assert [line["flops"] for line in four["lines"]] == [line.flops for line in one.lines]
    for mine, whole in zip(four["lines"], one.lines, strict=True):
        assert mine["activations"] < whole.activations
    assert four["state"]["parameters"]["device"] < 0.4 * one.state["parameters"].device


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lengths": (0, 16)}, r"lengths are \[0, 16\]"),
        ({"rows": 0}, "0 row"),
        ({"mesh": {"fsdp": 64}}, "a mesh of 64 devices does not fit the 1"),
        ({"mesh": {"data": -1}}, "give a number of devices in place of -1"),
        ({"attention": ("sparse",)}, "attention is 'sparse'; give one of own, global"),
        ({"backend": "fast"}, "backend is 'fast'"),
        ({"window": 0}, "window is 0"),
        ({"target": "nothing"}, "neither a folder nor a recipe"),
    ],
)
def test_mistakes(arguments: dict, message: str, compiled: list, tmp_path: Path) -> None:
    given = {"target": recipe(tmp_path), "lengths": (16,)} | arguments
    with pytest.raises(ValueError, match=message):
        cost(given.pop("target"), given.pop("lengths"), **given)
