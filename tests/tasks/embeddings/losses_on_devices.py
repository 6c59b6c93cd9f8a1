"""Print the differences between losses on two and eight devices and on one, as JSON; test_losses.py checks them."""

import json

import jax
import numpy as np

from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh
from tests.tasks.embeddings.cases import all_losses, arguments

N, C, D = 16, 4, 8


def main() -> None:
    random = np.random.default_rng(0)
    vectors, mask = random.standard_normal((N, C, D), np.float32), random.random((N, C)) < 0.8
    vectors[:, 1:] += vectors[:, :1]
    mask[5] = False
    results = []
    for count in (1, 2, 8):
        mesh = make_mesh(MeshConfig(), jax.devices()[:count])
        with jax.set_mesh(mesh):
            split = jax.device_put((vectors, mask, arguments(N, C, D)), batch_sharding(mesh, 1))
            results.append(jax.device_get(jax.jit(all_losses)(*split)))
    one, *others = results
    differences = {
        name: [
            float(np.abs(a - b).max() / max(1, np.abs(a).max()))
            for many in others
            for a, b in zip(values, many[name], strict=True)
        ]
        for name, values in one.items()
    }
    print(json.dumps(differences))


if __name__ == "__main__":
    main()
