"""The parts a block is made of: projections, norms, embeddings and the (gated) MLP."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxencoder.kernels.dropout import dropout
from jaxencoder.kernels.platform import platform
from jaxencoder.model.config import EncoderConfig
from jaxencoder.sharding import replicate_rows

PRODUCT = "product"  # the name of a projection's output, for remat policies: they do not see into a custom gradient


@jax.custom_vjp
def _gelu(x: jax.Array) -> jax.Array:
    # jax.nn.gelu takes erfc, more exact for x < -3, where gelu(x) is all but 0; by it an MLP and its gradients take
    # twice as long on a CPU.
    y = x.astype(jnp.float32)
    return (y * _normal_cdf(y)).astype(x.dtype)


def _gelu_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    # Behind the barrier erf is computed again; else XLA keeps it from the forward pass, as large as x.
    y = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * y * y) * (2 * math.pi) ** -0.5
    return ((dy * (_normal_cdf(y) + y * density)).astype(x.dtype),)


def _normal_cdf(y: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(y * 2**-0.5))


_gelu.defvjp(lambda x: (_gelu(x), x), _gelu_backward)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
}


class Linear(nn.Module):
    """y = einsum(spec, x, kernel) + bias, in the dtype of x with float32 parameters and accumulation.

    `spec` names the axes, such as "BTD,DNH->BTNH"; the kernel's axes that are not summed over become the bias.
    """

    spec: str
    shape: tuple[int, ...]
    bias: bool
    initializer_std: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.truncated_normal(self.initializer_std), self.shape)
        y = checkpoint_name(_project(x, kernel.astype(x.dtype)), PRODUCT)
        if self.bias:
            inputs, outputs = self.spec.split("->")
            axes = inputs.split(",")[1]
            shape = tuple(size for axis, size in zip(axes, self.shape, strict=True) if axis in outputs)
            y = y + self.param("bias", nn.initializers.zeros, shape).astype(y.dtype)
        return y.astype(x.dtype)


@jax.custom_vjp
def _project(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum over what x [B, T, ...] and the kernel share: x's axes after the first two, the kernel's first ones."""
    return jnp.tensordot(x, kernel, x.ndim - 2, preferred_element_type=_accumulator(x.dtype))


def _project_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _project(x, kernel), (x, kernel)


def _project_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    # XLA's CPU backend copies the left factor of the kernel's gradient into columns, together with whatever computed
    # it. jax would put dy there: the derivative of a gated activation, in strides of a power of two, was 45% of
    # ModernBERT's step. The narrower factor goes left instead (BERT: 7%), and the barrier keeps XLA from turning the
    # factors round where the result has to be turned.
    x, kernel = (factor.astype(dy.dtype) for factor in saved)  # dy is the accumulator's: float32 on a CPU
    product = partial(jax.lax.dot_general, preferred_element_type=dy.dtype)
    inputs, outputs = x.ndim - 2, dy.ndim - 2
    dx = product(dy, kernel, ((range(2, dy.ndim), range(inputs, kernel.ndim)), ((), ())))
    rows = (((0, 1), (0, 1)), ((), ()))
    if platform() != "cpu" or math.prod(x.shape[2:]) <= math.prod(dy.shape[2:]):
        dkernel = product(x, dy, rows)
    else:
        dkernel = jax.lax.optimization_barrier(product(dy, x, rows))
        dkernel = jnp.moveaxis(dkernel, range(outputs), range(-outputs, 0))
    return dx.astype(saved[0].dtype), dkernel.astype(saved[1].dtype)


_project.defvjp(_project_forward, _project_backward)


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    # XLA's CPU backend multiplies bfloat16 several times faster into float32 than into bfloat16; elsewhere the
    # accumulation is float32 whatever the output, and a narrow output saves bandwidth.
    return jnp.float32 if platform() == "cpu" else dtype


class Norm(nn.Module):
    """Layer norm (Ba et al. 2016, arXiv:1607.06450) or RMS norm (Zhang and Sennrich 2019, arXiv:1910.07467) over the
    last axis, computed in float32."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return normalise(self.config, _norm_parameters(self, x.shape[-1]), x)


class NormParameters(nn.Module):
    """The parameters of a `Norm` that another module applies, by `normalise`: D -> {"scale": [D], "bias": [D]}."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, size: int) -> dict[str, jax.Array]:
        return _norm_parameters(self, size)


def _norm_parameters(module: Norm | NormParameters, size: int) -> dict[str, jax.Array]:
    params = {"scale": module.param("scale", nn.initializers.ones, (size,))}
    if module.config.norm_bias:
        params["bias"] = module.param("bias", nn.initializers.zeros, (size,))
    return params


def normalise(config: EncoderConfig, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """`Norm` with the parameters scale and, where there is one, bias [D]: [..., D] -> [..., D]."""
    return _normalise(x, params["scale"], params.get("bias"), config.norm_epsilon, config.norm == "layer")


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(x: jax.Array, scale: jax.Array, bias: jax.Array | None, epsilon: float, centred: bool) -> jax.Array:
    y, factor = _unscaled(x, epsilon, centred)
    y *= factor * scale
    return (y if bias is None else y + bias).astype(x.dtype)


def _unscaled(x: jax.Array, epsilon: float, centred: bool) -> tuple[jax.Array, jax.Array]:
    """float32 x, of mean 0 if centred, and the factor that gives it variance 1."""
    y = x.astype(jnp.float32)
    if centred:
        y -= y.mean(-1, keepdims=True)
    return y, jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)


