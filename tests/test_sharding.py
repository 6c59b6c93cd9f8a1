"""The sharding table: a row for every parameter, the same for optimizer state, indivisible dimensions whole."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jaxencoder.parameters import path_of
from jaxencoder.sharding import PARAMETER_TABLE, MeshConfig, batch_sharding, constrain, make_mesh, row_shards, shardings
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.optimizers import make_optimizer
from tests.devices import on_devices
from tests.model.examples import CONFIGS, EXPERTS, FLOAT32, Vocabulary, mlm

P = PartitionSpec
AXES = ("data", "fsdp", "tensor", "context")
MESH = AbstractMesh((1, 2, 2, 1), AXES)


def parameters(family: str, **changes) -> dict:
    sizes = {"vocab_size": 44, "num_heads": 4, "hidden_size": 24, "bottleneck": 6}
    config = dataclasses.replace(CONFIGS[family], **sizes | changes)
    classes = Classification(labels=3, pooling="learned").build(config, FLOAT32, Vocabulary(44))
    key = jax.random.key(0)
    return jax.eval_shape(mlm(config).init, key) | {"classifier": jax.eval_shape(classes.init, key)["classifier"]}


def specs(tree: dict, mesh: AbstractMesh = MESH) -> dict[str, PartitionSpec]:
    return {path_of(path): x.spec for path, x in jax.tree.leaves_with_path(shardings(tree, mesh))}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_every_parameter_has_its_row(family: str) -> None:
    params = parameters(family)
    small = r"(norm/(scale|bias)|(output|down|dense|classifier|convolution)/bias|classifier/kernel|pooling_query)$"
    small += r"|bottleneck/up/bias$"
    for path, spec in specs(params).items():
        assert bool(set(spec) - {None}) != bool(re.search(small, path)), f"{path} {spec}"


def test_every_row_is_used() -> None:
    paths = [path for family in CONFIGS for path in specs(parameters(family))]
    paths += specs(jax.eval_shape(mlm(EXPERTS).init, jax.random.key(0)))
    first = [next(pattern for pattern, _ in PARAMETER_TABLE if re.search(pattern, path)) for path in paths]
    assert {pattern for pattern, _ in PARAMETER_TABLE} == set(first)


def test_stacked_and_single_layers_are_split_alike() -> None:
    tree = specs(parameters("modernbert"))
    assert tree["encoder/layers/block_0/attention/query/kernel"] == P(None, "fsdp", "tensor", None)
    assert tree["encoder/last/block_0/attention/query/kernel"] == P("fsdp", "tensor", None)
    assert tree["encoder/layers/block_2/mlp/down/kernel"] == P(None, "tensor", "fsdp")
    assert tree["encoder/embeddings/token_embedding"] == P("tensor", "fsdp")
    assert tree["mlm_head/bias"] == P("tensor")


def test_each_expert_is_split_over_the_devices() -> None:
    params = jax.eval_shape(mlm(EXPERTS).init, jax.random.key(0))
    tree = specs({"encoder": params["encoder"]})
    assert tree["encoder/layers/block_1/mlp/expert_up"] == P(None, None, "fsdp", "tensor")
    assert tree["encoder/layers/block_1/mlp/expert_down"] == P(None, None, "tensor", "fsdp")
    assert "encoder/layers/block_1/mlp/up/kernel" not in tree and "encoder/layers/block_0/mlp/up/kernel" in tree


def test_heads_of_another_size_are_split_and_single_keys_replicated() -> None:
    choices = {"head_dim": 10, "num_kv_heads": 1, "qk_norm": True, "norm_placement": "sandwich", "bottleneck": 0}
    tree = specs(parameters("modernbert", **choices))
    layer = "encoder/layers/block_0/attention"
    assert tree[f"{layer}/query/kernel"] == P(None, "fsdp", "tensor", None)
    assert tree[f"{layer}/output/kernel"] == P(None, "tensor", None, "fsdp")
    assert tree[f"{layer}/key/kernel"] == P(None, "fsdp", None, None)
    assert not set(tree[f"{layer}/query_norm/scale"]) - {None}


@pytest.mark.parametrize("name", ["adamw", "lamb", "muon", "adafactor"])
def test_optimizer_state_is_sharded_like_its_parameter(name: str) -> None:
    params = parameters("bert")
    state = jax.eval_shape(make_optimizer(OptimizerConfig(name=name, min_dim_size_to_factor=8), 10).init, params)
    ours, shapes = specs(params), {path_of(p): x.shape for p, x in jax.tree.leaves_with_path(params)}
    matched = 0
    for (path, leaf), spec in zip(jax.tree.leaves_with_path(state), specs(state).values(), strict=True):
        owner = next((p for p in shapes if path_of(path).endswith("/" + p)), None)
        if owner and shapes[owner] == leaf.shape:
            assert spec == ours[owner], path_of(path)
            matched += 1
        else:  # counters, factored statistics and placeholders: small and replicated
            assert not set(spec) - {None}, path_of(path)
    assert matched >= (8 if name == "adafactor" else len(ours))


def test_indivisible_dimensions_are_replicated() -> None:
    odd = specs(parameters("bert", vocab_size=41, hidden_size=27, num_heads=3))
    assert odd["encoder/embeddings/token_embedding"] == P(None, None)
    assert odd["encoder/layers/block_0/attention/query/kernel"] == P(None, None, None, None)
    assert odd["encoder/layers/block_0/mlp/up/kernel"] == P(None, None, "tensor")


def test_batches() -> None:
    assert batch_sharding(MESH, 2).spec == P(("data", "fsdp"), "context")
    assert batch_sharding(MESH, 1).spec == P(("data", "fsdp"))


def test_one_device() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1)
    x = jnp.ones((3, 5, 2))
    assert constrain(x) is x and row_shards() == 1
    with jax.set_mesh(mesh):
        assert (jax.jit(constrain)(x) == x).all() and row_shards() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": 0}, "must be positive, at most one of them -1"),
        ({"data": -1, "fsdp": -1}, "at most one of them -1"),
        ({"tensor": -2}, "must be positive"),
    ],
)
def test_bad_axes(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MeshConfig(**settings)


@pytest.mark.parametrize("settings", [{"data": 2}, {"tensor": 2}, {"data": 1, "context": 3}])
def test_mesh_that_does_not_fit(settings: dict) -> None:
    with pytest.raises(ValueError, match=r"does not fit 1 device\(s\); make the axes multiply to 1.$"):
        make_mesh(MeshConfig(**settings), jax.devices()[:1])


def test_embeddings_are_split_over_rows_without_copying_activations_to_all_devices() -> None:
    """XLA warns on stderr only, and a cached program warns of nothing."""
    code = """
import jax, jax.numpy as jnp
from jaxencoder.model.layers import Embeddings
from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh, shardings
from tests.model.examples import CONFIGS
module = Embeddings(CONFIGS["bert"], jnp.float32)
ids = jax.ShapeDtypeStruct((8, 16), jnp.int32)
params = jax.eval_shape(lambda: module.init(jax.random.key(0), *[jnp.zeros((8, 16), jnp.int32)] * 3, False)["params"])
mesh = make_mesh(MeshConfig(data=2, fsdp=2))
places = shardings({"encoder": {"embeddings": params}}, mesh)["encoder"]["embeddings"]
assert all(place.spec[-1] == "fsdp" for name, place in places.items() if name.endswith("embedding")), places
split = batch_sharding(mesh, 2)
gradients = jax.jit(
    jax.grad(lambda params, *ids: jnp.square(module.apply({"params": params}, *ids, False)).sum()),
    in_shardings=(places, split, split, split), out_shardings=places,
)
with jax.set_mesh(mesh):
    gradients.lower(params, ids, ids, ids).compile()
"""
    _, warnings = on_devices(4, "-c", code, TF_CPP_MIN_LOG_LEVEL="0")
    assert "Involuntary full rematerialization" not in warnings, warnings
