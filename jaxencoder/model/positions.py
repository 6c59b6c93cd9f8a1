"""Rotary positions, relative biases and relative-position embeddings, and their extension to longer texts.

Rotary positions (Su et al. 2021, RoFormer, arXiv:2104.09864) are extended by `EncoderConfig.rope_scaling`. Relative
positions need no extension: all distances beyond the last row share it.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.kernels.rotary import Table
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.layers import Norm, init_table


def rotary_table(
    positions: jax.Array, head_size: int, theta: float | jax.Array, scale: float | np.ndarray = 1.0
) -> Table:
    """Cosines and sines of positions [B, T], each [B, T, 1, H / 2] float32.

    `theta`, a scalar or [B, T, 1, 1], is the base of the geometric series of wavelengths, 2 pi ... 2 pi theta (tokens);
    `scale`, a scalar or [H / 2], is a factor of the frequencies.
    """
    # Exact in float32 only: as bfloat16, positions below 8192 would be off by up to 16.
    frequencies = theta ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size) * scale
    angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B, T, 1, H / 2]
    return jnp.cos(angles), jnp.sin(angles)


def rotary_frequencies(head_size: int, theta: float) -> np.ndarray:
    """Frequencies of the rotary wavelengths, [H / 2] float32."""
    return (theta ** (-np.arange(0, head_size, 2) / head_size)).astype(np.float32)


def half_precision_frequencies(head_size: int, theta: float) -> np.ndarray:
    """The frequencies rounded to float16, [H / 2] float32."""
    return rotary_frequencies(head_size, theta).astype(np.float16).astype(np.float32)


def rotary_table_for(c: EncoderConfig, positions: jax.Array, segment_ids: jax.Array, local: bool) -> Table:
    """The `rotary_table` of the layers with a window (`local`) or of the global layers, scaled by `rope_scaling`."""
    theta = c.rope_theta_local if local else c.rope_theta
    scaling = "none" if local and not c.rope_scaling_local else c.rope_scaling
    match scaling:
        case "linear":
            return rotary_table(positions, c.head_size, theta, 1 / c.rope_factor)
        case "dynamic":
            ratio = jnp.maximum(_text_lengths(positions, segment_ids) / c.rope_original_length, 1.0)
            scaled_theta = ntk_theta(theta, c.head_size, c.rope_factor * ratio - (c.rope_factor - 1))
            return rotary_table(positions, c.head_size, scaled_theta[..., None, None])
        case "yarn":
            cos, sin = rotary_table(positions, c.head_size, theta, _yarn_scale(c, theta))
            size = c.rope_attention_factor or 0.1 * math.log(c.rope_factor) + 1  # the paper's sqrt(1 / t)
            return cos * size, sin * size  # of queries and keys: scores grow by its square
        case "llama3":
            return rotary_table(positions, c.head_size, theta, _llama3_scale(c, theta))
    if c.rope_half_precision:
        scale = half_precision_frequencies(c.head_size, theta) / rotary_frequencies(c.head_size, theta)
        return rotary_table(positions, c.head_size, theta, scale)
    return rotary_table(positions, c.head_size, theta)


def ntk_theta(theta: float, head_size: int, factor: float | jax.Array) -> Any:  # a float or an array, as `factor`
    """The base that makes the longest wavelength `factor` times longer and keeps the shortest one (NTK-aware, Peng et
    al. 2023, arXiv:2309.00071, section 3.1)."""
    return theta * factor ** (head_size / (head_size - 2))  # the longest wavelength is 2 pi theta^((H - 2) / H)


def _text_lengths(positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Length of the text that each token belongs to, its largest position + 1: [B, T] int."""
    T = positions.shape[1]
    longest = jax.vmap(lambda x, ids: jax.ops.segment_max(x, ids, T + 1)[ids])
    return longest(positions, segment_ids) + 1


