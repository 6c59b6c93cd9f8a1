"""Operations of jax in ONNX, with sizes that are known only when the graph runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnxruntime

from jaxencoder.export.onnx_conversion import convert
from jaxencoder.kernels.dense import masked_softmax
from jaxencoder.kernels.gradients import gelu, normalize
from jaxencoder.kernels.relative import skew

TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((7, 6)), jnp.float32)
WEIGHTS = jnp.asarray(np.random.default_rng(1).standard_normal((6, 2, 3)), jnp.float32)


def rows(x: jax.Array) -> jax.Array:
    """Vectors [B, T, 6] of ids."""
    return TABLE[x]


def maximum_of_group(x: jax.Array, ids: jax.Array) -> jax.Array:
    return jax.vmap(lambda x, ids: jax.ops.segment_max(x, ids, ids.shape[0] + 7)[ids])(x, ids)


OPERATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "log1p": lambda x: jnp.log1p(x.astype(jnp.float32)),
    "logaddexp": lambda x: jax.nn.softplus(rows(x)),
    "mish": lambda x: jax.nn.mish(rows(x)),
    "relu6": lambda x: jax.nn.relu6(rows(x) * 4),
    "silu": lambda x: jax.nn.silu(rows(x)),
    "erfc": lambda x: jax.nn.gelu(rows(x), approximate=False),
    "gelu": lambda x: gelu(rows(x)),
    "layer norm": lambda x: normalize(rows(x), TABLE[0], TABLE[1], 1e-5, True),
    "layer norm without a bias": lambda x: normalize(rows(x), TABLE[0], None, 1e-2, True),
    "RMS norm": lambda x: normalize(rows(x), TABLE[0], None, 1e-5, False),
    "softmax": lambda x: masked_softmax(rows(x), rows(x) > 0),
    "softmax over another axis": lambda x: jax.nn.softmax(rows(x), axis=1),
    "softmax over two axes": lambda x: jax.nn.softmax(rows(x), axis=(1, 2)),
    "no softmax": lambda x: jnp.exp(rows(x)) / jnp.exp(rows(x)).max(-1, keepdims=True),
    "clip": lambda x: jnp.clip(rows(x), -0.5, x[..., None] / 7),
    "not equal": lambda x: (x != 3) | (x >= 5),
    "choice": lambda x: jnp.where(rows(x)[..., 0] > 0, x, -x),
    "powers": lambda x: (x.astype(jnp.float32) + 1) ** 3 + (x.astype(jnp.float32) + 1) ** 0.5 + jnp.square(x),
    "cumulative": lambda x: jnp.cumsum(x, axis=1),
    "cumulative from the end": lambda x: jax.lax.cumsum(x, axis=1, reverse=True),
    "any": lambda x: (x > 5).any(-1),
    "all": lambda x: (x > 0).all(-1),
    "minimum": lambda x: rows(x).min(-1),
    "first maximum": lambda x: jnp.argmax(x > 2, axis=1),
    "first minimum": lambda x: jnp.argmin(rows(x), axis=-1),
    "mean": lambda x: rows(x).mean(1),
    "sum of a broadcast value": lambda x: jnp.broadcast_to(x[..., None], (*x.shape, 3)).sum(-1),
    "positions": lambda x: jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape) + jnp.arange(3)[:, None, None],
    "length": lambda x: x / x.shape[1],
    "reversed": lambda x: rows(x)[..., ::-1],
    "reversed rows": lambda x: x[:, ::-1],
    "every second": lambda x: jax.lax.slice_in_dim(rows(x), 1, 6, 2, axis=2),
    "padded": lambda x: jnp.pad(rows(x), [(0, 0), (1, 2), (0, 3)], constant_values=0.5),
    "halves": lambda x: jnp.concatenate(jnp.split(rows(x), 2, axis=-1)[::-1], axis=-1),
    "joined with a constant": lambda x: jnp.concatenate([rows(x), jnp.ones((*x.shape, 2))], axis=-1),
    "heads": lambda x: jnp.einsum("BTD,DNH->BTNH", rows(x), WEIGHTS),
    "back from heads": lambda x: jnp.einsum("BTNH,DNH->BTD", jnp.einsum("BTD,DNH->BTNH", rows(x), WEIGHTS), WEIGHTS),
    "scores": lambda x: jnp.einsum("BTD,BSD->BTS", rows(x), rows(x) * 2),
    "scores of heads": lambda x: jnp.einsum("BTNH,BSNH->BNTS", *2 * [jnp.einsum("BTD,DNH->BTNH", rows(x), WEIGHTS)]),
    "shared scores": lambda x: jnp.einsum("BTNH,RNH->BNTR", jnp.einsum("BTD,DNH->BTNH", rows(x), WEIGHTS), WEIGHTS),
    "a product of vectors": lambda x: jnp.einsum("BTD,BTD->BT", rows(x), rows(x)),
    "a constant on the left": lambda x: jnp.einsum("ED,BTD->BTE", TABLE, rows(x)),
    "rows along an axis": lambda x: jnp.take_along_axis(rows(x), jnp.argmax(x, 1)[:, None, None], axis=1),
    "columns": lambda x: TABLE.T[:, x],
    "rows clipped to a table": lambda x: jnp.take(TABLE, 3 * x - 5, axis=0, mode="clip"),
    "an item": lambda x: rows(x)[:, 0],
    "one-hot": lambda x: jax.nn.one_hot(x, 7),
    "group sums": lambda x: jax.vmap(lambda x: jax.ops.segment_sum(x, x, x.shape[0] + 7)[x])(x),
    "group maximums": lambda x: maximum_of_group(rows(x)[..., 0], x),
    "written rows": lambda x: jax.vmap(lambda x, i: x.at[i].set(5.0))(rows(x), jnp.argmax(x, 1)[:, None]),
    "largest": lambda x: jax.lax.top_k(rows(x), 2)[0] + jax.lax.top_k(rows(x), 2)[1],
    "all in one axis": lambda x: rows(x).reshape(1, -1, 6) @ TABLE.T,
    "a loop": lambda x: jax.lax.scan(lambda c, w: (c + w, c.sum()), rows(x).sum((0, 1)), TABLE)[1],
    "a loop from the end": lambda x: jax.lax.scan(lambda c, w: (c * w, c), rows(x), TABLE, reverse=True)[1],
    "by distance": lambda x: skew(jnp.einsum("BTD,RD->BTR", rows(x), jnp.ones((2 * x.shape[1], 6)))),
    "a constant": lambda x: jnp.arange(3.0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_jax(name: str) -> None:
    function = OPERATIONS[name]
    shape = jax.export.symbolic_shape("B, T", constraints=["2*T^2 >= T"])
    graph = convert(lambda x: {"y": function(x)}, {"x": shape})
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for B, T in ((1, 1), (2, 5), (3, 2)):
        x = np.random.default_rng(T).integers(0, 7, (B, T))
        expected = np.asarray(function(jnp.asarray(x, jnp.int32)))
        got = session.run(["y"], {"x": x})[0]
        assert got.shape == expected.shape and got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, atol=1e-5, rtol=1e-5)


def nodes(function: Callable[[jax.Array], jax.Array]) -> list[str]:
    graph = convert(lambda x: {"y": function(x)}, {"x": jax.export.symbolic_shape("B, T")})
    return [node.op_type for node in graph.graph.node]


def test_functions_with_a_node_of_their_own() -> None:
    assert "Gelu" in nodes(OPERATIONS["gelu"])
    assert "LayerNormalization" in nodes(OPERATIONS["layer norm"])
    assert "LayerNormalization" not in nodes(OPERATIONS["RMS norm"])
    assert "Softmax" in nodes(OPERATIONS["softmax"]) and "Exp" not in nodes(OPERATIONS["softmax"])
    assert "Softmax" not in nodes(OPERATIONS["no softmax"])


def test_what_depends_on_parameters_alone_is_computed_once() -> None:
    assert nodes(lambda x: x + jnp.linalg.norm(TABLE @ TABLE.T)) == ["Cast", "Cast", "Add", "Identity"]


def test_values_are_broadcast_late() -> None:
    assert "Expand" not in nodes(lambda x: rows(x) * jnp.broadcast_to(x[..., None], (*x.shape, 6)))


def test_an_operation_without_a_rule_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot be exported to ONNX: fft has no form there"):
        nodes(lambda x: jnp.fft.fft(rows(x)).real)
    with pytest.raises(ValueError, match=r"cannot be exported to ONNX: and of the bits of numbers has no form there"):
        nodes(lambda x: x & 3)
