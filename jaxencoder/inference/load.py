"""Opening what there is: a run, a folder that transformers or sentence-transformers has written, or a hub's name."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax

from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.adapter import base_of, is_adapter, with_adapter
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.initial import TOKENIZER_FOLDER, is_published, run_weights, saved_config
from jaxencoder.checkpoints.tokenizer import published_tokenizer
from jaxencoder.checkpoints.transformers import read_model
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.inference.model import OpenedModel
from jaxencoder.kernels.platform import before_ampere
from jaxencoder.model.config import ComputeConfig
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.text.tokenizers.tokenizer import Tokenizer


def load(
    path: str | Path,
    dtype: Literal["float32", "bfloat16"] | None = None,
    step: int | Literal["latest", "best"] = "latest",
    revision: str | None = None,
) -> OpenedModel:
    """Open a model.

    On a CPU a process that calls `jaxencoder.training.memory.keep_freed_memory` first, as the command line does, embeds
    about a tenth faster.

    Args:
        path: folder that `jaxencoder train` has written, folder of transformers or sentence-transformers, of an
            adapter, whose base is found by the name that it has for it, or the name of one on the Hugging Face hub.
        dtype: of activations and matrix products; None: float32 on a CPU and on GPUs without bfloat16 (before Ampere),
            elsewhere what the run was trained with.
        step: which checkpoint of a run; "best" by the run's own `training.best_metric`.
        revision: branch, tag or commit of a name on the hub.

    Raises:
        FileNotFoundError: no such folder or name, or no checkpoint in it.
        ValueError: not a model, one that cannot be loaded, or damaged; a revision of a folder.
    """
    folder = resolve(path, revision)
    if is_adapter(folder):
        return _on_its_base(folder, dtype)
    if (folder / sentence_transformers.MODULES_FILE).is_file():
        return _sentence_model(folder, dtype)
    return _published(folder, dtype) if is_published(folder) else _run(folder, dtype, step)


def opened(model: str | Path | OpenedModel) -> OpenedModel:
    """The model itself, or that of the folder or name."""
    return model if isinstance(model, OpenedModel) else load(model)


def _on_its_base(folder: Path, dtype: str | None) -> OpenedModel:
    name = base_of(folder)
    try:
        base = load(name, dtype)
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} adapts {name}, which cannot be opened ({error}); where it is elsewhere, "
            f"load it from there and call its with_adapter({str(folder)!r})"
        ) from None
    return with_adapter(base, folder)


def _run(folder: Path, dtype: str | None, step: int | str) -> OpenedModel:
    config = saved_config(folder)
    tokenizer = Tokenizer.load(folder / TOKENIZER_FOLDER)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"{folder / TOKENIZER_FOLDER} has {tokenizer.vocab_size} tokens, "
            f"but the model only {config.model.vocab_size}; it belongs to another run"
        )
    number, params = run_weights(folder, config, step)
    config = config.at_step(number)
    compute = _compute(config, dtype)
    if "generator" not in params:  # of replaced-token detection, the discriminator may have been written alone
        return OpenedModel(config, params, tokenizer, step=number, compute=compute)
    models = config.objective.build(config.model, compute, tokenizer).models(params)
    smaller = dataclasses.replace(config, model=config.objective.generator(config.model), objective=MaskedLM())
    generator = OpenedModel(smaller, models["generator"], tokenizer, compute=compute)
    params = models["discriminator"]
    return OpenedModel(config, params, tokenizer, generator=generator, step=number, compute=compute)


def _published(folder: Path, dtype: str | None, max_length: int = 0) -> OpenedModel:
    found = read_model(folder)
    tokenizer = published_tokenizer(folder, found.config.vocab_size)
    length = min(max_length or found.config.max_length, found.config.max_length)
    config = RunConfig(name=folder.name, model=found.config, data=DataConfig(row_length=length))
    return OpenedModel(config, found.params, tokenizer, found.published, compute=_compute(config, dtype))


def _sentence_model(folder: Path, dtype: str | None) -> OpenedModel:
    found = sentence_transformers.read(folder)
    model = _published(found.transformer, dtype, found.max_length)
    size = model.config.model.hidden_size
    if size != found.hidden_size:
        raise ValueError(f"{folder} pools vectors of {found.hidden_size} numbers, but its encoder's have {size}")
    tokenizer = model.tokenizer
    if found.lowercase and tokenizer is not None:
        tokenizer = tokenizer.lowercased()
    params = model.params | {"sentence": found.params} if found.params else model.params
    config = dataclasses.replace(model.config, name=folder.name)
    return dataclasses.replace(model, config=config, params=params, tokenizer=tokenizer, sentence=found.settings)


def _compute(config: RunConfig, dtype: str | None) -> ComputeConfig:
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" or before_ampere() else config.compute.dtype
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype!r}; give float32 or bfloat16")
    return dataclasses.replace(config.compute, dtype=dtype, remat="none")
