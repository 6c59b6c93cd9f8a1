"""Sentence embeddings: from the vectors of a text's tokens to one vector, by pooling and optional small modules.

Reimers and Gurevych 2019 (Sentence-BERT), arXiv:1908.10084; Kusupati et al. 2022 (Matryoshka), arXiv:2205.13147.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxencoder.kernels.dropout import dropout
from jaxencoder.model.config import Pooling, Role, Similarity
from jaxencoder.model.heads import pool
from jaxencoder.model.sparse import SparseConfig
from jaxencoder.model.vectors import unit

_EPSILON = 1e-5  # torch's default, which no published module changes

MODULES = "sentence"  # the name of the parameters of modules after pooling
QUERY_TOWER = "query_tower"  # the name of the parameters, of all kinds, of a tower for queries

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
    """A projection and an activation; `residual` adds its input, projected if the sizes differ."""

    inputs: int
    outputs: int
    bias: bool = True
    activation: str = "tanh"
    residual: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters; kernels are [inputs, outputs]."""
        shapes: dict[str, tuple[int, ...]] = {"kernel": (self.inputs, self.outputs)}
        if self.bias:
            shapes["bias"] = (self.outputs,)
        if self.residual and self.inputs != self.outputs:
            shapes["residual"] = (self.inputs, self.outputs)
        return shapes

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        """New parameters: uniform up to 1 / sqrt(inputs), as in torch."""
        limit, shapes = 1 / math.sqrt(self.inputs), self.shapes()
        keys = jax.random.split(key, len(shapes))
        pairs = zip(shapes.items(), keys, strict=True)
        return {name: jax.random.uniform(key, shape, jnp.float32, -limit, limit) for (name, shape), key in pairs}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = ACTIVATIONS[self.activation](x @ params["kernel"] + params.get("bias", 0))
        if not self.residual:
            return y
        return y + (x @ params["residual"] if "residual" in params else x)


@dataclass(frozen=True)
class LayerNorm:
    """Mean 0 and variance 1 over a vector, then a scale and a bias."""

    inputs: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {"scale": (self.inputs,), "bias": (self.inputs,)}

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        return {"scale": jnp.ones(self.inputs), "bias": jnp.zeros(self.inputs)}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        centered = x - x.mean(-1, keepdims=True)
        x = centered * jax.lax.rsqrt(jnp.square(centered).mean(-1, keepdims=True) + _EPSILON)
        return x * params["scale"] + params["bias"]


