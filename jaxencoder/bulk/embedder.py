"""A batch of columns in, the same columns and their embeddings out: what engines of data processing call."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy import sparse

from jaxencoder.inference.embed import text_chunks, text_embedder
from jaxencoder.inference.load import load
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import COLUMN, DEFAULT_OPTIONS, EmbedOptions
from jaxencoder.inference.sparse import token_weights
from jaxencoder.inference.stored_vectors import model_digest
from jaxencoder.text import buckets
from jaxencoder.text.messages import closest, listed


class Embedder:
    """A callable that adds the column "embedding" to batches of texts, without an engine in it.

    It can be called in a loop, passed to `ray.data.Dataset.map_batches`, or held by a DoFn of Apache Beam. It is
    pickled without the model: each process opens the model at its first batch, or by `open`.

    Args:
        model: anything that `jaxencoder.load` takes. Every process must find the same model there.
        options: how texts are embedded.
        text_field: the column of the texts.
        columns: those to keep; None: all of them.
    """

    def __init__(
        self,
        model: str | Path,
        options: EmbedOptions = DEFAULT_OPTIONS,
        text_field: str = "text",
        columns: Sequence[str] | None = None,
    ):
        # Other processes may be in another folder.
        self.model = str(Path(model).absolute()) if Path(model).is_dir() else str(model)
        self.options, self.text_field = options, text_field
        self.columns = None if columns is None else tuple(columns)
        self._opened: tuple[OpenedModel, Any] | None = None
        self._has_warned = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None}

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Embed the texts of a batch.

        Args:
            batch: column name -> array with leading axis n, one of them of n texts.

        Returns:
            The kept columns and "embedding": float32 [n, D]; of a multi-vector model an object array of n matrices
            float32 [t, D], of a sparse model one of n lists of {"token", "weight"}, greatest first.

        Raises:
            ValueError: a column is missing or is called "embedding", or a value is no text.
        """
        kept = tuple(batch) if self.columns is None else self.columns
        for name in (self.text_field, *kept):
            if name not in batch:
                raise ValueError(f"no column {name!r} among {listed(batch)}{closest(name, batch)}")
        if COLUMN in kept:
            raise ValueError(f"the batch already has a column {COLUMN!r}; rename it, or leave it out of columns")
        texts = np.asarray(batch[self.text_field]).tolist()
        vectors, truncated = self.embed(texts)
        if truncated and not self._has_warned:  # once in a process, which may see a million batches
            buckets.warn_truncated(truncated, len(texts), self._open()[1].limit)
            self._has_warned = True
        if isinstance(vectors, list):
            column = np.empty(len(vectors), object)
            for i, value in enumerate(vectors):  # numpy would take matrices of equal shape for one array
                column[i] = value
            vectors = column
        return {name: batch[name] for name in kept} | {COLUMN: vectors}

    def embed(self, texts: Sequence[str]) -> tuple[np.ndarray | list[Any], int]:
        """The vectors of texts as in "embedding", matrices and tokens as a list, and how many texts were truncated."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f"{self.text_field!r} of row {i} is {kind}, not text; drop the row or convert it")
        model, embedder = self._open()
        results, truncated = [], 0
        # An empty batch is embedded too, for the shape of its vectors.
        for chunk in text_chunks(texts, lambda text: text, embedder) if texts else ([],):
            vectors, chunk_truncated = embedder(chunk)
            results.append(token_weights(model, vectors) if isinstance(vectors, sparse.csr_array) else vectors)
            truncated += chunk_truncated
        if isinstance(results[0], list):
            return [vector for vectors in results for vector in vectors], truncated
        return np.concatenate(results), truncated

    def open(self) -> OpenedModel:
        """The model, opened in this process unless it is already, with the options checked against it."""
        return self._open()[0]

    def identity(self) -> str:
        """A digest of everything in the model that vectors depend on, and the kind of device that computes them."""
        return f"{model_digest(self.open())} on {jax.default_backend()}"

    def _open(self) -> tuple[OpenedModel, Any]:
        if self._opened is None:
            model = load(self.model)
            self._opened = model, text_embedder(model, self.options)
        return self._opened
