"""Numbers computed once and kept on disk: the vectors of texts, and scores of pairs, chunk by chunk.

A chunk's name is a digest of everything that its numbers depend on, so that a run that was stopped, or one with other
limits or more texts, computes only what is missing.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from tqdm import tqdm

from jaxencoder.files import write_atomic
from jaxencoder.inference.embed import embed
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.token_vectors import gives_token_vectors
from jaxencoder.model.similarity import check_finite
from jaxencoder.parameters import flatten

CHUNK = 2048  # texts whose vectors are stored together: little is lost when a run is stopped
_OPEN_FILES = 256  # mapped at once; a process may often open no more than 1024


class StoredArray(NamedTuple):
    """An array in a file, which is open only while it is read."""

    file: str
    dtype: np.dtype
    offset: int  # bytes before the array
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mapped: np.memmap) -> Self:
        return cls(str(mapped.filename), mapped.dtype, mapped.offset, mapped.shape)


@functools.lru_cache(_OPEN_FILES)
def _mapped(array: StoredArray) -> np.ndarray:
    return np.memmap(array.file, array.dtype, "r", array.offset, array.shape)


class Vectors:
    """Vectors [N, D] float32 in parts that may lie on disk.

    Args:
        parts: arrays [n, D].
    """

    def __init__(self, parts: Sequence[np.ndarray | StoredArray]):
        self._parts = parts
        self._ends = np.cumsum([part.shape[0] for part in parts])
        self.size = parts[0].shape[1]  # D

    def __len__(self) -> int:
        return int(self._ends[-1])

    def blocks(self) -> Iterator[np.ndarray]:
        """The parts in order."""
        return map(self._part, range(len(self._parts)))

    def _part(self, number: int) -> np.ndarray:
        part = self._parts[number]
        return _mapped(part) if isinstance(part, StoredArray) else part

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors [n, D] of rows [n] in any order, repeated or not."""
        out = np.empty((len(rows), self.size), np.float32)
        numbers = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(numbers):
            part, chosen = self._part(number), numbers == number
            out[chosen] = part[rows[chosen] - (self._ends[number] - len(part))]
        return out


def model_digest(model: OpenedModel) -> str:
    """A digest of everything in a model that its outputs depend on."""
    settings = (model.config.model, model.config.objective, model.sentence, model.compute, model.cross_encoder)
    content = [weights_digest(model), repr((model.max_length, *settings))]
    # Only what a model has: vectors that were stored before stay valid for others.
    content += [] if model.multi_vector is None else [repr(model.multi_vector)]
    content += [repr((name, adapter.lora)) for name, adapter in sorted(model.tasks.items())]
    content += [] if model.queries is None else [model_digest(model.queries)]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def weights_digest(model: OpenedModel) -> str:
    """A digest of a model's weights and its tokenizer, the same in all versions of this package."""
    digest = hashlib.blake2b(digest_size=16)
    tasks = {name: adapter.params for name, adapter in model.tasks.items()}
    for path, array in flatten({"model": model.params, "tasks": tasks}).items():
        values = np.ascontiguousarray(jax.device_get(array))
        digest.update(f"{path}{values.dtype}{values.shape}".encode())
        digest.update(values.view(np.uint8).reshape(-1).data)
    digest.update(str(model.tokenizer and model.tokenizer.fingerprint).encode())
    return digest.hexdigest()


def cached_numbers(folder: Path, key: Any, compute: Callable[[], np.ndarray]) -> np.memmap:
    """The array of a key, which JSON can express, as a read-only map of its file; computed if there is no file.

    OSError if the folder cannot be written.
    """
    file = folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.npy"
    if not file.is_file():
        content = io.BytesIO()
        np.save(content, compute())
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, content.getvalue())
    return np.load(file, mmap_mode="r")


def text_vectors(model: OpenedModel, digest: str, texts: Sequence[str], options: EmbedOptions, folder: Path) -> Vectors:
    """The vectors of texts, at least one, from the cache where it has them; see `chunk_vectors`."""
    parts = []
    with tqdm(total=len(texts), unit=" texts", desc="Embedding", disable=None) as bar:
        for start in range(0, len(texts), CHUNK):
            parts.append(chunk_vectors(model, digest, texts[start : start + CHUNK], options, folder))
            bar.update(parts[-1].shape[0])
    return Vectors(parts)


def chunk_vectors(
    model: OpenedModel, digest: str, texts: Sequence[str], options: EmbedOptions, folder: Path
) -> StoredArray:
    """The vectors of at most `CHUNK` texts, from the cache if it has them.

    `digest` is the model's. ValueError if some vectors are not finite, or not one for each text.
    """
    if model.sentence.sparse is not None:
        raise ValueError("the model gives sparse vectors, which are not stored; name a dense model")
    if gives_token_vectors(model, options):
        raise ValueError("the model gives a vector for each token, which are not stored; name a dense model")
    settings = json.loads(json.dumps({**asdict(options), "batch_tokens": None}, default=str))
    key = [digest, model.sentence.prompt(options.prompt), settings, list(texts)]
    return StoredArray.of(cached_numbers(folder, key, lambda: check_finite(embed(model, list(texts), options))))
