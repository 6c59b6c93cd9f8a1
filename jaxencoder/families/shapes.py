"""Shapes of a model's parameters, without computing or allocating them."""

from collections.abc import Mapping
from functools import cache

import jax
import jax.numpy as jnp

from jaxencoder.families.tables import Params
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Head, HeadConfig, MlmHead


def parameter_shapes(config: EncoderConfig, mlm_head: bool, heads: Mapping[str, HeadConfig] | None = None) -> Params:
    """The shapes of the parameters of an encoder and its heads, as a tree of ShapeDtypeStructs."""
    key = jax.random.key(0)
    hidden = jax.ShapeDtypeStruct((1, 1, config.hidden_size), jnp.float32)
    shapes = {"encoder": _encoder_shapes(config)}
    if mlm_head:
        shapes["mlm_head"] = jax.eval_shape(MlmHead(config).init, key, hidden).get("params", {})
    for name, head in (heads or {}).items():
        shapes[name] = jax.eval_shape(Head(config, head).init, key, hidden)["params"]
    return shapes


@cache
def _encoder_shapes(config: EncoderConfig) -> Params:
    token = jnp.ones((1, 1), jnp.int32)
    return jax.eval_shape(Encoder(config).init, jax.random.key(0), token, token, token)["params"]
