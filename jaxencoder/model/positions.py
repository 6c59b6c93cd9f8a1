"""Rotary positions, relative biases and embeddings of distances.

Rotary: pairs of a head's dimensions turn by an angle that grows with the position (Su et al. 2021, RoFormer,
arXiv:2104.09864); the pairs are (i, i + H/2), as in GPT-NeoX and ModernBERT.
Relative: a learned number for each distance, far ones sharing (Raffel et al. 2020, T5, arXiv:1910.10683), or a fixed
one (Press et al. 2022, ALiBi, arXiv:2108.12409).
Distances: a learned vector for each distance, which attention compares with contents (He et al. 2021, DeBERTa,
arXiv:2006.03654).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.layers import Norm


def rotary_table(positions: jax.Array, head_size: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of every position.

    Args:
        positions: [B, T] int.
        head_size: H, even.
        theta: base of the geometric series of wavelengths, 2 pi ... 2 pi theta (tokens).

    Returns:
        (cos, sin), each [B, T, 1, H / 2] float32.
    """
    frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, table: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn queries or keys [B, T, N, H] by their positions' angles; computed in float32, returned in x's dtype."""
    cos, sin = table
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class RelativeBias(nn.Module):
    """What each distance adds to the attention scores of each head: T -> [2 T - 1, N] float32, row T - 1 + d for a key
    d tokens after the query."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, T: int) -> jax.Array:
        c = self.config
        table = self.param("table", nn.initializers.truncated_normal(c.init_scale), (c.relative_buckets, c.num_heads))
        return table[distance_buckets(np.arange(1 - T, T), c.relative_buckets)]


def alibi(T: int, heads: int) -> jax.Array:
    """What ALiBi adds to the attention scores of each head: a slope times minus the distance, to either side alike.

    The slopes are 2^(-8/N), 2^(-16/N), ..., 2^-8 where N is a power of two; otherwise those of the power below, and
    every second one of the power above, as in the paper's code.

    Args:
        T: tokens of a row.
        heads: N.

    Returns:
        [2 T - 1, N] float32, row T - 1 + d for a key d tokens after the query.
    """
    below = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 / below * np.arange(1, below + 1))
    between = 2.0 ** (-4 / below * np.arange(1, 2 * below + 1, 2))
    slopes = np.concatenate([slopes, between[: heads - below]])
    return jnp.asarray(-np.abs(np.arange(1 - T, T))[:, None] * slopes, jnp.float32)


def distance_buckets(distances: np.ndarray, buckets: int, furthest: int = 128) -> np.ndarray:
    """Rows of a table of relative biases, int32, from distances (key minus query, any shape).

    Half the rows are for keys after the query. Of each half, one half is for the exact distances 0, 1, ..., the other
    for ranges that grow as their logarithm up to `furthest`, from where on all share the last row.
    """
    half = buckets // 2
    exact = half // 2
    away = np.abs(distances)
    # float32, as the reference computes it: at a range's edge the rounding decides.
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(furthest / exact))
    ranges = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return (np.where(away < exact, away, ranges) + half * (distances > 0)).astype(np.int32)


class DistanceEmbedding(nn.Module):
    """A vector for each row that `distance_rows` names: -> [2 * distance_span, D] float32."""

    config: EncoderConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        c = self.config
        shape = (2 * c.distance_span, c.hidden_size)
        table = self.param("table", nn.initializers.truncated_normal(c.init_scale), shape)
        return Norm(c, name="norm")(table) if c.distance_norm else table


def distance_rows(T: int, span: int, furthest: int) -> np.ndarray:
    """Rows of a table of distances, int32 [2 T - 1]: item T - 1 + d is for a key d tokens after the query.

    The table begins with the keys furthest after the query. With span 2 and T 3: d = -2 ... 2 -> 3 3 2 1 0.

    Args:
        T: tokens of a row.
        span: rows to either side; the distances beyond share the last one.
        furthest: 0, or the distance up to which those beyond span / 2 share rows in ranges that grow as their
            logarithm.
    """
    before = -np.arange(1 - T, T)  # of the key before the query
    if furthest:
        half = span // 2
        away = np.maximum(np.abs(before), half).astype(np.float32)
        # float32, as the reference computes it: at a range's edge the rounding decides.
        scale = np.log(np.float32((furthest - 1) / half))
        ranges = np.ceil(np.log(away / np.float32(half)) / scale * np.float32(half - 1)) + half
        before = np.where(np.abs(before) <= half, before, np.sign(before) * ranges)
    return np.clip(before + span, 0, 2 * span - 1).astype(np.int32)
