"""Conversion of a model from one kind of folder to another."""

import dataclasses
import logging
from pathlib import Path
from typing import Literal, get_args

from jaxencoder.checkpoints.adapter import read_adapter, trained_adapter, write_adapter
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.kind import kind_of
from jaxencoder.checkpoints.opening import open_base, open_checkpoint
from jaxencoder.checkpoints.peft import write_peft
from jaxencoder.checkpoints.run import write_run
from jaxencoder.checkpoints.save import save
from jaxencoder.model.config import Pooling

Format = Literal["transformers", "sentence-transformers", "run", "adapter", "peft"]

log = logging.getLogger(__name__)


def convert(
    source: str | Path, folder: str | Path, to: Format, pooling: Pooling | None = None, normalize: bool | None = None
) -> None:
    """Write a model in another format.

    Args:
        source: a folder of any kind, or a name on the Hugging Face hub.
        folder: the folder to write; empty or missing.
        to: "transformers" for transformers; "sentence-transformers" for that and its embeddings; "run" for
            `init_from`; "adapter" for the trained arrays of a run without the frozen base; "peft" for a low-rank
            adapter in PEFT's format.
        pooling, normalize: settings of embeddings for "sentence-transformers"; None: the model's. A run's `learned`
            pooling cannot be written. With one of them a cross-encoder or multi-vector model is
            written as its encoder.

    Raises:
        ValueError: an unknown format, a folder that is not empty, or a model that the format cannot hold.
        OSError: the source cannot be read, or the folder cannot be written.
    """
    folder = Path(folder)
    if to not in get_args(Format):
        raise ValueError(f"format {to!r} is unknown; give one of {', '.join(get_args(Format))}")
    check_new(folder)
    if to != "sentence-transformers" and (pooling, normalize) != (None, None):
        raise ValueError(f"format {to!r} has no pooling and normalize; give sentence-transformers, or neither")
    match to:
        case "adapter" | "peft":
            source = resolve(source)
            is_adapter = kind_of(source) == "adapter"
            adapter = read_adapter(source, open_base(source)) if is_adapter else trained_adapter(source)
            if to == "adapter":
                write_adapter(adapter, folder)
            else:
                left_out = write_peft(adapter, folder)
                if left_out:
                    names = ", ".join(left_out)
                    log.warning("%s: left out, as the family's heads compute something else: %s", folder, names)
        case "run":
            write_run(open_checkpoint(source), folder)
        case _:
            model = open_checkpoint(source)
            if (pooling, normalize) != (None, None):
                if model.queries is not None:
                    problem = "the model has an encoder for queries and one for documents"
                    raise ValueError(f"{problem}, which keep their pooling; leave pooling and normalize out")
                settings = model.sentence_config(pooling, normalize)  # to embed with
                model = dataclasses.replace(model, sentence=settings, cross_encoder=None, multi_vector=None)
            save(model, folder, to)


def check_new(folder: Path) -> None:
    """Raise ValueError if a folder is not empty, or is a file."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; name a new folder")
