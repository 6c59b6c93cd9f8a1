"""What a run starts from: another run, a folder of transformers or sentence-transformers, or a name of the hub."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.adapters.bottleneck import add_missing_bottlenecks
from jaxencoder.adapters.lora import merge_lora
from jaxencoder.checkpoints import sentence_transformers
from jaxencoder.checkpoints.hub import resolve
from jaxencoder.checkpoints.orbax import restore_step
from jaxencoder.checkpoints.tokenizer import published_tokenizer
from jaxencoder.checkpoints.transformers import read_model, read_settings
from jaxencoder.config import RunConfig, check_positions
from jaxencoder.config_io import CONFIG_FILE, read
from jaxencoder.families import classifier
from jaxencoder.families.published import Published
from jaxencoder.families.shapes import parameter_shapes
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig
from jaxencoder.objectives.objective import ObjectiveConfig, Params
from jaxencoder.parameters import path_of
from jaxencoder.text.config import TokenizerConfig
from jaxencoder.text.tokenizers.tokenizer import Tokenizer
from jaxencoder.training.layerwise import layer_heights

TOKENIZER_FOLDER = "tokenizer"
ADAPTER_FILE, PEFT_CONFIG = "adapter.safetensors", "adapter_config.json"  # of a folder without its base
CHECKPOINT_FOLDER = "checkpoints"


class Start(NamedTuple):
    """A model to go on from: its architecture, its tokenizer, and how a configuration names that tokenizer."""

    model: EncoderConfig
    tokenizer: Tokenizer
    tokenizer_config: TokenizerConfig


def find_start(init_from: str) -> Start:
    """What there is at `init_from`, without its weights.

    Raises:
        ValueError: not a model, one that cannot be loaded, or one without a tokenizer.
        OSError: no such folder or name.
    """
    folder = resolve(init_from)
    if (folder / ADAPTER_FILE).is_file() or (folder / PEFT_CONFIG).is_file():
        raise ValueError(f"{folder} is an adapter without its base; write both with convert --to run, and start there")
    if not is_published(folder):
        config = saved_config(folder)
        path = folder / TOKENIZER_FOLDER
        choice = dataclasses.replace(config.tokenizer, path=str(path))
        return Start(config.model, Tokenizer.load(path), choice)
    transformer, lowercase = transformer_of(folder)
    model = read_model(transformer, weights=False).config
    tokenizer = published_tokenizer(transformer, model.vocab_size)
    if tokenizer is None:
        raise ValueError(f"{transformer} has no tokenizer, and training needs one; put one into the folder")
    tokenizer = tokenizer.lowercased() if lowercase else tokenizer
    return Start(model, tokenizer, TokenizerConfig(path=str(transformer)))


def started_from(config: RunConfig) -> Published | None:
    """The published checkpoint that a run goes back to, over other runs; None if there is none, or it is gone."""
    seen = set()
    while config.init_from and config.init_from not in seen:
        seen.add(config.init_from)
        try:
            folder = resolve(config.init_from, weights=False)
            if is_published(folder):
                return read_model(transformer_of(folder)[0], weights=False).published
            config = saved_config(folder)
        except (OSError, ValueError):
            return None
    return None


def initial_params(init_from: str, params: Params, objective: ObjectiveConfig, reinitialize: int = 0) -> Params:
    """The encoder of `init_from`, its heads where `params` has the same ones, and the rest of `params`.

    A classifier of texts takes what the family's head of texts has of it: of BERT the pooler, and the projection too
    where that has as many classes.

    Bottleneck adapters are those of `params` where `init_from` has none.

    Of a run of replaced-token detection it is the discriminator, or both models where `objective`, what the new run
    trains, has such a generator and shares embeddings in the same way. The layers that are to be initialised anew, so
    many from the top, are those of `params`.

    Raises:
        ValueError: the encoders do not have the same shapes, or not so many layers.
        OSError: the weights are missing or cannot be read.
    """
    folder = resolve(init_from)
    wanted = jax.tree.map(np.shape, params)
    if is_published(folder):
        opened = read_model(transformer_of(folder)[0], extra_heads=("pooler",) if classifier.NAME in params else ())
        source = opened.params
        known = opened.published.family.heads(opened.config, opened.published.settings)
        known = {name: table.config for name, table in known.items()}
    else:
        config = saved_config(folder)
        _, source = run_weights(folder, config)
        known = config.objective.heads(config.model)
        alike = getattr(objective, "sharing", None) == getattr(config.objective, "sharing", None)
        alike &= jax.tree.map(np.shape, source.get("generator")) == wanted.get("generator")
        if "generator" in source and not alike:
            built = config.objective.build(config.model, config.compute, Tokenizer.load(folder / TOKENIZER_FOLDER))
            source = built.models(source)["discriminator"]
    encoder = add_missing_bottlenecks(source["encoder"], params["encoder"])
    adapters = len(jax.tree.leaves(encoder)) > len(jax.tree.leaves(source["encoder"]))
    source = source | {"encoder": encoder}
    shapes = {name: jax.tree.map(np.shape, part) for name, part in source.items()}
    taken = [name for name in params if shapes.get(name) == wanted[name]]
    if "encoder" not in taken:
        raise ValueError(f"the encoder of init_from {init_from} has other shapes than this model's; start a new run.")
    found = {name: source[name] if name in taken else part for name, part in params.items()}
    new = [*["adapters"] * adapters, *(name for name in params if name not in taken)]
    if classifier.NAME in new and (parts := _parts_of_classifier(source, params[classifier.NAME], objective, known)):
        own = params[classifier.NAME]
        found[classifier.NAME] = own | {part: arrays for part, (_, arrays) in parts.items()}
        taken += [f"{path} as {classifier.NAME}/{part}" for part, (path, _) in parts.items()]
        rest = [f"{classifier.NAME}/{part}" for part in own if part not in parts]
        new[new.index(classifier.NAME) : new.index(classifier.NAME) + 1] = rest
    if jax.process_index() == 0:
        top = f", and {reinitialize} layers from the top" if reinitialize else ""
        print(f"Starting from {init_from}: {', '.join(taken)}; new: {', '.join(new) or 'nothing'}{top}", flush=True)
    return with_new_top(found, params, reinitialize) if reinitialize else found


def _parts_of_classifier(
    source: Params, own: Params, objective: ObjectiveConfig, heads: Mapping[str, HeadConfig]
) -> dict[str, tuple[str, Params]]:
    """The parts of a new classifier that heads of the same shapes hold; see `classifier.from_heads`."""
    found = classifier.from_heads(source, getattr(objective, "pooling", ""), heads)
    shapes = jax.tree.map(np.shape, own)
    return {part: x for part, x in found.items() if jax.tree.map(np.shape, x[1]) == shapes.get(part)}


def with_new_top(params: Params, new: Params, layers: int) -> Params:
    """Parameters whose top layers are taken from others: those of every encoder, in its stack and beside it.

    Args:
        params, new: trees of the same shapes.
        layers: how many, at least 1.

    Raises:
        ValueError: an encoder has fewer layers of its own.

    References:
        Zhang et al. 2021, Revisiting few-sample BERT fine-tuning, arXiv:2006.05987, section 4.
    """
    height, there = layer_heights(params)
    for encoder, count in there.items():
        if layers > count:
            raise ValueError(f"reinitialize is {layers}, but {encoder} has {count} layers of its own")

    def choose(path: tuple[Any, ...], old: Any, fresh: Any) -> jax.Array:
        above = height(path, old)[1]
        return jnp.where((above > 0) & (above <= layers), fresh, old)

    # Compiled, because in a run on several hosts `new` is not whole on any of them.
    return jax.jit(lambda old, fresh: jax.tree.map_with_path(choose, old, fresh))(params, new)


def saved_config(run_dir: Path) -> RunConfig:
    """The configuration in a run's folder; ValueError if it holds none."""
    path = run_dir / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a run: it has no {CONFIG_FILE}")
    return read(path)


