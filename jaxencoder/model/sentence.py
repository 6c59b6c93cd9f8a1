"""From the vectors of a text's tokens to one vector: pooling, then the small modules that may follow it.

Reimers and Gurevych 2019 (Sentence-BERT), arXiv:1908.10084; Kusupati et al. 2022 (Matryoshka), arXiv:2205.13147.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxencoder.model.heads import Pooling, pool

_EPSILON = 1e-5  # of torch's LayerNorm, which nothing changes

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda x: x,
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


@dataclass(frozen=True)
class Dense:
    """A projection and an activation; with `residual` its input, projected where the sizes differ, is added."""

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "tanh"
    residual: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters: a kernel has its inputs first."""
        shapes = {"kernel": (self.inputs, self.outputs)}
        if self.bias:
            shapes["bias"] = (self.outputs,)
        if self.residual and self.inputs != self.outputs:
            shapes["residual"] = (self.inputs, self.outputs)
        return shapes

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = ACTIVATIONS[self.activation](x @ params["kernel"] + params.get("bias", 0))
        if not self.residual:
            return y
        return y + (x @ params["residual"] if "residual" in params else x)


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1 over a vector, then a scale and a bias."""

    inputs: int

    @property
    def outputs(self) -> int:
        return self.inputs

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"scale": (self.inputs,), "bias": (self.inputs,)}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + _EPSILON)
        return x * params["scale"] + params["bias"]


@dataclass(frozen=True)
class Normalize:
    """Length 1, between other modules; at the end it is `SentenceConfig.normalize`."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


Module = Dense | LayerNorm | Normalize


@dataclass(frozen=True)
class SentenceConfig:
    """How a model makes one vector of a text.

    Attributes:
        pooling: one or more, whose vectors stand one after the other.
        include_prompt: whether a prompt's tokens, [CLS] with them, are pooled.
        modules: what follows, in order; their parameters are params["sentence"], by number.
        dimensions: how many of the vector's first numbers are kept (Matryoshka); None: all.
        normalize: scale what is kept to length 1.
        prompts: (name, text) of each prompt; a text stands before every text that is embedded.
        default_prompt: name of the one that is taken when none is asked for.
        similarity: name of the function that compares two vectors; nothing here reads it.
    """

    pooling: tuple[Pooling, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[Module, ...] = ()
    dimensions: int | None = None
    normalize: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    default_prompt: str | None = None
    similarity: str | None = None

    def size(self, hidden_size: int) -> int:
        """The length of a vector before it is cut to `dimensions`; ValueError for a module of another size."""
        size = len(self.pooling) * hidden_size
        for module in self.modules:
            inputs = getattr(module, "inputs", size)
            if inputs != size:
                kind, pooling = type(module).__name__, " and ".join(self.pooling)
                raise ValueError(f"{kind} takes vectors of {inputs} numbers, but with pooling by {pooling} gets {size}")
            size = getattr(module, "outputs", size)
        return size

    def prompt(self, asked: str | None) -> str:
        """The text to put before every text.

        Args:
            asked: the name of a stored prompt or, if it is no such name, the text itself; "" for none; None for the
                default prompt. A text has a space or a mark (": ") somewhere: one bare word is taken for a name.

        Raises:
            ValueError: a bare word that no stored prompt has as its name.
        """
        stored = dict(self.prompts)
        if asked is None:
            return stored[self.default_prompt] if self.default_prompt is not None else ""
        if asked in stored:
            return stored[asked]
        if re.fullmatch(r"[\w.\-]+", asked):
            raise ValueError(
                f"prompt {asked!r} is none of the model's ({', '.join(stored) or 'it has none'}); give one of them, or "
                "a prompt's text, which has a space or a colon"
            )
        return asked


def sentence_vectors(
    settings: SentenceConfig,
    params: dict[str, Any],
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int = 1,
    skip: jax.typing.ArrayLike | None = None,
    query: jax.Array | None = None,
) -> jax.Array:
    """One vector for each document of each row.

    Args:
        settings: static under jit.
        params: of the modules, by number: {"0": {"kernel": [I, O], "bias": [O]}, ...}.
        hidden, segment_ids, documents, skip, query: as in `pool`.

    Returns:
        [B, documents, size] float32; see `finished`.
    """
    parts = [pool(hidden, segment_ids, documents, method, query, skip) for method in settings.pooling]
    return finished(settings, params, jnp.concatenate(parts, axis=-1))


def finished(settings: SentenceConfig, params: dict[str, Any], x: jax.Array) -> jax.Array:
    """What follows pooling, [..., P * D] -> [..., size]: modules, then the cut to `dimensions`, then length 1.

    A cut vector has length 1 too. (sentence-transformers cuts after its own Normalize, and leaves what is shorter.)

    Args:
        settings, params: as in `sentence_vectors`.
        x: float32, the poolings one after the other.
    """
    for number, module in enumerate(settings.modules):
        x = module(params.get(str(number), {}), x)
    x = x[..., : settings.dimensions]
    return Normalize()({}, x) if settings.normalize else x