def _normalise_backward(
    epsilon: float, centred: bool, saved: tuple[jax.Array, jax.Array, jax.Array | None], dy: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    # In closed form from x alone. What jax derives keeps float32 values as large as x, and XLA's CPU backend makes one
    # call of a library of it, which takes from 4 to 10 times as long.
    x, scale, bias = saved
    y, factor = _unscaled(x, epsilon, centred)
    y *= factor
    dy = dy.astype(jnp.float32)
    rows = tuple(range(dy.ndim - 1))
    d = dy * scale
    dx = d - y * (d * y).mean(-1, keepdims=True)
    if centred:
        dx -= d.mean(-1, keepdims=True)
    dx = (dx * factor).astype(x.dtype)
    return dx, (dy * y).sum(rows).astype(scale.dtype), None if bias is None else dy.sum(rows).astype(bias.dtype)


_normalise.defvjp(lambda x, scale, bias, *_: (_normalise(x, scale, bias, *_), (x, scale, bias)), _normalise_backward)


class Convolved(NamedTuple):
    """What `Convolution` adds to the first layer's output, [B, T, D], and the parameters of the norm after that."""

    x: jax.Array
    norm: dict[str, jax.Array]

    def added(self, x: jax.Array, config: EncoderConfig) -> jax.Array:
        return normalise(config, self.norm, x + self.x)


class Convolution(nn.Module):
    """A convolution over the embeddings of each document, beside the first layer (DeBERTa-v2): [B, T, D] -> Convolved.

    The sum of shifted products: `conv_kernel_size` tokens around each one, those of other documents counting as zeros.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, segment_ids: jax.Array, train: bool) -> Convolved:
        c = self.config
        D, G, T, side = c.hidden_size, c.conv_groups, x.shape[1], c.conv_kernel_size // 2
        shape = (c.conv_kernel_size, D // G, D)
        kernel = self.param("kernel", nn.initializers.truncated_normal(c.initializer_std), shape).astype(x.dtype)
        y = jnp.zeros((*x.shape[:2], G, D // G), jnp.float32)
        for tap in range(-side, side + 1):
            at = jnp.clip(jnp.arange(T) + tap, 0, T - 1)
            there = (jnp.arange(T) + tap == at) & (jnp.take(segment_ids, at, axis=1) == segment_ids)
            neighbours = jnp.where(there[..., None], x[:, at], 0).reshape(*x.shape[:2], G, D // G)
            weights = kernel[tap + side].reshape(D // G, G, D // G)
            y += jnp.einsum("BTGI,IGO->BTGO", neighbours, weights, preferred_element_type=jnp.float32)
        y = y.reshape(x.shape) + self.param("bias", nn.initializers.zeros, (D,))
        y = jnp.where(segment_ids[..., None] > 0, y, 0).astype(x.dtype)
        if train and c.dropout:
            y = dropout(y, c.dropout, self.make_rng("dropout"))
        return Convolved(ACTIVATIONS[c.conv_activation](y), NormParameters(c, name="norm")(D))


class Embeddings(nn.Module):
    """The sum of token, position and token-type embeddings, normalised and, if narrow, widened: [B, T] -> [B, T, D]."""

    config: EncoderConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, token_ids: jax.Array, positions: jax.Array, token_type_ids: jax.Array | None, train: bool
    ) -> jax.Array:
        c = self.config

        def table(name: str, rows: int) -> jax.Array:
            shape = rows, c.embedding_width
            return replicate_rows(self.param(name, nn.initializers.truncated_normal(c.initializer_std), shape))

        x = table("token_embedding", c.vocab_size)[token_ids]
        if c.positions == "learned":
            x += table("position_embedding", c.max_length)[positions]
        if c.token_types:
            types = table("token_type_embedding", c.token_types)
            one = token_type_ids is None or c.token_types == 1  # as in RoBERTa, whose pairs are told by separators
            x += types[0] if one else types[token_type_ids]
        if c.embedding_norm:
            x = Norm(c, name="norm")(x)
        x = x.astype(self.dtype)
        if train and c.dropout:
            x = dropout(x, c.dropout, self.make_rng("dropout"))
        if c.embedding_size:
            shape = (c.embedding_size, c.hidden_size)
            x = Linear("BTE,ED->BTD", shape, True, c.initializer_std, name="projection")(x)
        return x


class Bottleneck(nn.Module):
    """x + up(activation(down(x))), an adapter that changes nothing before it has learned: [B, T, D] -> [B, T, D].

    Houlsby et al. 2019, arXiv:1902.00751.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, M = c.hidden_size, c.bottleneck
        h = ACTIVATIONS[c.activation](Linear("BTD,DM->BTM", (D, M), True, c.initializer_std, name="down")(x))
        return x + Linear("BTM,MD->BTD", (M, D), True, 0.0, name="up")(h)


class Mlp(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) when gated."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c = self.config
        D, F = c.hidden_size, c.mlp_size
        act = ACTIVATIONS[c.activation]
        h = Linear("BTD,DF->BTF", (D, F), c.mlp_bias, c.initializer_std, name="up")(x)
        h = (
            act(Linear("BTD,DF->BTF", (D, F), c.mlp_bias, c.initializer_std, name="gate")(x)) * h
            if c.gated_mlp
            else act(h)
        )
        return Linear("BTF,FD->BTD", (F, D), c.mlp_bias, c.initializer_std, name="down")(h)
