"""Print the difference between attention on eight devices and on one, as JSON; test_mesh.py runs and checks it."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.inputs import AttentionOptions
from jaxencoder.model.positions import rotary_table
from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh
from tests.kernels.examples import B, H, N, inputs, segments, tables

T = 96
# Mesh of data, fsdp, tensor and context; the arguments of `differentiated` after it.
CASES = {
    "dense, context 2, heads split": (MeshConfig(2, 1, 2, 2), "dense", 0, 0.3),
    "chunked, context 4": (MeshConfig(2, 1, 1, 4), "chunked", 0, 0.3),
    "banded, context 4": (MeshConfig(1, 2, 1, 4), "banded", 16, 0.3),
    "banded, window longer than the neighbors' parts": (MeshConfig(1, 1, 1, 8), "banded", 30, 0.3),
    "single_pass, rows and heads split": (MeshConfig(2, 2, 2, 1), "single_pass", 0, 0.0),
    "single_pass, window": (MeshConfig(4, 1, 2, 1), "single_pass", 16, 0.0),
    "tiled, all split": (MeshConfig(2, 1, 2, 2), "tiled", 0, 0.3),
    "causal dense, context 4": (MeshConfig(2, 1, 1, 4), "dense", 0, 0.0, True),
    "causal chunked, context 4": (MeshConfig(2, 1, 1, 4), "chunked", 0, 0.3, True),
    "causal banded, context 4": (MeshConfig(1, 2, 1, 4), "banded", 16, 0.3, True),
}


def differentiated(
    mesh: jax.sharding.Mesh, arrays: tuple, backend: str, window: int, dropout: float, causal: bool = False
) -> list:
    ids = segments(T)
    weight = np.random.default_rng(9).standard_normal((B, T, N, H)).astype(np.float32) * (ids > 0)[..., None, None]

    def loss(arrays: tuple, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        *qkv, relative = arrays
        options = AttentionOptions(window, dropout, backend, causal=causal)
        positions = jnp.arange(B * T).reshape(B, T)  # others in each row
        rest = {"relative": relative, "key": jax.random.key(5), "rotary": rotary_table(positions, H, 100.0)}
        out = attention(*qkv, ids, options=options, **rest)
        return (out * weight).sum(), out * weight

    with jax.set_mesh(mesh):
        put = partial(jax.device_put, device=batch_sharding(mesh, 2))
        *qkv, relative = arrays
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, out), gradients = run((*map(put, qkv), relative), put(jnp.asarray(ids)))
    return [np.asarray(x) for x in jax.tree.leaves((out, gradients))]


if __name__ == "__main__":
    differences = {}
    single = make_mesh(MeshConfig(), jax.devices()[:1])
    for name, (mesh, *settings) in CASES.items():
        arrays = (*inputs(T), None if "single_pass" in name else tables(T))
        one, many = (differentiated(m, arrays, *settings) for m in (single, make_mesh(mesh)))
        differences[name] = [
            float(np.abs(a - b).max() / max(1, np.abs(a).max())) for a, b in zip(one, many, strict=True)
        ]
    print(json.dumps(differences))
