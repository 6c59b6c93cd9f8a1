"""Print the difference between a mixture of experts on eight devices and on one, as JSON; for test_experts.py."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.experts import mixture_on_mesh
from jaxencoder.sharding import MeshConfig, make_mesh

B, T, D, F, E, K = 4, 128, 6, 8, 5, 2
MESHES = {"rows": MeshConfig(2, 2, 2, 1), "length": MeshConfig(2, 1, 2, 2), "indivisible": MeshConfig(8, 1, 1, 1)}


def differentiated(mesh: jax.sharding.Mesh) -> list[np.ndarray]:
    """Output and gradients of x, weights and kernels."""
    keys = jax.random.split(jax.random.key(0), 6)
    weights, experts = jax.lax.top_k(jax.nn.softmax(jax.random.normal(keys[0], (B, T, E))), K)
    shapes = {"up": (E, D, F), "gate": (E, D, F), "down": (E, F, D)}
    kernels = {name: jax.random.normal(key, shapes[name]) for name, key in zip(shapes, keys[1:4], strict=True)}
    x, factors = (jax.random.normal(key, (B, T, D)) for key in keys[4:])

    def loss(x: jax.Array, weights: jax.Array, kernels: dict) -> tuple[jax.Array, jax.Array]:
        y = mixture_on_mesh(x, weights, experts, kernels, jnp.tanh)
        return (y * factors).sum(), y

    with jax.set_mesh(mesh):
        (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, weights, kernels)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((y, gradients))]


if __name__ == "__main__":
    one = differentiated(make_mesh(MeshConfig(), jax.devices()[:1]))
    differences = {}
    for name, mesh in MESHES.items():
        many = differentiated(make_mesh(mesh))
        differences[name] = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(one, many, strict=True)]
    print(json.dumps(differences))
