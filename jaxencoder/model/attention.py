"""The attention block: projections to heads, positions, one call into the kernels, and the projection back."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.kernels.attention import attention, global_attention
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.model.layers import Linear
from jaxencoder.model.positions import rotate


class Attention(nn.Module):
    """Multi-head self-attention within documents: [B, T, D] -> [B, T, D].

    Vaswani et al. 2017, arXiv:1706.03762. `window` is 0 for a global layer; `rotary` the table of this layer's angles;
    `bias` [N, T, T] what the distance of two tokens adds to their score; `global_slots` [B, G] where the global tokens
    stand, None for a row without any.
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
        global_slots: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config
        D, N, K, H = c.hidden_size, c.num_heads, c.kv_heads, c.head_size

        def project(x: jax.Array, name: str, heads: int) -> jax.Array:
            return Linear("BTD,DNH->BTNH", (D, heads, H), c.attention_bias, c.init_scale, name=name)(x)

        q, k, v = (project(x, name, heads) for name, heads in (("query", N), ("key", K), ("value", K)))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
            v = rotate(v, rotary) if c.rotary_values else v
        if K < N:
            k, v = (jnp.repeat(y, N // K, axis=2) for y in (k, v))
        dropout = c.attention_dropout if self.train else 0.0
        options = {
            "window": self.window,
            "dropout": dropout,
            "key": self.make_rng("dropout") if dropout else None,
            "backend": "dense" if not self.window else self.compute.attention,
        }
        if global_slots is None:
            out = attention(q, k, v, segment_ids, bias=bias, **options)
        else:
            chosen = jnp.take_along_axis(x, jnp.maximum(global_slots, 0)[..., None], axis=1)  # [B, G, D]
            inputs = {"global_query": chosen, "global_key": x, "global_value": x}
            global_qkv = (project(y, name, N) for name, y in inputs.items())
            out = global_attention(q, k, v, *global_qkv, segment_ids, global_slots, **options)
        return Linear("BTNH,NHD->BTD", (N, H, D), c.attention_bias, c.init_scale, name="output")(out)
