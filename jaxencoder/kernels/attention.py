"""Attention over packed rows: one function, several backends, all equal to `dense`.

Every backend computes softmax(q k^T / sqrt(H) + mask) v, where a query sees the keys of its own document
(equal segment ids) within its window and, if `causal`, none after it. Padding (segment 0) sees padding only, so no row
of the softmax is empty.
"""

from dataclasses import replace
from functools import partial

import jax

from jaxencoder.kernels.banded import banded
from jaxencoder.kernels.choice import KERNELS, choose_backend
from jaxencoder.kernels.chunked import chunked
from jaxencoder.kernels.dense import dense
from jaxencoder.kernels.inputs import PLAIN, AttentionInputs, AttentionOptions, Segments
from jaxencoder.kernels.mesh import on_mesh
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.rotary import Table, rotate
from jaxencoder.kernels.single_pass import single_pass
from jaxencoder.kernels.splash import splash
from jaxencoder.kernels.tiled import fits, tiled
from jaxencoder.kernels.triton import runs, triton
from jaxencoder.sharding import length_shards

_BACKENDS = {
    "dense": dense, "banded": banded, "chunked": chunked,
    "single_pass": single_pass, "splash": splash, "tiled": tiled, "triton": triton,
}  # fmt: skip


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array | Segments,
    *,
    relative: RelativeTerms | None = None,
    options: AttentionOptions = PLAIN,
    key: jax.Array | None = None,
    rotary: Table | None = None,
) -> jax.Array:
    """Attention within documents, on the mesh in use (`jax.set_mesh`).

    Args:
        q, k, v: [B, T, N, H], any float dtype; the softmax is float32.
        segments: [B, T] int, the document of each token, 0 for padding; or `Segments`, where no query sees some keys.
        relative: terms by distance, tables of 2 T - 1 rows. Scores are divided by the root of H times the number of
            their products (He et al. 2021, equation 4); the bias is added unscaled.
        options: `dense` holds [B, N, T, T] scores, `banded` [B, N, T, about 2 * window + 128],
            `chunked` [B, N, at most 512, T], the kernels (`single_pass`, `splash`, `tiled`, `triton`) those of a tile.
        key: a PRNG key for dropout.
        rotary: angles to rotate queries and keys by; None: none.

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: a backend that does not support the layer, tables of another length, or dropout without a key.
    """
    T = q.shape[1]
    if options.dropout and key is None:
        raise ValueError(f"Attention dropout {options.dropout} needs a key.")
    if wrong := {table.shape[0] for table in relative or () if table is not None} - {2 * T - 1}:
        raise ValueError(f"Rows of {T} tokens have {2 * T - 1} distances, but a table has {wrong.pop()} rows.")
    # 1 / sqrt(3 H) with both of DeBERTa's terms: a sum of three products has three times the variance of one.
    products = 1 + sum(table is not None for table in (relative.keys, relative.queries)) if relative else 1
    scale = options.scale * products**-0.5 if options.scale else (q.shape[-1] * products) ** -0.5
    if relative and relative.queries is not None:
        relative = relative._replace(queries=relative.queries * scale)  # q brings the scale into the other products
    shards = length_shards()
    tiled_fits = options.backend in ("auto", "tiled") and fits(-(-T // shards), T, q.shape[-1], q.dtype)
    hides_keys = isinstance(segments, Segments)
    layer = {"relative": relative is not None, "hidden_keys": hides_keys, "length_shards": shards}
    name = choose_backend(options, T, **layer, tiled_fits=tiled_fits, triton_runs=runs())
    if name == "single_pass":  # which scales and rotates what it reads
        options = replace(options, scale=scale)
    elif rotary is None:
        q *= scale
    else:
        q, k, rotary = rotate(q, rotary) * scale, rotate(k, rotary), None
    both = segments if hides_keys else (segments, segments)
    inputs = AttentionInputs(q, k, v, relative, *both, rotary=rotary)
    # A kernel that is requested on another kind of device is interpreted.
    interpreted = {"interpret": platform() != KERNELS[name]} if name in KERNELS else {}
    attend = partial(_BACKENDS[name], options=options, **interpreted)
    return on_mesh(attend, inputs, key, window=options.window, kernel=name in KERNELS)
