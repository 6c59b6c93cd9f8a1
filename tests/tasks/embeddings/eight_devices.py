"""Losses and gradients of embeddings on one and on eight devices, printed as JSON, for test_objective.py."""

import json

import jax
import numpy as np

from jaxencoder.config import Embeddings
from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh, shardings
from tests.model.examples import FLOAT32, SMALL, Vocabulary, randomized_params
from tests.tasks.embeddings.test_objective import batch_of


def run(mesh: jax.sharding.Mesh, parts: int) -> dict:
    objective = Embeddings(parts=parts, spread=0.5).build(SMALL["bert"], FLOAT32, Vocabulary())
    params = randomized_params(objective.init)
    with jax.set_mesh(mesh):
        params = jax.device_put(params, shardings(params, mesh))
        batch = {name: np.tile(x, (4, *[1] * (x.ndim - 1))) for name, x in batch_of().items()}
        batch = {name: jax.device_put(x, batch_sharding(mesh, 1)) for name, x in batch.items()}
        differentiate = jax.jit(jax.value_and_grad(lambda p, x: objective.loss(p, x, jax.random.key(0), True)[0]))
        loss, gradients = differentiate(params, batch)
    return {
        "loss": float(loss),
        "gradients": [float(np.abs(x).sum()) for x in jax.tree.leaves(jax.device_get(gradients))],
    }


def main() -> None:
    one = make_mesh(MeshConfig(), jax.devices()[:1])
    meshes = {
        "one": (one, 1),
        "eight": (make_mesh(MeshConfig(4, 2)), 1),
        "eight in parts": (make_mesh(MeshConfig(8)), 2),
    }
    print(json.dumps({name: run(mesh, parts) for name, (mesh, parts) in meshes.items()}))


if __name__ == "__main__":
    main()