def run_weights(
    run_dir: Path, config: RunConfig, step: int | Literal["latest", "best"] = "latest"
) -> tuple[int, Params]:
    """The step and the parameters of a run's checkpoint as they are used.

    They are averaged, where the run keeps an average, and an adapter is merged into them.

    Raises:
        FileNotFoundError: there is no checkpoint, or not that one.
        ValueError: none can be read, or none has the metric by which one is the best.
    """
    number, params = raw_weights(run_dir, config, step)
    return number, merge_lora(config.adapter, params)


def raw_weights(
    run_dir: Path, config: RunConfig, step: int | Literal["latest", "best"] = "latest", average: bool = True
) -> tuple[int, Params]:
    """As `run_weights`, an adapter apart; without `average` the weights as they were trained."""
    return restore_step(
        run_dir / CHECKPOINT_FOLDER,
        step=step,
        part="ema" if config.training.ema_decay and average else "params",
        metric=config.training.best_metric,
        higher_is_better=config.training.best_mode == "max",
    )


def with_architecture(config: RunConfig, model: EncoderConfig) -> RunConfig:
    """A configuration with the architecture of what it starts from; its rates of dropout stay, and its new adapters.

    Where it learns from labels, rows have no more tokens than the model has learned positions; see `shortened`.

    Raises:
        ValueError: it asks for other adapters than there are already, for new ones that would not learn, or, to be
            pretrained, for longer rows than there are learned positions.
    """
    own = {name: getattr(config.model, name) for name in ("dropout", "attention_dropout")}
    if config.model.bottleneck:
        own |= {name: getattr(config.model, name) for name in ("bottleneck", "bottleneck_sublayers")}
        for name in ("bottleneck", "bottleneck_sublayers"):
            if model.bottleneck and own[name] != getattr(model, name):
                raise ValueError(
                    f"model.{name} is {own[name]}, but what the run starts from has adapters already, with "
                    f"{getattr(model, name)}; leave it out to go on with those"
                )
    config = dataclasses.replace(config, model=dataclasses.replace(model, **own))
    if config.is_supervised and model.positions == "learned":
        config = _with_rows_of_at_most(config, model.max_length)
    for part in config.phase_configs:
        check_positions(part)
    if config.model.bottleneck > model.bottleneck and config.optimizer.trainable:
        shapes = {"encoder": parameter_shapes(config.model, False)["encoder"]}
        paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(shapes)]
        new = [path for path in paths if "_bottleneck/" in path]
        if not any(re.search(pattern, path) for pattern in config.optimizer.trainable for path in new):
            raise ValueError(
                f"optimizer.trainable {list(config.optimizer.trainable)} leaves the new adapters out, which would "
                'learn nothing; add "_bottleneck/", or set model.bottleneck to 0'
            )
    return config


