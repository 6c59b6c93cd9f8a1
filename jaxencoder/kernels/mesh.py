"""Attention on a mesh: each device computes its rows, heads and queries, with the keys that these need.

Where the mesh axis `context` splits the length of a row, a layer with a window takes the window's keys from the
neighboring devices, and a global layer gathers all keys. Rows and heads are left to XLA's partitioner, except for
Pallas kernels, which it cannot split.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import random_seed
from jaxencoder.kernels.inputs import AttentionInputs
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.sharding import ROWS, P, splitting_axes


def on_mesh(
    attend: Callable[[AttentionInputs], jax.Array],
    inputs: AttentionInputs,
    key: jax.Array | None,
    *,
    window: int,
    kernel: bool,
) -> jax.Array:
    """Result [B, T, N, H] of a backend, computed on each device of the mesh in use, or here without a mesh.

    Devices along an axis that does not divide rows, heads or queries compute the same. Any split drops the same
    weights. Where the length of a row is split, `offset` is the number of keys before a device's first query.

    Args:
        inputs: of the full rows, T queries and keys of the same T tokens, offset 0, no seed.
        key: a PRNG key for dropout, or None.
        window: keys to either side that a query sees, or 0.
        kernel: whether `attend` is a Pallas kernel.
    """
    q, k, v, relative, q_segments, k_segments, *_, rotary = inputs
    mesh = jax.sharding.get_abstract_mesh()  # empty outside of jax.set_mesh
    B, T, N, _ = q.shape
    split = partial(splitting_axes, mesh)
    rows, heads, context = split(B, ROWS), split(N, ("tensor",)), split(T, ("context",))
    if mesh.empty or mesh.size == 1 or not (kernel or context):
        return attend(inputs._replace(seed=random_seed(key)))

    def local(q, k, v, q_segments, k_segments, relative, key, rotary):
        b, t, n, _ = q.shape  # this device's part of B, T, N
        row, head, part = (jax.lax.axis_index(axes) if axes else 0 for axes in (rows, heads, context))
        offset = 0
        if context:
            take = partial(_with_neighbors, window=window, part=part, T=T) if window else _gather_row
            # Shifted by 1, so that the zeros outside the row become segment -1.
            k, v, k_segments = take(k), take(v), take(k_segments + 1) - 1
            offset = window or part * t
            if relative is not None:
                relative = relative.rows(T - t - offset, t + k.shape[1] - 1)
        seed = random_seed(key, row * b, head * n, part * t)
        return attend(AttentionInputs(q, k, v, relative, q_segments, k_segments, offset, seed, rotary))

    array, ids = P(rows or None, context or None, heads or None, None), P(rows or None, context or None)
    tables = None
    if relative is not None:
        tables = RelativeTerms._make(None if x is None else P(*(None, heads or None, None)[: x.ndim]) for x in relative)
    angles = None if rotary is None else (P(rows or None),) * 2  # of the one backend that takes them unsplit by context
    specs = (array, array, array, ids, ids, tables, None if key is None else P(), angles)
    # Pallas kernels do not declare over which axes their results differ, which check_vma would verify.
    sharded = jax.shard_map(local, in_specs=specs, out_specs=array, check_vma=False)
    return sharded(q, k, v, q_segments, k_segments, relative, key, rotary)


_gather_row = partial(jax.lax.all_gather, axis_name="context", axis=1, tiled=True)  # [b, t, ...] -> [b, T, ...]


def _with_neighbors(x: jax.Array, window: int, part: int | jax.Array, T: int) -> jax.Array:
    """[b, t, ...] -> [b, t + 2 window, ...], with the tokens before and after it in the row, 0 outside the row."""
    t = x.shape[1]
    if window > t:  # longer than the neighbors' parts
        x = jnp.pad(_gather_row(x), [(0, 0), (window, window)] + [(0, 0)] * (x.ndim - 2))
        return jax.lax.dynamic_slice_in_dim(x, part * t, t + 2 * window, axis=1)
    parts = T // t
    # A device that receives nothing gets zeros: at the ends of the row.
    before = jax.lax.ppermute(x[:, t - window :], "context", [(i, i + 1) for i in range(parts - 1)])
    after = jax.lax.ppermute(x[:, :window], "context", [(i + 1, i) for i in range(parts - 1)])
    return jnp.concatenate([before, x, after], axis=1)
