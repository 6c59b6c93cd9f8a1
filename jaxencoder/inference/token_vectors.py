"""Embedding texts by a vector for each token (late interaction), such as by ColBERT."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.model.config import Role
from jaxencoder.model.multi_vector import MultiVectorConfig, TokenPooling
from jaxencoder.tasks.multi_vector.token_vectors import matrix_similarities, text_limit, text_matrices
from jaxencoder.text import buckets

_OTHER_OPTIONS = ("pooling", "normalize", "dimensions", "windows")  # of one vector for a text


def gives_token_vectors(model: OpenedModel, options: EmbedOptions = DEFAULT_OPTIONS) -> bool:
    """Whether texts are embedded by a vector for each token."""
    is_only = model.multi_vector is not None and model.multi_vector.is_only
    if not is_only and options.pool_factor is not None:
        raise ValueError(
            f"pool_factor is {options.pool_factor}, but this model gives one vector for a text; leave it out"
        )
    return is_only


def embed_tokens(model: OpenedModel, texts: Sequence[str], options: EmbedOptions = DEFAULT_OPTIONS) -> list[np.ndarray]:
    """The vectors float32 [n, D] of each text's tokens; see `Model.embed_tokens`."""
    embedder = token_embedder(model, options)
    matrices, truncated = embedder(texts)
    buckets.warn_truncated(truncated, len(matrices), embedder.limit)
    return matrices


def similarities(model: OpenedModel, queries: Sequence[np.ndarray], documents: Sequence[np.ndarray]) -> np.ndarray:
    """The similarities float32 [Q, N] by the vectors [n, D] of each text; see `Model.max_similarities`."""
    return matrix_similarities(_settings(model), queries, documents)


@dataclass(frozen=True)
class TokenEmbedder:
    """A model and its resolved options: texts to the vectors of their tokens."""

    model: OpenedModel
    settings: MultiVectorConfig
    role: Role
    limit: int  # maximum tokens of a text
    batch_tokens: int | None

    def __call__(
        self, texts: Sequence[str], progress: Callable[[int], object] = lambda number: None
    ) -> tuple[list[np.ndarray], int]:
        """Return the vectors float32 [n, D] of each text, and how many texts were truncated."""
        return text_matrices(self.model, self.settings, texts, self.role, self.batch_tokens, progress)


def _settings(model: OpenedModel) -> MultiVectorConfig:
    if model.multi_vector is None:
        raise ValueError("this model has no vectors of tokens that are trained to be compared; use embed or tokens")
    return model.multi_vector


def token_embedder(model: OpenedModel, options: EmbedOptions) -> TokenEmbedder:
    """Check options against a model and fill in its defaults."""
    settings = _settings(model)
    for name in _OTHER_OPTIONS:
        if (value := getattr(options, name)) is not None:
            raise ValueError(f"{name} is {value!r}, but this model gives a vector for each token; leave it out")
    role = options.prompt or "document"
    if role not in ("query", "document"):
        raise ValueError(f"prompt is {role!r}, but this model embeds queries and documents; give query or document")
    if options.max_length is not None:
        if role == "query" and settings.expansion is not None:
            problem = f"max_length is {options.max_length}, but queries have {settings.expansion.length} tokens"
            raise ValueError(f"{problem}; leave it out")
        settings = replace(settings, **{f"{role}_length": model.limit(options.max_length)})
    if options.pool_factor is not None:
        if not options.pool_factor >= 1:
            raise ValueError(f"pool_factor is {options.pool_factor}; give a number of at least 1")
        pooling = settings.pooling or TokenPooling(1.0, normalize=settings.normalize)
        if role not in pooling.roles:
            problem = f"pool_factor is {options.pool_factor}, but vectors of a {role} are not pooled"
            raise ValueError(f"{problem}; leave it out")
        settings = replace(settings, pooling=replace(pooling, factor=options.pool_factor))
    return TokenEmbedder(model, settings, role, text_limit(model, settings, role), options.batch_tokens)
