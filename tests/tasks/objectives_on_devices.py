"""Loss and gradients of objectives on one device, on two, and on eight of two processes, for test_devices.py.

Each of two processes has four devices. Arguments: a folder for the results, a port, and the number of the process.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxencoder.config import Embeddings, MultiVectors, Reranking, SparseEmbeddings
from jaxencoder.objectives.objective import ObjectiveConfig
from jaxencoder.parameters import flatten
from jaxencoder.sharding import MeshConfig, batch_sharding, make_mesh, shardings
from tests.model.examples import BERT, FLOAT32, Vocabulary, randomized_params, rows

ENCODER = dataclasses.replace(BERT, num_layers=1, dropout=0.1)
CASES: dict[str, ObjectiveConfig] = {
    # Of two sources with a loss each; the batch is of the second one.
    "dense in parts": Embeddings(
        parts=2, spread=0.5, losses=("cosent", "ranking"), directions=("query_to_document", "query_to_query")
    ),
    "sparse": SparseEmbeddings(queries="table", query_weight=0.0, document_weight=0.1),
    "multi-vector": MultiVectors(dimensions=8),
    "reranking": Reranking(loss="lambda", dropout=0.1),
}
TUPLES = [[[0, 1, 2], [3, 4, -1]], [[0, 1, -1], [2, 3, 4]]]  # of every second row
LENGTHS, T = [[7, 5, 9, 4, 6], [8, 9, 5, 7, 3]], 36


def batch_of_16() -> dict[str, np.ndarray]:
    """Different texts in all rows, with labels of documents from 0 to 2."""
    labels = np.random.default_rng(1).integers(0, 3, (16, 6)).astype(np.float32)
    arrays = {"tuples": np.array(TUPLES * 8, np.int32), "labels": labels, "sources": np.ones(16, np.int32)}
    return rows(LENGTHS * 8, T) | arrays


def gradients(settings: ObjectiveConfig, mesh: jax.sharding.Mesh) -> dict[str, np.ndarray]:
    """The loss and the gradients of all parameters, by name."""
    objective = settings.build(ENCODER, FLOAT32, Vocabulary())
    params = randomized_params(objective.init)
    everywhere = jax.NamedSharding(mesh, jax.P())

    def run(params: Any, batch: Any, key: jax.Array) -> Any:
        return jax.value_and_grad(lambda p: objective.loss(p, batch, key, True)[0])(params)

    with jax.set_mesh(mesh):
        params = jax.device_put(jax.device_get(params), shardings(params, mesh))
        batch = {name: jax.device_put(x, batch_sharding(mesh, 1)) for name, x in batch_of_16().items()}
        key = jax.device_put(jax.random.key(0), everywhere)
        loss, tree = jax.device_get(jax.jit(run, out_shardings=everywhere)(params, batch, key))
    return {"loss": np.asarray(loss), **flatten(tree)}


def main(folder: Path, port: str, process: int) -> None:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
    count = (1, 2)[process]
    meshes = {str(count): make_mesh(MeshConfig(), jax.local_devices()[:count])}
    meshes |= {f"8_{process}": make_mesh(MeshConfig(4, 2))}
    for name, mesh in meshes.items():
        for case, settings in CASES.items():
            np.savez(folder / f"{case}_{name}.npz", **gradients(settings, mesh))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
