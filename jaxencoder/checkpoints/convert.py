"""From one kind of folder to another: a run for training to go on from, or what transformers loads."""

import dataclasses
import logging
from pathlib import Path
from typing import Literal, get_args

from jaxencoder.checkpoints import adapter
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import ADAPTER_FILE
from jaxencoder.checkpoints.orbax import Checkpoints
from jaxencoder.checkpoints.save import save as save_model
from jaxencoder.config import LoraConfig, TokenizerConfig
from jaxencoder.config_io import save
from jaxencoder.families.family import HEADS
from jaxencoder.inference.load import load
from jaxencoder.model.heads import Pooling
from jaxencoder.model.sentence import SentenceConfig

Format = Literal["hf", "sentence-transformers", "run", "adapter", "peft"]

log = logging.getLogger(__name__)


def convert(
    source: str | Path,
    folder: str | Path,
    to: Format,
    pooling: Pooling | None = None,
    normalize: bool | None = None,
) -> None:
    """Write a model in another format.

    Args:
        source: anything that `load` takes.
        folder: to write; empty, or not there yet.
        to: "hf" for transformers; "sentence-transformers" for that and the way to a text's vector; "run" for a folder
            that `init_from` takes; "adapter" for what a run has learned beside a base that stayed, without that; "peft"
            for a low-rank adapter as PEFT loads it.
        pooling, normalize: how a text's vector is made, for "sentence-transformers"; None: as the model has it. A run's
            `learned` pooling cannot be written.

    Raises:
        ValueError: an unknown format, a folder that holds something, a model that the format cannot hold.
        OSError: the source cannot be read, or the folder cannot be written.
    """
    folder = Path(folder)
    if to not in get_args(Format):
        raise ValueError(f"format {to!r} is unknown; give one of {', '.join(get_args(Format))}")
    check_new(folder)
    if to in ("adapter", "peft") and (pooling, normalize) == (None, None):
        _convert_adapter(resolve(source), folder, to)
        return
    model = load(source)
    if (pooling, normalize) != (None, None):
        if to != "sentence-transformers":
            raise ValueError(
                f"format {to!r} says nothing of pooling and normalize; give sentence-transformers, or neither"
            )
        model = dataclasses.replace(model, sentence=model.sentence_config(pooling, normalize))
    if to != "run":
        save_model(model, folder, to)
        return
    write_run(model, folder)


def check_new(folder: Path) -> None:
    """ValueError for a folder that holds something, or is none."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder")


def write_run(model: Checkpoint, folder: Path) -> None:
    """Write a model as a run that has taken no step, for `init_from`.

    Raises:
        ValueError: it has no tokenizer.
        OSError: the folder cannot be written.
    """
    if model.tokenizer is None:
        raise ValueError(f"{model.config.name or 'the model'} has no tokenizer, and a run needs one")
    folder.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save(folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    if model.sentence != SentenceConfig():
        log.warning("%s: a run keeps the encoder and its heads, but no pooling, modules or prompts.", folder)
    known = {*model.config.objective.heads(model.config.model), *HEADS["ForPreTraining"]}
    if unused := sorted(model.heads.keys() - known):
        log.warning(
            "%s: a run has the heads of its objective, so that %s cannot be used there; use or fine-tune the published "
            "model for that.", folder, " and ".join(unused),
        )  # fmt: skip
    params = {name: part for name, part in model.params.items() if name != "sentence"}
    checkpoints.save(0, {"params": params}, wait=True)
    checkpoints.close()
    config = dataclasses.replace(
        model.config,
        name=folder.name,
        tokenizer=TokenizerConfig(path=str(folder / "tokenizer")),
        adapter=LoraConfig(),  # the weights are merged, and averaged
        training=dataclasses.replace(model.config.training, ema_decay=0.0),
    )
    save(config, folder)  # last: now it is a run


def _convert_adapter(source: Path, folder: Path, to: Format) -> None:
    """Write what a run has learned, or the adapter in a folder, alone."""
    if (source / ADAPTER_FILE).is_file():
        found = adapter.of_folder(source, load(adapter.base_of(source)))
    else:
        found = adapter.learned(source)
    if to == "adapter":
        adapter.write_adapter(found, folder)
    elif left_out := adapter.write_peft(found, folder):
        log.warning("%s: left out, as the family's heads compute something else: %s", folder, ", ".join(left_out))
