"""Folders of runs: settings, tokenizer and checkpoints, as training writes them."""

import dataclasses
import logging
from pathlib import Path
from typing import Literal

from jaxencoder.adapters.lora import LoraConfig, merge_lora
from jaxencoder.checkpoints.checkpoint import Checkpoint, load_tokenizer
from jaxencoder.checkpoints.orbax import CheckpointManager, restore_step
from jaxencoder.config import RunConfig, TokenizerConfig
from jaxencoder.config_io import CONFIG_FILE, read, save
from jaxencoder.families.family import HEADS
from jaxencoder.model.sentence import MODULES, QUERY_TOWER
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import Params
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Step = int | Literal["latest", "best"]
TOKENIZER_FOLDER = "tokenizer"
CHECKPOINT_FOLDER = "checkpoints"


def saved_config(run_dir: Path) -> RunConfig:
    """The configuration in a run's folder; ValueError if there is none."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run: it has no {CONFIG_FILE}")
    return read(path)


def read_params(run_dir: Path, config: RunConfig, step: Step = "latest", average: bool = True) -> tuple[int, Params]:
    """The step and the parameters of a run's checkpoint, with a low-rank adapter apart, under "lora".

    Args:
        step: which checkpoint; "best" by `training.best_metric`.
        average: read the moving average if the run keeps one, else the trained weights.
    """
    return restore_step(
        run_dir / CHECKPOINT_FOLDER,
        step=step,
        part="ema" if config.training.ema_decay and average else "params",
        metric=config.training.best_metric,
        higher_is_better=config.training.best_mode == "max",
    )


def open_run(folder: Path, step: Step = "latest") -> Checkpoint:
    """Open a run at a checkpoint: averaged weights if the run keeps them, with its adapter merged."""
    config = saved_config(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER_FOLDER, config.model.vocab_size)
    number, params = read_params(folder, config, step)
    return as_checkpoint(config, tokenizer, params, number)


def as_checkpoint(config: RunConfig, tokenizer: Tokenizer, params: Params, number: int) -> Checkpoint:
    """The model of a run with the parameters that it has, or averages, after this number of steps."""
    params = dict(merge_lora(config.adapter, params))  # a copy: the state of a training run may be given
    config = config.at_step(number)
    # The discriminator of replaced-token detection may have been written alone.
    if not isinstance(config.objective, ReplacedToken) or "generator" not in params:
        settings = {name: getattr(config.objective, name) for name in ("sentence", "cross_encoder")}
        settings["multi_vector"] = config.objective.multi_vector(config.model)
        tower = params.pop(QUERY_TOWER, None)
        model = Checkpoint(config, params, tokenizer, step=number, **settings)
        return dataclasses.replace(model, queries=tower and dataclasses.replace(model, params=tower))
    models = separate_models(config, tokenizer, params)
    masked_lm = dataclasses.replace(config, model=config.objective.generator(config.model), objective=MaskedLM())
    generator = Checkpoint(masked_lm, models["generator"], tokenizer)
    return Checkpoint(config, models["discriminator"], tokenizer, generator=generator, step=number)


def separate_models(config: RunConfig, tokenizer: Tokenizer, params: Params) -> dict[str, Params]:
    """The parameters of the "generator" and the "discriminator" of replaced-token detection."""
    models = config.objective.build(config.model, config.compute, tokenizer).models
    assert models is not None  # only replaced-token detection has a generator
    return models(params)


def write_run(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model with a tokenizer as a run at step 0, for `init_from`. config.json comes last and makes it a run."""
    config = checkpoint.config
    if checkpoint.tokenizer is None:
        raise ValueError(f"{config.name or 'the model'} has no tokenizer, and a run needs one")
    has_towers = config.objective.sentence.default_role is not None
    if checkpoint.queries is not None and not has_towers:
        problem = f"{config.name or 'the model'} has an encoder for queries and one for documents, and no run of them"
        raise ValueError(f"{problem}; name its own folder in init_from")
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.tokenizer.save(folder / TOKENIZER_FOLDER)
    settings = checkpoint.sentence, checkpoint.multi_vector
    if settings != (config.objective.sentence, config.objective.multi_vector(config.model)):
        log.warning("%s: a run keeps the encoder and its heads, but no pooling, modules, prompts or tasks.", folder)
    usable = {*config.objective.heads(config.model), *HEADS["ForPreTraining"]}
    if unused := " and ".join(sorted(checkpoint.heads.keys() - usable)):
        reason = f"a run has only the heads of its objective, so it cannot use {unused}"
        log.warning("%s: %s; use or fine-tune the published model for that.", folder, reason)
    checkpoints = CheckpointManager(folder / CHECKPOINT_FOLDER, keep=1)
    params = dict(checkpoint.params)
    if not config.objective.sentence.modules:
        params.pop(MODULES, None)
    if checkpoint.queries is not None:
        params[QUERY_TOWER] = checkpoint.queries.params
    checkpoints.save(0, {"params": params}, wait=True)
    checkpoints.close()
    tokenizer = TokenizerConfig(path=str(folder / TOKENIZER_FOLDER))
    training = dataclasses.replace(config.training, ema_decay=0.0)  # the weights are averaged, and merged
    config = dataclasses.replace(config, name=folder.name, tokenizer=tokenizer, adapter=LoraConfig(), training=training)
    save(config, folder)