def _yarn_scale(c: EncoderConfig, theta: float) -> np.ndarray:
    """Factor of each frequency, [H / 2] float32, from 1 to 1 / rope_factor."""
    H = c.head_size

    def index(turns: float) -> float:
        """Index of the wavelength with this many turns in rope_original_length tokens."""
        return H * math.log(c.rope_original_length / (2 * math.pi * turns)) / (2 * math.log(theta))

    first, last = (index(turns) for turns in c.rope_betas)
    first, last = max(math.floor(first), 0), min(math.ceil(last), H - 1)  # as in the reference code
    ramp = np.clip((np.arange(H // 2) - first) / max(last - first, 1e-3), 0, 1)  # 0 keeps a wavelength
    return (1 - ramp + ramp / c.rope_factor).astype(np.float32)


def _llama3_scale(c: EncoderConfig, theta: float) -> np.ndarray:
    """Factor of each frequency, [H / 2] float32, from 1 to 1 / rope_factor, linear in the number of turns."""
    fast, slow = c.rope_betas
    turns = c.rope_original_length * rotary_frequencies(c.head_size, theta) / (2 * math.pi)
    kept = np.clip((turns - slow) / max(fast - slow, 1e-6), 0, 1)
    return (kept + (1 - kept) / c.rope_factor).astype(np.float32)


def interpolate_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Extend a table of learned positions [L, D] to [length, D] by linear interpolation between its rows.

    The first row, which [CLS] always has, and the last one stay; with L 3 and length 5 the rows are 0, 1, 1 1/3,
    1 2/3, 2.
    """
    rows = np.concatenate([[0.0], np.linspace(1, len(table) - 1, length - 1)])
    below = np.minimum(rows.astype(int), len(table) - 2)
    weight = (rows - below)[:, None].astype(table.dtype)
    return table[below] * (1 - weight) + table[below + 1] * weight


def repeat_positions(table: np.ndarray, length: int) -> np.ndarray:
    """Extend a table of learned positions [L, D] to [length, D] by copies, as Longformer was made from RoBERTa.

    Except at the borders of the copies, neighbors look as in pretraining (Beltagy et al. 2020, section 5). The first
    row, which [CLS] always has, is not copied: with L 3 and length 6 the rows are 0, 1, 2, 1, 2, 1.
    """
    positions = np.arange(length)
    return table[np.where(positions > 0, (positions - 1) % (len(table) - 1) + 1, 0)]


class RelativeBias(nn.Module):
    """Learned terms of each head's attention scores by distance (Raffel et al. 2020, T5, arXiv:1910.10683): T ->
    [2 T - 1, N] float32, row T - 1 + d for a key d tokens after the query."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, T: int) -> jax.Array:
        c = self.config
        table = self.param("table", init_table(c), (c.relative_bias_buckets, c.num_heads))
        rows = by_distance(lambda T: distance_buckets(np.arange(1 - T, T), c.relative_bias_buckets), T, c.max_length)
        return table[rows]


def by_distance(function: Callable[[int], np.ndarray], T: int, longest: int) -> jax.Array:
    """What a function gives for rows of T tokens, one item for each of their 2 T - 1 distances: [2 T - 1, ...].

    A symbolic T (`jax.export.symbolic_shape`), at most `longest`, has the middle of what rows of that length have.
    """
    if isinstance(T, int):
        return jnp.asarray(function(T))
    return jax.lax.slice_in_dim(jnp.asarray(function(longest)), longest - T, longest + T - 1)


def alibi(T: int, heads: int, longest: int) -> jax.Array:
    """ALiBi (Press et al. 2022, arXiv:2108.12409), symmetric: minus a slope times the distance, as of `RelativeBias`.

    The slopes are 2^(-8/N), 2^(-16/N), ..., 2^-8 if N is a power of two; otherwise those of the next lower power,
    and every second one of the next higher power, as in the paper's code.
    """
    below = 1 << (heads.bit_length() - 1)
    slopes = 2.0 ** (-8 / below * np.arange(1, below + 1))  # those of the power of two below
    between = 2.0 ** (-4 / below * np.arange(1, 2 * below + 1, 2))  # every second one of the power above
    slopes = np.concatenate([slopes, between[: heads - below]])
    return by_distance(lambda T: (-np.abs(np.arange(1 - T, T))[:, None] * slopes).astype(np.float32), T, longest)


def distance_buckets(distances: np.ndarray, buckets: int, max_distance: int = 128) -> np.ndarray:
    """Rows of a table of relative biases, int32, from distances (key minus query, any shape).

    Half of the rows are for keys after the query. In each half, one half is for the exact distances 0, 1, ..., the
    other for logarithmic ranges up to `max_distance`; distances beyond share the last row.
    """
    half = buckets // 2
    exact = half // 2  # distances with their own row
    away = np.abs(distances)
    # float32, as the reference computes it: at a range's edge the rounding decides.
    span = np.float32(math.log(max_distance / exact))
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / span
    ranges = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return (np.where(away < exact, away, ranges) + half * (distances > 0)).astype(np.int32)


class DistanceEmbedding(nn.Module):
    """Relative-position embeddings (He et al. 2021, DeBERTa, arXiv:2006.03654), a vector for each row of
    `distance_rows`: [2 * position_buckets, D] float32."""

    config: EncoderConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        c = self.config
        table = self.param("table", init_table(c), (2 * c.position_buckets, c.hidden_size))
        return Norm(c, name="norm")(table) if c.relative_embedding_norm else table


def distance_rows(T: int, buckets: int, max_distance: int) -> np.ndarray:
    """Rows of a table of distances, int32 [2 T - 1]: item T - 1 + d is for a key d tokens after the query.

    The table begins with the keys furthest after the query. With 2 buckets and T 3: d = -2 ... 2 -> 3 3 2 1 0. There
    are `buckets` rows on either side; distances beyond share the last one. Up to `max_distance`, if it is not 0,
    distances beyond buckets / 2 share rows in logarithmic ranges.
    """
    before = -np.arange(1 - T, T)  # of the key before the query
    if max_distance:
        half = buckets // 2
        away = np.maximum(np.abs(before), half).astype(np.float32)
        # float32, as the reference computes it: at a range's edge the rounding decides.
        scale = np.log(np.float32((max_distance - 1) / half))
        ranges = np.ceil(np.log(away / np.float32(half)) / scale * np.float32(half - 1)) + half
        before = np.where(np.abs(before) <= half, before, np.sign(before) * ranges)
    return np.clip(before + buckets, 0, 2 * buckets - 1).astype(np.int32)
