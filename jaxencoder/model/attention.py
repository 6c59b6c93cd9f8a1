"""The attention block: projections to heads, positions, one call into the kernels, and the projection back."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.kernels.attention import attention
from jaxencoder.kernels.dropout import dropout as apply_dropout
from jaxencoder.kernels.global_tokens import global_attention
from jaxencoder.kernels.platform import platform
from jaxencoder.kernels.relative import Relative
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.layers import Linear
from jaxencoder.model.positions import distance_rows, rotate


class Attention(nn.Module):
    """Multi-head self-attention within documents: [B, T, D] -> [B, T, D].

    Vaswani et al. 2017, arXiv:1706.03762. `window` is 0 for a global layer; `rotary` the table of this layer's angles;
    `bias` [2 T - 1, N] what each distance adds to the scores; `distances` [R, D] the vectors of distances that
    `config.disentangled` compares with the tokens; `global_slots` [B, G] where the global tokens of a row stand.
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
        rotary: tuple[jax.Array, jax.Array] | None,
        bias: jax.Array | None = None,
        distances: jax.Array | None = None,
        global_slots: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        D, N, K, H = c.hidden_size, c.num_heads, c.kv_heads, c.head_size
        bias_of = {"query": c.attention_bias, "key": c.attention_bias and c.key_bias, "value": c.attention_bias}

        def projection(name: str, kind: str, heads: int) -> Linear:
            return Linear("BTD,DNH->BTNH", (D, heads, H), bias_of[kind], c.initializer_std, name=name)

        def spread(y: jax.Array) -> jax.Array:
            """Keys or values of K heads, each for several of the queries; those of N are so already."""
            return y if y.shape[2] == N else jnp.repeat(y, N // K, axis=2)

        query, key, value = (projection(kind, kind, heads) for kind, heads in (("query", N), ("key", K), ("value", K)))
        q, k, v = query(x), key(x), value(x)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
            v = rotate(v, rotary) if c.rotary_values else v
        relative = None if bias is None else Relative(bias=bias)
        if distances is not None:
            if c.relative_projection == "own":
                query, key = (projection(f"distance_{kind}", kind, N) for kind in ("query", "key"))
            y = distances.astype(x.dtype)[None]
            y = apply_dropout(y, c.dropout, self.make_rng("dropout")) if self.train and c.dropout else y
            rows = distance_rows(x.shape[1], c.position_buckets, c.max_distance)
            relative = Relative(
                keys=spread(key(y))[0, rows] if "c2p" in c.disentangled else None,
                queries=query(y)[0, rows] if "p2c" in c.disentangled else None,
                bias=bias,
            )
        k, v = spread(k), spread(v)
        dropout = c.attention_dropout if self.train else 0.0
        options = {
            "window": self.window,
            "dropout": dropout,
            "key": self.make_rng("dropout") if dropout else None,
            "backend": self.compute.attention,
        }
        if global_slots is None:
            late = not self.train and platform() == "cpu"
            out = attention(q, k, v, segment_ids, relative=relative, late=late, **options)
        else:
            query, key, value = (projection(f"global_{kind}", kind, N) for kind in ("query", "key", "value"))
            chosen = jnp.take_along_axis(x, jnp.maximum(global_slots, 0)[..., None], axis=1)  # [B, G, D]
            others = (query(chosen), key(x), value(x), segment_ids, global_slots)
            out = global_attention(q, k, v, *others, **options)
        return Linear("BTNH,NHD->BTD", (N, H, D), c.attention_bias, c.initializer_std, name="output")(out)
