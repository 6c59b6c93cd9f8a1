"""The parts of a block: projections, norms, embeddings, the (gated) MLP and mixtures of experts."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import dropout
from jaxencoder.kernels.experts import mixture_on_mesh
from jaxencoder.kernels.gradients import gelu, normalize, project
from jaxencoder.model.config import EncoderConfig
from jaxencoder.sharding import replicate_rows

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_clipped": lambda x: jnp.clip(gelu(x), -10, 10),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}


def apply(module: nn.Module, params: Mapping[str, Any], *inputs: Any, **options: Any) -> Any:
    """The output of a module with parameters `params`; `options` are those of `module.apply`, such as `rngs`."""
    return module.apply({"params": params}, *inputs, **options)


def init_table(config: EncoderConfig) -> nn.initializers.Initializer:
    """Initializer of kernels and tables: a normal distribution truncated at two standard deviations."""
    return nn.initializers.truncated_normal(config.initializer_std)


class Linear(nn.Module):
    """y = einsum(spec, x, kernel) + bias, in the dtype of x with float32 parameters and accumulation.

    `spec` names the axes, such as "BTD,DNH->BTNH"; the bias has the kernel's axes that are not summed over.
    """

    spec: str
    shape: tuple[int, ...]
    bias: bool
    initializer_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.truncated_normal(self.initializer_std), self.shape)
        y = project(x, kernel.astype(x.dtype))
        if self.bias:
            inputs, outputs = self.spec.split("->")
            axes = inputs.split(",")[1]
            shape = tuple(size for axis, size in zip(axes, self.shape, strict=True) if axis in outputs)
            y = y + self.param("bias", nn.initializers.zeros, shape).astype(y.dtype)  # float32 on a CPU
        return y.astype(x.dtype)


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis, computed in float32: [..., D] -> [..., D]."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        params = {"scale": self.param("scale", init_scale(self.config), x.shape[-1:])}
        if self.config.norm_bias:
            params["bias"] = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return apply_norm(self.config, params, x)


def init_scale(config: EncoderConfig) -> nn.initializers.Initializer:
    """Initializer of a norm's scale, so that the norm starts with a factor of 1."""
    return nn.initializers.zeros if config.norm_unit_offset else nn.initializers.ones


