"""A model at work on this process's devices: where its arrays lie, how its products round, and texts batch by batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxencoder.model.config import ComputeConfig
from jaxencoder.objectives.objective import Batch, Params
from jaxencoder.sharding import splitting
from jaxencoder.text import buckets

if TYPE_CHECKING:
    from jaxencoder.inference.model import Model

# Enough to keep an accelerator busy; on a CPU the activations of a batch should stay in the cache.
BATCH_TOKENS, BATCH_TOKENS_ON_CPU = 8192, 1024


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
    axes = splitting(mesh, len(rows["token_ids"]), ("data",))
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


def run(
    model: Model,
    function: Callable[[Params, Batch], jax.Array],
    ids: Sequence[np.ndarray],
    batch_tokens: int | None,
    max_length: int,
    extra: Callable[[buckets.Plan], Batch] | None,
) -> Iterator[tuple[buckets.Plan, np.ndarray]]:
    """See `Model.run`."""
    if batch_tokens is None:
        batch_tokens = BATCH_TOKENS_ON_CPU if jax.default_backend() == "cpu" else BATCH_TOKENS
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}; give at least 1")
    waiting = None
    for part in buckets.plan([len(x) for x in ids], buckets.row_lengths(max_length), batch_tokens):
        rows = buckets.batch(ids, part, model.tokenizer.pad_id)
        rows |= extra(part) if extra else {}
        with in_use(model.mesh, model.compute):
            values = function(model.placed, place(rows, model.mesh))
        if waiting is not None:  # read only when the next batch is on its way
            yield waiting[0], np.asarray(waiting[1])
        waiting = part, values
    if waiting is not None:
        yield waiting[0], np.asarray(waiting[1])
