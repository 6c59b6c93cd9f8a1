"""The attention block: projections to heads, positions, one call into the kernels, and the output projection."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dropout import dropout
from jaxencoder.kernels.global_tokens import QKV, global_attention
from jaxencoder.kernels.inputs import AttentionOptions, Segments
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import RelativeTerms
from jaxencoder.kernels.rotary import Table, rotate
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.layers import Linear, Norm
from jaxencoder.model.positions import RelativeBias, by_distance, distance_rows


class Attention(nn.Module):
    """Multi-head self-attention within documents (Vaswani et al. 2017, arXiv:1706.03762): [B, T, D] -> [B, T, D].

    `window` is 0 for a global layer; `rotary` is this layer's table of angles, `bias` [2 T - 1, N] terms of the scores
    by distance, `distances` [R, D] relative-position embeddings for `config.disentangled`, and `global_slots` [B, G]
    the positions of a row's global tokens. `key_segment_ids` [B, T] hide tokens from attention, see `attention`.
    """

    config: EncoderConfig
    compute: ComputeConfig
    window: int
    train: bool

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        rotary: Table | None,
        bias: jax.Array | None = None,
        distances: jax.Array | None = None,
        global_slots: jax.Array | None = None,
        key_segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        N, H, D = c.num_heads, c.head_size, c.hidden_size
        query, key, value = self._projections("", c.kv_heads)
        q, k, v = query(x), key(x), value(x)  # [B, T, N, H], or K heads
        if c.qk_norm:
            q, k = Norm(c, name="query_norm")(q), Norm(c, name="key_norm")(k)
        if rotary is not None and c.rotary_values:
            v = rotate(v, rotary)
        if rotary is not None and c.kv_heads < N:  # keys before they are repeated: fewer rotations
            q, k, rotary = rotate(q, rotary), rotate(k, rotary), None
        if c.relative_bias_by_layer:
            bias = RelativeBias(c, name="relative_bias")(x.shape[1])
        relative = None if bias is None else RelativeTerms(bias=bias)
        if distances is not None:
            if c.relative_projection == "separate":
                query, key, _ = self._projections("distance_", N)
            y = distances.astype(x.dtype)[None]  # [1, R, D]
            y = dropout(y, c.dropout, self.make_rng("dropout")) if self.train and c.dropout else y
            rows_of = partial(distance_rows, buckets=c.position_buckets, max_distance=c.max_distance)
            rows = by_distance(rows_of, x.shape[1], c.max_length)
            # [1, R, N, H] -> [2 T - 1, N, H] each: embeddings are projected once, then repeated for the distances.
            relative = RelativeTerms(
                keys=self._repeat_heads(key(y))[0][rows] if "c2p" in c.disentangled else None,
                queries=query(y)[0][rows] if "p2c" in c.disentangled else None,
                bias=bias,
            )
        k, v = self._repeat_heads(k), self._repeat_heads(v)
        rate = c.attention_dropout if self.train else 0.0
        # Without gradients, dividing after the product halves the time on a CPU.
        defer = not self.train and platform() == "cpu"
        options = AttentionOptions(
            self.window, rate, self.compute.attention, defer and global_slots is None, c.causal, c.attention_scale
        )
        rng = self.make_rng("dropout") if rate else None
        if global_slots is None:
            segments = segment_ids if key_segment_ids is None else Segments(segment_ids, key_segment_ids)
            out = attention(q, k, v, segments, relative=relative, options=options, key=rng, rotary=rotary)
        else:
            query, key, value = self._projections("global_", N)
            global_x = jnp.take_along_axis(x, jnp.maximum(global_slots, 0)[..., None], axis=1)  # [B, G, D]
            full = QKV(query(global_x), key(x), value(x))
            out = global_attention(QKV(q, k, v), full, segment_ids, global_slots, options=options, key=rng)
        return Linear("BTNH,NHD->BTD", (N, H, D), c.attention_bias, c.initializer_std, name="output")(out)

    def _projections(self, prefix: str, kv_heads: int) -> list[Linear]:
        """Query, key and value projections [B, T, D] -> [B, T, heads, H]; unused ones have no parameters."""
        c, bias = self.config, self.config.attention_bias
        choices = ("query", c.num_heads, bias), ("key", kv_heads, bias and c.key_bias), ("value", kv_heads, bias)
        return [
            Linear("BTD,DNH->BTNH", (c.hidden_size, heads, c.head_size), bias, c.initializer_std, name=prefix + name)
            for name, heads, bias in choices
        ]

    def _repeat_heads(self, y: jax.Array) -> jax.Array:
        """[B, S, K, H] or [B, S, N, H] -> [B, S, N, H], keys or values of K heads repeated for their query heads."""
        N = self.config.num_heads
        return y if y.shape[2] == N else jnp.repeat(y, N // y.shape[2], axis=2)
