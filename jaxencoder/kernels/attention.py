"""Attention over packed rows: one function, several backends, all equal to `dense`.

Every backend computes softmax(q k^T / sqrt(H) + mask) v, where a query sees the keys of its own document
(equal segment ids) that lie within its window. Padding (segment 0) sees padding only: no row of the softmax is empty.
"""

from functools import partial

import jax

from jaxencoder.kernels.banded import banded
from jaxencoder.kernels.choice import KERNELS, Backend, Name, choose_backend
from jaxencoder.kernels.chunked import chunked
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.mesh import Shard, on_mesh
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import Relative
from jaxencoder.kernels.splash import splash
from jaxencoder.kernels.tiled import fits, tiled
from jaxencoder.kernels.triton import runs, triton
from jaxencoder.sharding import length_shards


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    relative: Relative | None = None,
    window: int = 0,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    backend: Backend = "auto",
    late: bool = False,
) -> jax.Array:
    """Bidirectional attention within documents, on the mesh in use (`jax.set_mesh`).

    Args:
        q, k, v: [B, T, N, H], any float dtype; the softmax is float32.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        relative: what distances add, tables of 2 T - 1 rows. Where they are compared with contents, scores are divided
            by the root of H times the number of products in them (He et al. 2021); `bias` is added as it is.
        window: how many tokens to either side a query sees; 0 means all of its document.
        dropout: probability that an attention weight is dropped; needs `key`.
        backend: see `choose_backend`. `dense` holds [B, N, T, T] scores, `banded` [B, N, T, about 2 * window + 128],
            `chunked` [B, N, at most 512, T], the kernels (`splash`, `tiled`, `triton`) those of a tile.
        late: of `dense`.

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: a backend that cannot do it, tables of another length, or dropout without a key.
    """
    T = q.shape[1]
    if dropout and key is None:
        raise ValueError(f"Attention dropout {dropout} needs a key.")
    if relative is not None:
        if wrong := {len(table) for table in relative if table is not None} - {2 * T - 1}:
            raise ValueError(f"Rows of {T} tokens have {2 * T - 1} distances, but a table has {wrong.pop()} rows.")
        if all(table is None for table in relative):
            relative = None
    scale = (q.shape[-1] * (1 + (relative.products if relative else 0))) ** -0.5
    if relative is not None and relative.queries is not None:
        relative = relative._replace(queries=relative.queries * scale)
    options = {"relative": relative is not None, "dropout": dropout, "split": length_shards()}
    tiles = fits(-(-T // options["split"]), T, q.shape[-1], q.dtype)
    name = choose_backend(backend, T, window, **options, tiles=tiles, triton=runs())
    attend = partial(_attend, name, window, dropout, late)
    return on_mesh(attend, q * scale, k, v, segment_ids, relative, key, window=window, kernel=name in KERNELS)


def _attend(name: Name, window: int, dropout: float, late: bool, shard: Shard) -> jax.Array:
    """One backend on what one device has; a kernel that is forced on another kind of device is interpreted."""
    options = {"window": window, "dropout": dropout, "seed": shard.seed, "offset": shard.offset}
    match name:
        case "dense":
            return dense(*shard.arrays, **options, late=late)
        case "banded":
            return banded(*shard.arrays, **options)
        case "chunked":
            return chunked(*shard.arrays, **options)
        case "triton":
            q, k, v, segments, *_ = shard.arrays
            return triton(q, k, v, segments, interpret=platform() != "gpu")
        case "splash":
            *arrays, _ = shard.arrays
            return splash(*arrays, window=window, offset=shard.offset, interpret=platform() != "tpu")
        case "tiled":
            del options["window"]
            return tiled(*shard.arrays, **options, interpret=platform() != "tpu")
