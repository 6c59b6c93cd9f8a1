"""Inputs of attention, and softmax attention in numpy, the reference of every backend."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.relative import RelativeTerms

B, N, H = 4, 2, 4
TERMS = ("keys", "queries", "bias")


def segments(T: int) -> np.ndarray:
    """One document; several with borders inside blocks; many short ones before padding; mostly padding."""
    at = np.arange(T)
    rows = [at * 0 + 1, 1 + at // 50, np.where(at < 2 * T // 3, 1 + at // 7, 0), at < max(T // 3, 1)]
    return np.stack(rows).astype(np.int32)


def padded(T: int) -> np.ndarray:
    """One document in each row, of every length down to one token."""
    return (np.arange(T) < np.array([T, T // 2 + 1, T // 3 + 1, 1])[:, None]).astype(np.int32)


def inputs(T: int, dtype: str = "float32", seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(2 * rng.standard_normal((B, T, N, H)), dtype) for _ in range(3)]


def tables(T: int, terms: Sequence[str] = TERMS, dtype: str = "float32") -> RelativeTerms | None:
    """Terms by distance; None for no terms."""
    rng = np.random.default_rng(1)
    shape = (2 * T - 1, N, H)
    drawn = {name: rng.standard_normal(shape[:2] if name == "bias" else shape) for name in terms}
    made = {name: jnp.asarray(x, "float32" if name == "bias" else dtype) for name, x in drawn.items()}
    return RelativeTerms(**made) if terms else None


def reference(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    ids: np.ndarray,
    window: int,
    relative: RelativeTerms | None = None,
    kept: np.ndarray | None = None,
    causal: bool = False,
) -> np.ndarray:
    """[B, T, N, H] float64; `kept` [B, N, T, S] holds the factors of dropout."""
    T = q.shape[1]
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    keys, queries, bias = relative or (None, None, None)
    rows = T - 1 + np.arange(T) - np.arange(T)[:, None]  # of key j for query i
    scores = np.einsum("BTNH,BSNH->BNTS", q, k)
    if keys is not None:
        scores += np.einsum("BTNH,TSNH->BNTS", q, np.asarray(keys, np.float64)[rows])
    if queries is not None:
        scores += np.einsum("TSNH,BSNH->BNTS", np.asarray(queries, np.float64)[rows], k)
    scores /= np.sqrt(H * (1 + (keys is not None) + (queries is not None)))
    if bias is not None:
        scores += np.moveaxis(np.asarray(bias, np.float64)[rows], -1, 0)
    sees = ids[:, None, :, None] == ids[:, None, None, :]
    if window:
        sees = sees & (np.abs(np.arange(T)[:, None] - np.arange(T)) <= window)
    if causal:
        sees = sees & (np.arange(T)[:, None] >= np.arange(T))
    weights = np.where(sees, np.exp(scores - scores.max(-1, keepdims=True)), 0)
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("BNTS,BSNH->BTNH", weights if kept is None else weights * kept, v)
