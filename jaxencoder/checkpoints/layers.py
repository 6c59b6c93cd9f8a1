"""A smaller model of some layers of another, as a start for distillation.

Sanh et al. 2019 (DistilBERT: every other layer), arXiv:1910.01108; Sajjad et al. 2020 (which layers to drop),
arXiv:2004.03844.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxencoder.checkpoints.changed import M, Written, changed, write_changed
from jaxencoder.checkpoints.convert import check_new
from jaxencoder.checkpoints.opening import open_checkpoint
from jaxencoder.model.config import EncoderConfig
from jaxencoder.tasks.embeddings.layers import LayerSettings


def keep_layers(source: str | Path, folder: str | Path, layers: Sequence[int]) -> Written:
    """Write a model with some of the layers of another; the other arguments are those of `with_layers`.

    Args:
        source: a folder of any kind, or a name on the Hugging Face hub.
        folder: the folder to write; empty or missing.

    Returns:
        The format: that of the source if it is published and its family can hold the new architecture, else a run.
    """
    folder = Path(folder)
    check_new(folder)
    return write_changed(with_layers(open_checkpoint(source), layers), folder)


def with_layers(model: M, layers: Sequence[int]) -> M:
    """A model with some of the layers of another; its embeddings and heads stay.

    Args:
        model: a run, or a published model.
        layers: numbers of the layers to keep, from 0, in increasing order.

    Returns:
        The model, published if its family can hold it; see `changed`.

    Raises:
        ValueError: layers that the model does not have, that share their parameters, or whose first one differs from
            others in structure and is left out.
    """
    config = model.config.model
    _check(config, layers)
    architecture = dataclasses.replace(config, num_layers=len(layers), **_pattern(config, layers))
    objective = model.config.objective
    if isinstance(objective, LayerSettings):
        config_of_run = dataclasses.replace(model.config, objective=objective.without_layers())
        model = dataclasses.replace(model, config=config_of_run)
    blocks = list(_blocks(config, model.params["encoder"]))
    encoder = {name: x for name, x in model.params["encoder"].items() if name not in ("layers", "last")}
    return changed(model, architecture, encoder | _stacked(architecture, [blocks[i] for i in layers]))


def _check(config: EncoderConfig, layers: Sequence[int]) -> None:
    numbers = " ".join(map(str, layers))
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < config.num_layers:
        rule = f"give increasing numbers from 0 to {config.num_layers - 1}"
        raise ValueError(f"layers are {numbers or 'empty'}, but the model has {config.num_layers} layers; {rule}")
    if config.num_layer_groups:
        raise ValueError("the layers of the model share their parameters, so that none can be left out")
    if layers[0] and (config.conv_kernel_size or not config.first_attention_norm):
        special = "a convolution beside it" if config.conv_kernel_size else "no norm before its attention"
        raise ValueError(f"layers are {numbers}, but the first layer of the model has {special}; keep layer 0")


def _pattern(config: EncoderConfig, layers: Sequence[int]) -> dict[str, Any]:
    """The shortest pattern of windows and experts that repeats over these layers."""
    period = len(config.windows)
    kinds = [(config.windows[i % period], i % period in config.expert_layers) for i in layers]
    length = next(n for n in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % n] for i in range(len(kinds))))
    return {
        "windows": tuple(window for window, _ in kinds[:length]),
        "expert_layers": tuple(i for i, (_, has_experts) in enumerate(kinds[:length]) if has_experts),
    }


def _blocks(config: EncoderConfig, encoder: Mapping[str, Any]) -> Iterator[Any]:
    """The parameters of each layer."""
    for number in range(config.repeats * len(config.windows)):
        repetition, i = divmod(number, len(config.windows))
        yield jax.tree.map(itemgetter(repetition), encoder["layers"][f"block_{i}"])
    yield from (encoder["last"][f"block_{i}"] for i in range(len(config.remainder)))


def _stacked(config: EncoderConfig, blocks: Sequence[Any]) -> dict[str, Any]:
    """The parameters of layers in the form of `Encoder`."""
    period, complete = len(config.windows), config.repeats * len(config.windows)
    layers = {}
    for i in range(period if complete else 0):
        layers[f"block_{i}"] = jax.tree.map(lambda *x: np.stack(x), *blocks[i:complete:period])
    last = {f"block_{i}": block for i, block in enumerate(blocks[complete:])}
    return {name: x for name, x in (("layers", layers), ("last", last)) if x}
