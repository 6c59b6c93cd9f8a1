"""Attention over packed rows: one function, several backends, all equal to `dense`.

Every backend computes softmax(q k^T / sqrt(H) + mask) v, where a query sees the keys of its own document
(equal segment ids) that lie within its window. Padding (segment 0) sees padding only: no row of the softmax is empty.
`global_attention` adds tokens that see all of their document and are seen by all of it.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import dropout as apply_dropout

Backend = Literal["auto", "dense", "banded"]
_BLOCK = 128  # queries that share one band of keys


class Relative(NamedTuple):
    """Disentangled attention's distances as keys and queries (He et al. 2021, DeBERTa, arXiv:2006.03654).

    The score of query i and key j gets q_i . keys[d] and queries[d] . k_j, where row d = T - 1 + j - i.

    Attributes:
        keys, queries: [2 T - 1, N, H] in the dtype of q, or None for a term that is left out.
    """

    keys: jax.Array | None
    queries: jax.Array | None


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    *,
    bias: jax.Array | None = None,
    relative: Relative | None = None,
    window: int = 0,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    backend: Backend = "auto",
    late: bool = False,
) -> jax.Array:
    """Bidirectional attention within documents.

    Args:
        q, k, v: [B, T, N, H], any float dtype; the softmax is float32.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        bias: [N, T, T] float32, added to the scores after their scaling; for layers without a window.
        relative: distances to compare with contents, likewise; the scores are then divided by the root of H times the
            number of terms in them, as in the paper.
        window: how many tokens to either side a query sees; 0 means all of its document.
        dropout: probability that an attention weight is dropped; needs `key`.
        backend: `dense` holds [B, N, T, T] scores; `banded` holds [B, N, T, about 2 * window + 128] and needs a window.
        late: divide by the sum of the softmax after the product with v, as flash attention does (Dao et al. 2022,
            arXiv:2205.14135), where `dense` has no dropout: the same up to rounding, in half the time on a CPU.

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: `banded` without a window, or a bias or distances with one.
    """
    if backend == "banded" and not window:
        raise ValueError("The banded attention backend needs a window; use backend='dense' for global layers.")
    if (bias is not None or relative is not None) and window:
        raise ValueError(f"A bias or a score of distances cannot be combined with the attention window {window}.")
    if dropout and key is None:
        raise ValueError(f"Attention dropout {dropout} needs a key.")
    terms = 1 + sum(part is not None for part in relative or ())
    scale = (q.shape[-1] * terms) ** -0.5
    q = q * scale
    if chosen_backend(backend, window, q.shape[1]) == "dense":
        if relative is not None:
            bias = _distance_scores(q, k * scale, relative)
        return _dense(q, k, v, segment_ids, bias, window, dropout, key, late=late and not dropout)
    return _banded(q, k, v, segment_ids, window, dropout, key)


def global_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    global_q: jax.Array,
    global_k: jax.Array,
    global_v: jax.Array,
    segment_ids: jax.Array,
    global_slots: jax.Array,
    *,
    window: int,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """Attention within a window, and from and to a few global tokens in all of their document.

    Longformer (Beltagy et al. 2020, arXiv:2004.05150): every token sees its window and its document's global tokens,
    in one softmax. A global token's own output is softmax(global_q global_k^T / sqrt(H)) global_v instead, over all of
    its document.

    Args:
        q, k, v: [B, T, N, H], any float dtype; the softmax is float32.
        global_q: [B, G, N, H] of the global tokens alone.
        global_k, global_v: [B, T, N, H], what they see.
        segment_ids: [B, T] int, the document of each token, 0 for padding.
        global_slots: [B, G] int, where in the row the global tokens stand, none twice; -1 where there is none.
        window: how many tokens to either side a query sees.
        dropout: probability that an attention weight is dropped; needs `key`.
        backend: `dense` holds [B, N, T, T] scores; `banded` holds [B, N, T, about 2 * window + 128 + 2 * G].

    Returns:
        [B, T, N, H] in the dtype of v.

    Raises:
        ValueError: no window, or dropout without a key.
    """
    if not window:
        raise ValueError("Global tokens need a window for the others; without one every token is global.")
    if dropout and key is None:
        raise ValueError(f"Attention dropout {dropout} needs a key.")
    T = segment_ids.shape[1]
    local_key, global_key = (None, None) if key is None else jax.random.split(key)
    there, inside = global_slots >= 0, jnp.maximum(global_slots, 0)
    slots = jnp.where(there, global_slots, T)  # behind the row: dropped when written
    write = jax.vmap(lambda row, at, values: row.at[at].set(values, mode="drop"))
    is_global = write(jnp.zeros(segment_ids.shape, bool), slots, there)
    slot_segments = jnp.where(there, jnp.take_along_axis(segment_ids, inside, axis=1), -1)  # -1 is nobody's
    q, global_q = (x * (x.shape[-1] ** -0.5) for x in (q, global_q))
    if chosen_backend(backend, window, T) == "dense":
        out = _dense(q, k, v, segment_ids, None, window, dropout, local_key, is_global)
    else:
        beside_k, beside_v = (jnp.take_along_axis(x, inside[..., None, None], axis=1) for x in (k, v))
        beside = beside_k, beside_v, slot_segments, is_global
        out = _banded(q, k, v, segment_ids, window, dropout, local_key, beside)
    mask = slot_segments[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, G, S]
    scores = jnp.einsum("BGNH,BSNH->BNGS", global_q, global_k, preferred_element_type=jnp.float32)
    weights = apply_dropout(_softmax(scores, mask), dropout, global_key).astype(global_v.dtype)
    seen = jnp.einsum("BNGS,BSNH->BGNH", weights, global_v, preferred_element_type=jnp.float32)
    return write(out, slots, seen.astype(out.dtype))


def chosen_backend(backend: Backend, window: int, T: int) -> Literal["dense", "banded"]:
    """The backend of a layer: `auto` resolved for rows of T tokens, and dense wherever there is no window."""
    if not window or backend == "dense":
        return "dense"
    return "banded" if backend == "banded" or _BLOCK + 2 * _chunk(window) < T else "dense"


def _dense(q, k, v, segment_ids, bias, window, dropout, key, is_global=None, late=False):
    T = q.shape[1]
    mask = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]  # [B, 1, T, S]
    if window:
        near = jnp.abs(jnp.arange(T)[:, None] - jnp.arange(T)) <= window
        mask &= near if is_global is None else near | is_global[:, None, None, :]
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k, preferred_element_type=jnp.float32)
    if bias is not None:
        scores += bias
    if late:
        # Added, the mask is worked out once for all heads.
        scores += jnp.where(mask, 0.0, -1e30)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        out = jnp.einsum("BNTS,BSNH->BNTH", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return jnp.swapaxes(out / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)
    weights = apply_dropout(_softmax(scores, mask), dropout, key).astype(v.dtype)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v, preferred_element_type=jnp.float32).astype(v.dtype)


def _distance_scores(q: jax.Array, k: jax.Array, relative: Relative) -> jax.Array:
    """What distances add to the scores, [B, N, T, S] float32; q and k are scaled."""
    scores = jnp.zeros((), jnp.float32)
    if relative.keys is not None:
        scores += _skew(jnp.einsum("BTNH,RNH->BNTR", q, relative.keys, preferred_element_type=jnp.float32))
    if relative.queries is not None:
        # Seen from the keys, the distances run the other way.
        y = jnp.einsum("BSNH,RNH->BNSR", k, relative.queries[::-1], preferred_element_type=jnp.float32)
        scores += jnp.swapaxes(_skew(y), -1, -2)
    return scores


def _skew(x: jax.Array) -> jax.Array:
    """[..., T, 2 T - 1] -> [..., T, T] where item (i, j) is x[i, T - 1 + j - i].

    By copies alone: filled up to 2 T columns and read in rows of 2 T - 1, every row begins one item earlier.
    """
    *rest, T, R = x.shape
    x = jnp.pad(x, [(0, 0)] * len(rest) + [(0, 0), (0, 1)]).reshape(*rest, T * (R + 1))
    return x[..., : T * R].reshape(*rest, T, R)[..., T - 1 :]


def _banded(q, k, v, segment_ids, window, dropout, key, beside=None):
    """Blocks of queries against the keys around them: the row is cut into chunks no shorter than the window, so a
    block of m chunks needs exactly the m + 2 chunks from one before it to one after it.

    `beside` are keys that every block sees after its band's and not among them: keys and values [B, G, N, H], their
    segments [B, G], and which tokens of the row they are [B, T].
    """
    B, T, N, H = q.shape
    C = _chunk(window)
    m = max(1, _BLOCK // C)
    block = m * C
    X = -(-T // block)  # blocks of queries
    pad = X * block - T

    def bands(x: jax.Array, fill: int = 0) -> jax.Array:
        """[B, T, ...] -> [B, X, (m + 2) * C, ...]"""
        x = jnp.pad(x, [(0, 0), (C, C + pad)] + [(0, 0)] * (x.ndim - 2), constant_values=fill)
        x = x.reshape(B, X * m + 2, C, *x.shape[2:])
        return jnp.concatenate([x[:, i : i + (X - 1) * m + 1 : m] for i in range(m + 2)], axis=2)

    queries = jnp.pad(q, [(0, 0), (0, pad), (0, 0), (0, 0)]).reshape(B, X, block, N, H)
    query_segments = jnp.pad(segment_ids, [(0, 0), (0, pad)]).reshape(B, X, block)
    distance = jnp.arange((m + 2) * C) - C - jnp.arange(block)[:, None]  # of a key from a query, in a band
    same = query_segments[..., :, None] == bands(segment_ids, -1)[..., None, :]  # outside the row (-1) is nobody's
    mask = (same & (jnp.abs(distance) <= window))[:, :, None]  # [B, X, 1, block, band]
    scores = jnp.einsum("BXTNH,BXSNH->BXNTS", queries, bands(k), preferred_element_type=jnp.float32)
    S = scores.shape[-1]
    if beside is not None:
        beside_k, beside_v, segments, is_beside = beside
        more = jnp.einsum("BXTNH,BGNH->BXNTG", queries, beside_k, preferred_element_type=jnp.float32)
        scores = jnp.concatenate([scores, more], axis=-1)
        theirs = query_segments[..., None] == segments[:, None, None, :]  # [B, X, block, G]
        mask = jnp.concatenate([mask & ~bands(is_beside)[:, :, None, None, :], theirs[:, :, None]], axis=-1)
    weights = apply_dropout(_softmax(scores, mask), dropout, key).astype(v.dtype)
    out = jnp.einsum("BXNTS,BXSNH->BXTNH", weights[..., :S], bands(v), preferred_element_type=jnp.float32)
    if beside is not None:
        out += jnp.einsum("BXNTG,BGNH->BXTNH", weights[..., S:], beside_v, preferred_element_type=jnp.float32)
    return out.astype(v.dtype).reshape(B, X * block, N, H)[:, :T]


def _chunk(window: int) -> int:
    return max(window, 32)


def _softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    # A finite floor: the queries that pad the last block of a band may see no key at all, and must not make NaN.
    return jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1)
