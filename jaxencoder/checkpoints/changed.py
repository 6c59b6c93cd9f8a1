"""Models with another architecture than they were trained with, and the folders that hold them."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.run import write_run
from jaxencoder.checkpoints.save import save
from jaxencoder.families.longformer import LONGFORMER
from jaxencoder.families.published import Published, can_hold
from jaxencoder.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.sentence import SentenceConfig

M = TypeVar("M", bound=Checkpoint)
Written = Literal["transformers", "sentence-transformers", "run"]

_LIKE_LONGFORMER = (ROBERTA, XLM_ROBERTA, CAMEMBERT)  # families with Longformer's heads and padding id


def changed(model: M, architecture: EncoderConfig, encoder: Mapping[str, Any], row_length: int | None = None) -> M:
    """The model with another architecture and the encoder parameters for it.

    It stays `published` only if its family's config.json can hold the architecture, or, for RoBERTa's relatives with
    global tokens, Longformer's. `row_length` replaces that of the data, and the limit on its texts.
    """
    if model.queries is not None:
        raise ValueError("the model has an encoder for queries and one for documents, which are not changed together")
    config, data = model.config, model.config.data
    data = dataclasses.replace(data, row_length=row_length, text_length=0) if row_length else data
    config = dataclasses.replace(config, model=architecture, data=data, phases=())
    params, published = model.params | {"encoder": encoder}, _published(model, architecture)
    return dataclasses.replace(model, config=config, params=params, published=published, generator=None, base=None)


def write_changed(model: Checkpoint, folder: Path) -> Written:
    """Write a model that `changed` made; returns the format: that of the source if it is still published, else a run.

    ValueError if the folder is not empty.
    """
    if model.published is None:
        write_run(model, folder)
        return "run"
    gives_token_vectors = model.multi_vector is not None and model.multi_vector.is_only
    is_plain = model.sentence == SentenceConfig() and not gives_token_vectors
    format = "transformers" if is_plain else "sentence-transformers"
    save(model, folder, format)
    return format


def _published(model: Checkpoint, architecture: EncoderConfig) -> Published | None:
    """The published form in a family that can hold the architecture; None if there is none, or for a run."""
    if model.published is None:
        return None
    family, settings, heads = model.published
    for candidate in (family, LONGFORMER) if family in _LIKE_LONGFORMER else (family,):
        if can_hold(candidate, architecture):
            tables = candidate.heads(architecture, {**settings, **candidate.settings(architecture)})
            return Published(candidate, settings, {name: tables[name].config for name in heads if name in tables})
    return None