@dataclass(frozen=True)
class Normalize:
    """Scaling to length 1 between other modules; after the last one it is `SentenceConfig.normalize`."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        return {}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return unit(x)


@dataclass(frozen=True)
class Dropout:
    """Zeros in place of numbers of a vector with probability `rate`, in training only."""

    rate: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {}

    def init(self, key: jax.Array) -> dict[str, jax.Array]:
        return {}

    def __call__(self, params: dict[str, jax.Array], x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        return x if key is None else dropout(x, self.rate, key)


Module = Dense | LayerNorm | Normalize | Dropout


@dataclass(frozen=True)
class SentenceConfig:
    """Steps from a text to its vector."""

    pooling: tuple[Pooling, ...] = ("mean",)  # one or more methods, whose vectors are concatenated
    include_prompt: bool = True  # whether a prompt's tokens, including [CLS], are pooled
    modules: tuple[Module, ...] = ()  # after pooling, in order; their parameters are params["sentence"], by number
    normalize: bool = False  # scale the vector to length 1, before it is truncated
    dimensions: int | None = None  # leading dimensions of the vector to keep (Matryoshka); None for all
    renormalize: bool = False  # scale the kept dimensions to length 1
    prompts: tuple[tuple[str, str], ...] = ()  # (name, text) of each; the text is put before every text to embed
    default_prompt: str | None = None
    similarity: Similarity = "cosine"  # compares two vectors
    default_role: Role | None = None  # of a model with a tower for queries: of texts of which it is not said; else None
    sparse: SparseConfig | None = None  # of a sparse model, which has neither pooling, modules nor dimensions

    def size(self, hidden_size: int) -> int:
        """Length of a vector before it is truncated to `dimensions`; ValueError if a module takes another length."""
        size = len(self.pooling) * hidden_size
        for module in self.modules:
            inputs = getattr(module, "inputs", size)
            if inputs != size:
                kind, pooling = type(module).__name__, " and ".join(self.pooling)
                raise ValueError(f"{kind} takes vectors of size {inputs}, but gets size {size} with {pooling} pooling.")
            size = getattr(module, "outputs", size)
        return size

    @property
    def embeds_queries_apart(self) -> bool:
        """Whether a query gets another vector than a document of the same text: by a tower or a table of its own."""
        return self.default_role is not None or (self.sparse is not None and self.sparse.queries == "table")

    def prompt(self, name_or_text: str | None) -> str:
        """The text to put before every text; see `prompt_text`."""
        return prompt_text(dict(self.prompts), self.default_prompt, name_or_text)

    def prompt_name(self, name_or_text: str | None) -> str | None:
        """The name of that prompt, if it is a stored one."""
        name = self.default_prompt if name_or_text is None else name_or_text
        return name if name in dict(self.prompts) else None

    def init(self, key: jax.Array) -> dict[str, Any]:
        """New parameters of the modules by number, without those of modules that have none."""
        keys = jax.random.split(key, len(self.modules) or 1)
        params = {str(i): module.init(keys[i]) for i, module in enumerate(self.modules)}
        return {number: arrays for number, arrays in params.items() if arrays}


def prompt_text(prompts: Mapping[str, str], default: str | None, name_or_text: str | None) -> str:
    """The text of a stored prompt, or the text itself; "" for no prompt, None for the default one.

    A text contains a space or punctuation (": "): a single word is always a name, and a ValueError if not stored.
    """
    if name_or_text is None:
        return "" if default is None else prompts[default]
    if name_or_text in prompts:
        return prompts[name_or_text]
    if is_name(name_or_text):
        raise ValueError(
            f"The model has no prompt {name_or_text!r} ({', '.join(prompts) or 'it has none'}); give one of its "
            "prompts, or a prompt's text, which has a space or a colon."
        )
    return name_or_text


def is_name(name_or_text: str) -> bool:
    """Whether it can only be the name of a prompt: a single word."""
    return re.fullmatch(r"[\w.\-]+", name_or_text) is not None


def sentence_vectors(
    config: SentenceConfig,
    params: dict[str, Any],
    hidden: jax.Array,
    segment_ids: jax.Array,
    documents: int = 1,
    skip: jax.typing.ArrayLike | None = None,
    query: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """One vector for each document of each row, [B, documents, size] float32: `pool`, then `finish_vectors`.

    The parameters of the modules are by number: {"0": {"kernel": [I, O], "bias": [O]}, ...}.
    """
    parts = [pool(hidden, segment_ids, documents, method, query, skip) for method in config.pooling]
    return finish_vectors(config, params, jnp.concatenate(parts, axis=-1), key)


def finish_vectors(
    config: SentenceConfig, params: dict[str, Any], x: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Steps after pooling, [..., P * D] -> [..., size]: modules, length 1, truncation to `dimensions`, length 1 again.

    As in sentence-transformers, truncation makes vectors of length 1 shorter unless the model says `renormalize`. With
    a key, in training, modules of dropout are active.
    """
    for number, module in enumerate(config.modules):  # some have no parameters
        if isinstance(module, Dropout):
            x = module({}, x, key if key is None else jax.random.fold_in(key, number))
        else:
            x = module(params.get(str(number), {}), x)
    if config.normalize:
        x = Normalize()({}, x)
    x = x[..., : config.dimensions]
    return Normalize()({}, x) if config.renormalize else x
