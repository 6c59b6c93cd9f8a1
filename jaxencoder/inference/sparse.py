"""Embedding texts by sparse vectors over the vocabulary, such as SPLADE's: matrices of scipy, weights of tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.model.sparse import SparseConfig, SparseVectors
from jaxencoder.tasks.sparse.vectors import text_vectors
from jaxencoder.text.buckets import require_tokenizer

_ROLES = ("query", "document")


@dataclass(frozen=True)
class SparseEmbedder:
    """A model and its resolved options: texts to sparse vectors."""

    model: OpenedModel
    config: SparseConfig
    role: Literal["query", "document"]
    prompt: str  # put before each text
    limit: int  # most tokens of a text
    batch_tokens: int | None

    @property
    def reads_table(self) -> bool:
        """Whether the vectors come from a table of tokens, without the encoder and without special tokens."""
        return self.role == "query" and self.config.queries == "table"

    def __call__(
        self, texts: Sequence[str], progress: Callable[[int], object] = lambda number: None
    ) -> tuple[SparseVectors, int]:
        """Return vectors float32 [N, V], and how many texts were truncated."""
        is_query, limits = self.role == "query", {"limit": self.limit, "batch_tokens": self.batch_tokens}
        return text_vectors(self.model, self.config, texts, is_query, self.prompt, **limits, progress=progress)


def sparse_embedder(model: OpenedModel, options: EmbedOptions) -> SparseEmbedder:
    """Check options against a sparse model and fill in its defaults."""
    settings = model.sentence_config(options.pooling, options.normalize, options.dimensions)
    config = settings.sparse
    assert config is not None  # the caller asks
    if options.windows is not None:
        raise ValueError("this model gives sparse vectors, which are not combined over windows; leave windows out")
    if (number := options.max_active_dims) is not None:
        if number < 1:
            raise ValueError(f"max_active_dims is {number}; give at least 1")
        config = replace(config, max_active=number)
    role = options.role_of_texts(config.default_role)
    # A role is also the name of a prompt, which need not be stored.
    is_role = options.prompt in _ROLES
    prompt = "" if is_role and options.prompt not in dict(settings.prompts) else settings.prompt(options.prompt)
    limit = model.limit(options.max_length)
    if role == "query" and config.queries == "table":
        config = replace(config, query_length=options.max_length or config.query_length)
        limit = config.query_length or limit
    return SparseEmbedder(model, config, role, prompt, limit, options.batch_tokens)


def check_options(model: OpenedModel, options: EmbedOptions) -> None:
    """ValueError for options of sparse vectors with a model of other ones."""
    if model.sentence.sparse is None and (number := options.max_active_dims) is not None:
        raise ValueError(f"max_active_dims is {number}, but this model gives no sparse vectors; leave it out")


def token_weights(model: OpenedModel, vectors: SparseVectors, k: int | None = None) -> list[list[dict[str, Any]]]:
    """The tokens and weights of each sparse vector, greatest first; see `Model.token_weights`."""
    tokenizer = require_tokenizer(model.tokenizer)
    result = []
    for start, end in zip(vectors.indptr[:-1], vectors.indptr[1:], strict=True):
        weights, ids = vectors.data[start:end], vectors.indices[start:end]
        order = np.argsort(-weights, kind="stable")[:k]
        entries = zip(ids[order].tolist(), weights[order].tolist(), strict=True)
        # The token table may have unused rows after the tokenizer's last token.
        named = ((tokenizer.token(i) if i < tokenizer.vocab_size else "", weight) for i, weight in entries)
        result.append([{"token": token, "weight": weight} for token, weight in named])
    return result


class Sparsity:
    """Active dimensions of the vectors of queries and of a stream of documents."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray] = {}  # role -> active vectors of each dimension
        self._vectors = dict.fromkeys(_ROLES, 0)

    def add(self, queries: SparseVectors, documents: SparseVectors) -> None:
        """Count the queries, if it is the first time, and the documents."""
        for role, vectors in zip(_ROLES, (queries, documents), strict=True):
            if role == "query" and self._counts.get(role) is not None:
                continue
            counts = np.bincount(vectors.indices, minlength=vectors.shape[1])
            self._counts[role] = self._counts.get(role, 0) + counts
            self._vectors[role] += vectors.shape[0]

    def metrics(self) -> dict[str, float]:
        """The means query_active and document_active, and of the dimensions that are active in both, flops."""
        if len(self._counts) < len(_ROLES):
            return {}
        vectors = {role: max(1, number) for role, number in self._vectors.items()}
        means = {f"{role}_active": float(counts.sum() / vectors[role]) for role, counts in self._counts.items()}
        flops = (self._counts["query"] / vectors["query"]) @ (self._counts["document"] / vectors["document"])
        return means | {"flops": float(flops)}
