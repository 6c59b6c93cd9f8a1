"""A model at work on this process's devices: where its arrays lie, how its products round, and texts batch by batch."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.model.config import ComputeConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import splitting_axes


@contextlib.contextmanager
def in_use(mesh: Mesh, compute: ComputeConfig) -> Iterator[None]:
    """For what is traced within: on that mesh, and products of float32 numbers in float32.

    Unless told so, XLA rounds them to 10 bits on GPUs (TF32) and to 8 on TPUs.
    """
    exact = jax.default_matmul_precision("float32") if compute.dtype == "float32" else contextlib.nullcontext()
    with jax.set_mesh(mesh), exact:
        yield


def place(rows: Batch, mesh: Mesh) -> Batch:
    """A batch on the devices: its rows shared among them where they divide, otherwise whole on each."""
    axes = splitting_axes(mesh, len(rows["token_ids"]), ("data",))
    return jax.device_put(rows, NamedSharding(mesh, PartitionSpec(axes or None)))


def placed(params: Params, mesh: Mesh, dtype: str, shared: Mapping[int, jax.Array]) -> Params:
    """Parameters on every device; the encoder's kernels are cast as every call would cast them.

    Args:
        shared: arrays that are there already, by the identity of the parameter.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        if id(x) in shared:
            return shared[id(x)]
        x = jax.device_put(x, everywhere)
        return x.astype(dtype) if path[0].key == "encoder" and path[-1].key == "kernel" else x

    return jax.tree_util.tree_map_with_path(place, params)


def default_batch_tokens() -> int:
    """Tokens in a batch: enough to keep an accelerator busy, and few enough that activations stay in a CPU's cache."""
    return 1024 if jax.default_backend() == "cpu" else 8192
