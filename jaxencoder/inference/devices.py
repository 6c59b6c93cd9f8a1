"""Devices of this process: where arrays are placed, and the precision of matrix products."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.model.config import ComputeConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import splitting_axes


@contextlib.contextmanager
def compute_context(mesh: Mesh, compute: ComputeConfig) -> Iterator[None]:
    """Set the mesh, and float32 precision for products of float32 values, for what is traced within.

    By default XLA rounds the factors to 10 bits on GPUs (TF32) and to 8 bits on TPUs.
    """
    exact = jax.default_matmul_precision("float32") if compute.dtype == "float32" else contextlib.nullcontext()
    with jax.set_mesh(mesh), exact:
        yield


def place(rows: Batch, mesh: Mesh) -> Batch:
    """Put a batch on the devices: rows are split over them if divisible, otherwise replicated."""
    axes = splitting_axes(mesh, len(rows["token_ids"]), ("data",))
    return jax.device_put(rows, NamedSharding(mesh, PartitionSpec(axes or None)))


def replicate(params: Params, mesh: Mesh, dtype: str, shared: Mapping[int, jax.Array]) -> Params:
    """Put parameters on every device, the encoder's kernels in `dtype` so that calls need not cast them.

    `shared` are arrays that are on the devices already, by the id() of the parameter.
    """
    replicated = NamedSharding(mesh, PartitionSpec())

    def put(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        if id(x) in shared:
            return shared[id(x)]
        x = jax.device_put(x, replicated)
        return x.astype(dtype) if path[0].key == "encoder" and path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(put, params)
