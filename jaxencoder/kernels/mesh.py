"""Attention on a mesh: each device computes its rows, heads and queries, with the keys that these need.

Where the mesh's axis `context` splits the length of a row, a layer with a window takes the window's keys from the
devices beside it, and a global one gathers all keys. Rows and heads are left to XLA's partitioner, but for kernels,
which it cannot split.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import random_seed
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.sharding import ROWS, P, splitting_axes


class Shard(NamedTuple):
    """What one device computes: its queries and the keys that they may see.

    Attributes:
        arrays: q [b, t, n, H]; k and v [b, s, n, H]; segments of queries [b, t] and of keys [b, s], -1 where there is
            no key; the tables of distances, with t + s - 1 rows, or None.
        seed: of `random_seed`, or None; however rows, heads and queries are split, the same weights are dropped.
        offset: the key that stands where the first query does; with a window 0 or, where there are neighbours' keys
            before it and behind the last one's, their number.
    """

    arrays: tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, RelativeTerms | None]
    seed: jax.Array | None
    offset: jax.typing.ArrayLike = 0


def on_mesh(
    attend: Callable[[Shard], jax.Array],
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    relative: RelativeTerms | None,
    random: jax.Array | None,
    *,
    window: int,
    kernel: bool,
) -> jax.Array:
    """[B, T, N, H], what `attend` gives on each device of the mesh in use, or here if there is none.

    An axis that does not divide rows, heads or queries does not split them: its devices compute the same.

    Args:
        attend: one backend.
        q, k, v: [B, T, N, H].
        segment_ids: [B, T] int, none of them -1.
        relative: tables of 2 T - 1 rows.
        random: a PRNG key for dropout.
        window: 0, or the keys to either side that a query sees.
        kernel: `attend` cannot be split by XLA.
    """
    mesh = jax.sharding.get_abstract_mesh()
    B, T, N, _ = q.shape
    split = partial(splitting_axes, mesh)
    rows, heads, context = split(B, ROWS), split(N, ("tensor",)), split(T, ("context",))
    if mesh.empty or mesh.size == 1 or not (kernel or context):
        return attend(Shard((q, k, v, segment_ids, segment_ids, relative), random_seed(random)))

    def local(q, k, v, segments, relative, random):
        b, t, n, _ = q.shape
        row, head, part = (jax.lax.axis_index(axes) if axes else 0 for axes in (rows, heads, context))
        k_segments, offset = segments, 0
        if context:
            take = partial(_beside, window=window, part=part, T=T) if window else _gathered
            k, v, k_segments = take(k), take(v), take(segments + 1) - 1
            offset = window or part * t
            if relative is not None:
                relative = relative.rows(T - t - offset, t + k.shape[1] - 1)
        seed = random_seed(random, row * b, head * n, part * t)
        return attend(Shard((q, k, v, segments, k_segments, relative), seed, offset))

    array, ids = P(rows or None, context or None, heads or None, None), P(rows or None, context or None)
    tables = None
    if relative is not None:
        tables = RelativeTerms(*(None if x is None else P(*(None, heads or None, None)[: x.ndim]) for x in relative))
    specs = (array, array, array, ids, tables, None if random is None else P())
    # The kernels do not say over which axes their results differ, which is what check_vma would check.
    return jax.shard_map(local, in_specs=specs, out_specs=array, check_vma=False)(
        q, k, v, segment_ids, relative, random
    )


def _gathered(x: jax.Array) -> jax.Array:
    """[b, t, ...] -> [b, T, ...], the whole rows."""
    return jax.lax.all_gather(x, "context", axis=1, tiled=True)


def _beside(x: jax.Array, window: int, part: jax.Array, T: int) -> jax.Array:
    """[b, t, ...] -> [b, t + 2 window, ...]: with what is beside it in the row, 0 outside of the row."""
    t = x.shape[1]
    if window > t:  # more than the neighbours have
        x = jnp.pad(_gathered(x), [(0, 0), (window, window)] + [(0, 0)] * (x.ndim - 2))
        return jax.lax.dynamic_slice_in_dim(x, part * t, t + 2 * window, axis=1)
    parts = T // t
    before = jax.lax.ppermute(x[:, t - window :], "context", [(i, i + 1) for i in range(parts - 1)])
    behind = jax.lax.ppermute(x[:, :window], "context", [(i + 1, i) for i in range(parts - 1)])
    return jnp.concatenate([before, x, behind], axis=1)
