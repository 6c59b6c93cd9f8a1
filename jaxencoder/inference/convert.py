"""From one kind of folder to another: a run for training to go on from, or what transformers loads."""

import dataclasses
import logging
from pathlib import Path
from typing import Literal, get_args

from jaxencoder.config import Lora, TokenizerConfig, save
from jaxencoder.inference.embed import chosen
from jaxencoder.inference.load import load
from jaxencoder.model.heads import Pooling
from jaxencoder.model.sentence import SentenceSettings
from jaxencoder.training.checkpoint import Checkpoints

Format = Literal["hf", "sentence-transformers", "run"]

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
            that `init_from` takes.
        pooling, normalize: how a text's vector is made, for "sentence-transformers"; None: as the model has it. A run's
            `learned` pooling cannot be written.

    Raises:
        ValueError: an unknown format, a folder that holds something, a model that the format cannot hold.
        OSError: the source cannot be read, or the folder cannot be written.
    """
    folder = Path(folder)
    if to not in get_args(Format):
        raise ValueError(f"format {to!r} is unknown; give one of {', '.join(get_args(Format))}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new folder")
    model = load(source)
    if (pooling, normalize) != (None, None):
        if to != "sentence-transformers":
            raise ValueError(
                f"format {to!r} says nothing of pooling and normalize; give sentence-transformers, or neither"
            )
        model = dataclasses.replace(model, sentence=chosen(model, pooling, normalize))
    if to != "run":
        model.save(folder, to)
        return
    if model.tokenizer is None:
        raise ValueError(f"{source} has no tokenizer, and a run needs one")
    folder.mkdir(parents=True, exist_ok=True)
    model.tokenizer.save(folder / "tokenizer")
    checkpoints = Checkpoints(folder / "checkpoints", keep=1)
    if model.sentence != SentenceSettings():
        log.warning("%s: a run keeps the encoder and its heads, but no pooling, modules or prompts.", folder)
    params = {name: part for name, part in model.params.items() if name != "sentence"}
    checkpoints.save(0, {"params": params}, wait=True)
    checkpoints.close()
    config = dataclasses.replace(
        model.config,
        name=folder.name,
        tokenizer=TokenizerConfig(path=str(folder / "tokenizer")),
        adapter=Lora(),  # the weights are merged, and averaged
        training=dataclasses.replace(model.config.training, ema_decay=0.0),
    )
    save(config, folder)  # last: now it is a run
