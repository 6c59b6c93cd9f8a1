"""The folder of an export: the model's own folder, with a program in place of its weights."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.convert import check_new
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.kind import MODULES_FILE, kind_of
from jaxencoder.checkpoints.opening import open_checkpoint
from jaxencoder.checkpoints.save import save
from jaxencoder.checkpoints.sentence_transformers import encoder_folder
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.families.classifier import NAME
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.tasks.embeddings.compared_texts import ComparedTexts
from jaxencoder.tasks.reranking.objective import Reranking

Layout = Literal["transformers", "sentence-transformers"]


class Export(NamedTuple):
    """A model that is being exported, as it reads from the folder that is being written."""

    model: Checkpoint
    folder: Path  # of config.json and the tokenizer; of sentence-transformers that of the encoder
    gives_vectors: bool  # whether it is a dense embedding model


@contextlib.contextmanager
def exported_folder(source: str | Path | Checkpoint, folder: Path, layout: Layout | None) -> Iterator[Export]:
    """Write a model's folder without the weights of its encoder, for the block to add a program.

    It is a hidden folder, which gets its name when the block ends without an error.

    Args:
        source: a folder of any kind, a name on the Hugging Face hub, or a model.
        folder: the folder to write; empty or missing.
        layout: None: sentence-transformers for its folders, and for runs that were trained to embed or rerank, else
            transformers.

    Raises:
        ValueError: a folder that is not empty, or a model that cannot be written so or exported.
        OSError: the source cannot be read, or the folder cannot be written.
    """
    if layout not in (None, *get_args(Layout)):
        raise ValueError(f"layout is {layout!r}; give {' or '.join(get_args(Layout))}")
    folder = folder.absolute()
    check_new(folder)
    source = source if isinstance(source, Checkpoint) else resolve(source)
    model = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    layout = layout or _default_layout(source, model)
    _check(model, layout)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        save(model, part, layout)
        saved = open_checkpoint(part)
        _check_heads(model, saved, layout)
        encoder, _ = encoder_folder(part)
        embeds = layout == "sentence-transformers" and saved.cross_encoder is None and saved.sentence.sparse is None
        for weights in encoder.glob("model*.safetensors*"):
            weights.unlink()
        yield Export(saved, encoder, embeds)
        _publish(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _default_layout(source: Path | Checkpoint, model: Checkpoint) -> Layout:
    is_run = model.published is None and isinstance(model.config.objective, ComparedTexts | Reranking)
    is_folder = isinstance(source, Path) and kind_of(source) == "sentence_transformers"
    has_settings = model.cross_encoder is not None or model.sentence != SentenceConfig()
    return "sentence-transformers" if is_run or is_folder or has_settings else "transformers"


def _check_heads(model: Checkpoint, saved: Checkpoint, layout: Layout) -> None:
    """Raise ValueError if a folder lacks a head of the model; that of an embedding model has none."""
    heads = set(model.heads) | ({"sequence_head"} if NAME in model.params else set())
    if layout == "transformers" and (missing_heads := heads - saved.heads.keys()):
        problem = f"no class of transformers computes the model's {', '.join(sorted(missing_heads))}"
        raise ValueError(f"{problem}; give the layout sentence-transformers to export the encoder alone")


def _publish(part: Path, folder: Path) -> None:
    """Give a complete folder its name. The settings, without which no reader takes a folder for a model, come last."""
    if not folder.exists():
        part.replace(folder)
        return
    settings = {CONFIG_FILE, MODULES_FILE}
    for path in sorted(part.iterdir(), key=lambda path: path.name in settings):  # an empty folder may be a mount point
        shutil.move(path, folder / path.name)


def _check(model: Checkpoint, layout: Layout) -> None:
    """Raise ValueError for a model that is more than one function, or whose function needs more than token ids."""
    if model.queries is not None:
        raise ValueError("the model has an encoder for queries and one for documents; export the folder of each")
    if model.tasks:
        names, advice = ", ".join(model.tasks), "jaxencoder.load(MODEL).for_prompt(NAME).save(FOLDER)"
        raise ValueError(f"the model has adapters for {names}; write one with {advice}, and export that folder")
    if model.multi_vector is not None and model.multi_vector.is_only:
        raise ValueError("the model gives a vector for each token, and cannot be exported; use it with jaxencoder")
    for head in model.heads.values() if layout == "transformers" else ():
        if head.global_tokens not in ("none", "first"):
            problem = f"the model's global tokens are those of the {head.global_tokens}"
            raise ValueError(f"{problem}, which an exported program cannot find; use it with jaxencoder")
