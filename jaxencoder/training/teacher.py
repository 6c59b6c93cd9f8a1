"""The vectors of a teacher or guide: computed once for the texts of a run, and read with its rows.

Rows only number their texts (`NumberedTexts`), so that one preparation serves for any such model.
"""

import array
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import get_args

import numpy as np
from tqdm import tqdm

from jaxencoder.config import RunConfig
from jaxencoder.inference.load import load
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.stored_vectors import (
    CHUNK,
    StoredArray,
    Vectors,
    chunk_vectors,
    model_digest,
    weights_digest,
)
from jaxencoder.model.config import Role
from jaxencoder.tasks.embeddings.data import NumberedTexts
from jaxencoder.tasks.embeddings.teacher import VECTORS
from jaxencoder.tasks.task import TaskObjective
from jaxencoder.text.cache import cache_folder, entry_lock, source_splits
from jaxencoder.text.config import DataConfig
from jaxencoder.text.rows import Split
from jaxencoder.text.schema import Schema
from jaxencoder.text.store import Store

Stores = tuple[Store, ...]


class StoreWithVectors(Store):
    """A store whose rows also have the vectors of their texts: "teacher_vectors" float32 [B, E, D], NaN for none.

    Args:
        store: one whose labels are numbers of texts.
        vectors: of different texts.
        positions: int [texts], the position in `vectors` of each number.
        model: identifies the model, as part of the identity of the rows.
    """

    def __init__(self, store: Store, vectors: Vectors, positions: np.ndarray, model: str):
        super().__init__(store.path, store.number)
        self._vectors, self._positions = vectors, positions
        self.meta |= {"fields": [*self.meta["fields"], VECTORS], "teacher": model}

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return self._with_vectors(super().read(indices))

    def padding(self, rows: int) -> dict[str, np.ndarray]:
        return self._with_vectors(super().padding(rows))

    def _with_vectors(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        numbers = rows["labels"]
        is_text = ~np.isnan(numbers)
        vectors = np.full((*numbers.shape, self._vectors.size), np.nan, np.float32)
        vectors[is_text] = self._vectors.take(self._positions[numbers[is_text].astype(np.int64)])
        return rows | {VECTORS: vectors}


class _EmbeddedTexts:
    """Different texts that a model embeds with the same options, by their order.

    Only digests of them are kept. `embed` gets them chunk by chunk.
    """

    def __init__(self, embed: Callable[[list[str]], StoredArray]):
        self._embed = embed
        self._positions: dict[bytes, int] = {}  # by digest
        self._chunk: list[str] = []  # texts without vectors
        self._parts: list[StoredArray] = []

    def add(self, text: str) -> int:
        """The position of a text among all."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in self._positions:
            self._positions[digest] = len(self)
            self._chunk.append(text)
            if len(self._chunk) == CHUNK:
                self._embed_chunk()
        return self._positions[digest]

    def __len__(self) -> int:
        return len(self._positions)

    def parts(self) -> list[StoredArray]:
        """The vectors [n, D] of all texts."""
        if self._chunk:
            self._embed_chunk()
        return self._parts

    def _embed_chunk(self) -> None:
        """Embed the texts that have no vectors yet."""
        self._parts.append(self._embed(self._chunk))
        self._chunk = []


def with_vectors(
    config: RunConfig, train: tuple[Stores, ...], validation: Stores, progress: bool = True
) -> tuple[RunConfig, tuple[Stores, ...], Stores]:
    """The settings with the size of the vectors, and the rows of each phase and those held out with vectors.

    Without a teacher or guide they stay as they are. Vectors that the cache has are not computed again. ValueError or
    FileNotFoundError if the model cannot be opened or gives no vector of a text.
    """
    objective = config.objective
    if not isinstance(objective, TaskObjective) or not (setting := objective.vectors_of):
        return config, train, validation
    name = getattr(objective, setting)
    with _named_errors(f"objective.{setting} is {name!r}"):
        model = load(name, dtype="float32")
        digest = model_digest(model)
    folder = cache_folder(config.data) / "vectors"
    if progress:
        print(f"Embedding the texts by objective.{setting} {name}", flush=True)

    def embed(options: EmbedOptions, texts: list[str]) -> StoredArray:
        with _named_errors(f"objective.{setting} is {name!r}"):
            part = chunk_vectors(model, digest, texts, options, folder)
        bar.update(len(texts))
        return part

    phases = zip(config.phase_configs, train, strict=True)
    splits: list[tuple[DataConfig, Split, Stores]] = [(phase.data, "train", stores) for phase, stores in phases]
    splits.append((config.data, "validation", validation))
    with entry_lock(folder, digest), tqdm(unit=" texts", desc="Embedding", disable=None) as bar:
        text_sets = [_EmbeddedTexts(partial(embed, options)) for options in _embed_options(model)]
        positions = _positions(config.schema, splits, *text_sets)
        vectors = Vectors([part for texts in text_sets for part in texts.parts()])
    config = dataclasses.replace(config, objective=objective.with_vector_size(vectors.size))
    # The vectors of other texts follow those of anchors.
    positions = {path: np.where(x < 0, len(text_sets[0]) + ~x, x) for path, x in positions.items()}
    identity, unique_stores = _identity(model), {store for _, _, split in splits for store in split}
    stores = {x: StoreWithVectors(x, vectors, positions[x.path], identity) for x in unique_stores}
    *taught, held_out = (tuple(stores[store] for store in split) for split in (*train, validation))
    return config, tuple(taught), held_out


def _identity(model: OpenedModel) -> str:
    """A digest of a model's weights and settings: another one gives other vectors."""
    towers = [model] if model.queries is None else [model, model.queries]
    content = [(weights_digest(tower), repr(tower.sentence), tower.max_length) for tower in towers]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


@contextlib.contextmanager
def _named_errors(problem: str) -> Iterator[None]:
    """Put the setting before the message of an error."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(f"{problem}: {error}") from None


def _embed_options(model: OpenedModel) -> list[EmbedOptions]:
    """The options for anchors and for other texts; one for all if the model treats queries and documents alike.

    As in the training itself, their prompt is the stored one of their role, or else the default one.
    """
    settings, roles = model.sentence, get_args(Role)  # query and document
    names = [role if role in dict(settings.prompts) else None for role in roles]
    if model.queries is None and len({settings.prompt(name) for name in names}) == 1:
        return [EmbedOptions(prompt=names[0])]
    return [EmbedOptions(prompt=x, role=role) for x, role in zip(names, roles, strict=True)]


def _positions(
    schema: Schema,
    splits: Iterable[tuple[DataConfig, Split, Stores]],
    anchors: _EmbeddedTexts,
    documents: _EmbeddedTexts | None = None,
) -> dict[str, np.ndarray]:
    """The texts of each store, by its path, as their positions int [texts] among `anchors`.

    Other texts than anchors are added to `documents` if there is such a set, and have the complements of their
    positions there.
    """
    assert isinstance(schema, NumberedTexts)  # the schema of objectives with such vectors
    positions: dict[str, np.ndarray] = {}
    for data, split, stores in splits:
        parts = source_splits(data, schema, split) if stores else []
        for store in stores:
            if store.path in positions:
                continue
            numbers = array.array("q")
            for example in parts[store.number].examples(schema.find_labels(data)):
                anchor, *rest = schema.texts_with_vectors(example)
                numbers.append(anchors.add(anchor))
                numbers.extend(map(anchors.add, rest) if documents is None else (~documents.add(x) for x in rest))
            positions[store.path] = np.array(numbers, np.int64)
    return positions