def apply_norm(config: EncoderConfig, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """A `Norm` with the given parameters, scale and optionally bias [D]: [..., D] -> [..., D]."""
    scale = params["scale"] + 1 if config.norm_unit_offset else params["scale"]
    return normalize(x, scale, params.get("bias"), config.norm_epsilon, config.norm == "layer")


class Convolution(nn.Module):
    """A convolution over the embeddings of each document, parallel to the first layer (DeBERTa-v2).

    [B, T, D] -> [B, T, D], the term to add to that layer's output, and the parameters of the norm after the sum. It is
    a sum of shifted products: `conv_kernel_size` tokens around each token; those of other documents count as zeros.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, segment_ids: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        c = self.config
        D, G, T, side = c.hidden_size, c.conv_groups, x.shape[1], c.conv_kernel_size // 2
        kernel = self.param("kernel", init_table(c), (c.conv_kernel_size, D // G, D)).astype(x.dtype)
        y = jnp.zeros((*x.shape[:2], G, D // G), jnp.float32)  # [B, T, G, O], float32 sums over the taps
        for tap in range(-side, side + 1):
            index = jnp.clip(jnp.arange(T) + tap, 0, T - 1)
            # A tap outside the row is clipped to its border, which is then another token than the one meant.
            same_document = (jnp.arange(T) + tap == index) & (jnp.take(segment_ids, index, axis=1) == segment_ids)
            neighbors = jnp.where(same_document[..., None], x[:, index], 0).reshape(y.shape)  # [B, T, G, I]
            weights = kernel[tap + side].reshape(D // G, G, D // G)  # [I, G O] -> [I, G, O]
            y += jnp.einsum("BTGI,IGO->BTGO", neighbors, weights, preferred_element_type=jnp.float32)
        y = y.reshape(x.shape) + self.param("bias", nn.initializers.zeros, (D,))
        y = jnp.where(segment_ids[..., None] > 0, y, 0).astype(x.dtype)  # padding stays 0
        if train and c.dropout:
            y = dropout(y, c.dropout, self.make_rng("dropout"))
        scale, bias = init_scale(c), {"bias": jnp.zeros(D)} if c.norm_bias else {}
        norm = self.param("norm", lambda key: {"scale": scale(key, (D,))} | bias)
        return ACTIVATIONS[c.conv_activation](y), norm


class Embeddings(nn.Module):
    """The sum of token, position, token-type and task embeddings, normalized and, if narrow, projected: [B, T, D]."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        token_ids: jax.Array,
        positions: jax.Array,
        token_type_ids: jax.Array | None,
        train: bool,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        c = self.config

        def table(name: str, rows: int) -> jax.Array:
            return replicate_rows(self.param(name, init_table(c), (rows, c.embedding_width)))

        x = table("token_embedding", c.vocab_size)[token_ids]  # [B, T, E]
        if c.zeroed_token:
            documents = jnp.ones_like(token_ids) if segment_ids is None else segment_ids
            x *= _zeroing_factors(token_ids == c.zeroed_token, documents)[..., None]
        if c.scaled_embeddings:
            x *= math.sqrt(c.hidden_size)
        if c.positions == "learned":
            vectors = table("position_embedding", c.max_length)
            if c.position_pad_id < 0:
                x += vectors[positions]
            else:
                is_pad = token_ids == c.position_pad_id
                padding = self.param("padding_position", nn.initializers.zeros, (1, c.embedding_width))
                x += jnp.where(is_pad[..., None], padding, vectors[_positions_without(is_pad, positions)])
        if c.token_types:
            types = table("token_type_embedding", c.token_types)
            # RoBERTa has one type and marks pairs by separators alone.
            single = token_type_ids is None or c.token_types == 1
            x += types[0] if single else types[token_type_ids]
        if c.task_types:
            x += table("task_type_embedding", c.task_types)[0]
        if c.embedding_norm:
            x = Norm(c, name="norm")(x)
        x = x.astype(self.dtype)
        if train and c.dropout:
            x = dropout(x, c.dropout, self.make_rng("dropout"))
        if c.embedding_size:
            shape = (c.embedding_size, c.hidden_size)
            x = Linear("BTE,ED->BTD", shape, True, c.initializer_std, name="projection")(x)
        return x


def _zeroing_factors(is_zeroed: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Factors of embeddings: 0 for zeroed tokens, else 0.88 / (share of the others in the document): [B, T] float32."""
    kept = 1.0 - is_zeroed
    count = jax.vmap(lambda x, ids: jax.ops.segment_sum(x, ids, ids.shape[0] + 1)[ids])
    share = count(kept, segment_ids) / count(jnp.ones_like(kept), segment_ids)
    return kept * 0.88 / jnp.where(is_zeroed, 1.0, share)


def _positions_without(skipped: jax.Array, positions: jax.Array) -> jax.Array:
    """Positions [B, T], which restart in each document, as if the skipped tokens (bool [B, T]) were not there."""
    before = jnp.cumsum(skipped, axis=1) - skipped  # skipped tokens of the row before each token
    first = jnp.maximum(jnp.arange(skipped.shape[1]) - positions, 0)  # of the token's document
    return positions - before + jnp.take_along_axis(before, first, axis=1)


class Bottleneck(nn.Module):
    """x + up(activation(down(x))), an adapter (Houlsby et al. 2019, arXiv:1902.00751): [B, T, D] -> [B, T, D]."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, M = c.hidden_size, c.bottleneck
        h = ACTIVATIONS[c.activation](Linear("BTD,DM->BTM", (D, M), True, c.initializer_std, name="down")(x))
        return x + Linear("BTM,MD->BTD", (M, D), True, 0.0, name="up")(h)  # up starts at 0: the identity


class Mlp(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) when gated: [B, T, D] -> [B, T, D]."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, F, activate = c.hidden_size, c.mlp_size, ACTIVATIONS[c.activation]
        bias = c.mlp_bias and c.mlp_input_bias
        h = Linear("BTD,DF->BTF", (D, F), bias, c.initializer_std, name="up")(x)
        if c.gated_mlp:
            h = activate(Linear("BTD,DF->BTF", (D, F), bias, c.initializer_std, name="gate")(x)) * h
        else:
            h = activate(h)
        return Linear("BTF,FD->BTD", (F, D), c.mlp_bias, c.initializer_std, name="down")(h)


class Mixture(nn.Module):
    """An MLP whose kernels a router chooses for each token, of `num_experts`: [B, T, D] -> [B, T, D].

    The outputs of the `experts_per_token` experts with the largest scores are added, times their shares of the softmax
    over all scores, whose sum is below 1. One bias follows the sum.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, E, F = c.hidden_size, c.num_experts, c.mlp_size
        router = Linear("BTD,DE->BTE", (D, E), False, c.initializer_std, name="router")
        with jax.default_matmul_precision("highest"):  # rounding would change which experts are chosen
            scores = router(x.astype(jnp.float32))
        weights, experts = jax.lax.top_k(jax.nn.softmax(scores), c.experts_per_token)  # [B, T, K]
        shapes = {"up": (E, D, F), **({"gate": (E, D, F)} if c.gated_mlp else {}), "down": (E, F, D)}
        kernels = {name: self.param(f"expert_{name}", init_table(c), shape) for name, shape in shapes.items()}
        kernels = {name: kernel.astype(x.dtype) for name, kernel in kernels.items()}
        y = mixture_on_mesh(x, weights, experts, kernels, ACTIVATIONS[c.activation])
        return y + self.param("bias", nn.initializers.zeros, (D,)).astype(y.dtype) if c.mlp_bias else y
