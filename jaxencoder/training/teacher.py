"""The vectors of a teacher or guide: computed once for the texts of a run, and read with its rows.

Rows only number their texts (`NumberedTexts`), so that one preparation serves for any such model.
"""

import array
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np

from jaxencoder.config import RunConfig
from jaxencoder.inference.load import load
from jaxencoder.inference.model import OpenedModel
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.inference.stored_vectors import Vectors, model_digest, text_vectors, weights_digest
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
        path: of a store whose labels are numbers of texts.
        vectors: of different texts.
        positions: int [texts], the position in `vectors` of each number.
        model: identifies the model, as part of the identity of the rows.
    """

    def __init__(self, path: str, vectors: Vectors, positions: np.ndarray, model: str):
        super().__init__(path)
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


class _Texts:
    """Different texts that a model embeds in one way, by their order."""

    def __init__(self, options: EmbedOptions):
        self.options, self._positions = options, {}

    def add(self, text: str) -> int:
        return self._positions.setdefault(text, len(self._positions))

    def __len__(self) -> int:
        return len(self._positions)

    def vectors(self, model: OpenedModel, digest: str, folder: Path) -> list[np.ndarray]:
        """Parts [n, D] of their vectors."""
        texts = list(self._positions)
        return list(text_vectors(model, digest, texts, self.options, folder).blocks()) if texts else []


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
    anchors, documents = _by_role(model)
    phases = zip(config.phase_configs, train, strict=True)
    splits: list[tuple[DataConfig, Split, Stores]] = [(phase.data, "train", stores) for phase, stores in phases]
    splits.append((config.data, "validation", validation))
    positions = _positions(config.schema, splits, anchors, documents)
    folder, texts = cache_folder(config.data) / "vectors", [anchors] if anchors is documents else [anchors, documents]
    if progress:
        print(f"Embedding {sum(map(len, texts)):,} texts by objective.{setting} {name}", flush=True)
    with _named_errors(f"objective.{setting} is {name!r}"), entry_lock(folder, digest):
        vectors = Vectors([part for x in texts for part in x.vectors(model, digest, folder)])
    config = dataclasses.replace(config, objective=objective.with_vector_size(vectors.size))
    # Those of other texts follow those of anchors.
    places = {path: np.where(x < 0, len(anchors) + ~x, x) for path, x in positions.items()}
    identity = weights_digest(model)
    stores = {path: StoreWithVectors(path, vectors, x, identity) for path, x in places.items()}
    *taught, held_out = (tuple(stores[store.path] for store in split) for split in (*train, validation))
    return config, tuple(taught), held_out


@contextlib.contextmanager
def _named_errors(problem: str) -> Iterator[None]:
    """Put the setting before the message of an error."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise (FileNotFoundError if isinstance(error, OSError) else ValueError)(f"{problem}: {error}") from None


def _by_role(model: OpenedModel) -> tuple[_Texts, _Texts]:
    """The anchors and the other texts, which are one set if the model embeds queries and documents alike.

    As in the training itself, their prompt is the stored one of their role, or else the default one.
    """
    settings, roles = model.sentence, get_args(Role)  # query and document
    names = [role if role in dict(settings.prompts) else None for role in roles]
    if model.queries is None and len({settings.prompt(name) for name in names}) == 1:
        texts = _Texts(EmbedOptions(prompt=names[0]))
        return texts, texts
    query, document = (_Texts(EmbedOptions(prompt=x, role=role)) for x, role in zip(names, roles, strict=True))
    return query, document


def _positions(
    schema: Schema, splits: Iterable[tuple[DataConfig, Split, Stores]], anchors: _Texts, documents: _Texts
) -> dict[str, np.ndarray]:
    """The texts of each store, by its path, as their positions int [texts] among `anchors`.

    A text that is added to `documents`, if that is another set, has the complement of its position there.
    """
    assert isinstance(schema, NumberedTexts)  # the schema of objectives with such vectors
    positions: dict[str, np.ndarray] = {}
    for data, split, stores in splits:
        parts = {part.source: part for part in (source_splits(data, schema, split) if stores else ())}
        for store in stores:
            if store.path in positions:
                continue
            numbers = array.array("q")
            for example in parts[store.meta["source"]].examples(schema.find_labels(data)):
                anchor, *rest = schema.texts_with_vectors(example)
                numbers.append(anchors.add(anchor))
                places = map(documents.add, rest)
                numbers.extend(places if documents is anchors else (~place for place in places))
            positions[store.path] = np.array(numbers, np.int64)
    return positions