def _with_rows_of_at_most(config: RunConfig, length: int) -> RunConfig:
    data, *phases = (
        dataclasses.replace(part, row_length=min(part.row_length, length)) for part in (config.data, *config.phases)
    )
    return dataclasses.replace(config, data=data, phases=tuple(phases))


def shortened(asked: RunConfig, config: RunConfig) -> str:
    """One line on rows that `with_architecture` has made shorter than was asked for; empty if it has not."""
    before, after = (max(x.data.row_length for x in (run, *run.phase_configs)) for run in (asked, config))
    if before == after:
        return ""
    return f"Rows of at most {after} tokens, not {before}: {config.init_from} has no more positions"


def is_published(folder: Path) -> bool:
    """Whether transformers or sentence-transformers wrote the folder; ValueError for a config.json that is none."""
    if (folder / sentence_transformers.MODULES_FILE).is_file():
        return True
    return (folder / CONFIG_FILE).is_file() and "model_type" in read_settings(folder)


def transformer_of(folder: Path) -> tuple[Path, bool]:
    """The folder of the encoder alone, and whether texts are lowercased for it."""
    if not (folder / sentence_transformers.MODULES_FILE).is_file():
        return folder, False
    found = sentence_transformers.read(folder, weights=False)
    return found.transformer, found.lowercase
