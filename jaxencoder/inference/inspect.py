"""What a model or a recipe is made of, and what it takes: read from its settings, without its weights."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from jaxencoder.checkpoints.description import Kind, describe_model
from jaxencoder.config import ComputeConfig, EncoderConfig, MeshConfig, RunConfig
from jaxencoder.families.published import family_of
from jaxencoder.kernels.choice import choose_backend
from jaxencoder.kernels.inputs import AttentionOptions
from jaxencoder.model.flops import forward_flops
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import path_of
from jaxencoder.sharding import abstract_mesh, shardings
from jaxencoder.training.layerwise import trainable_mask
from jaxencoder.training.optimizers import make_optimizer


@dataclass(frozen=True)
class Bytes:
    """Of an array or of many: all of it, and what one device of the mesh holds."""

    total: int
    device: int


@dataclass(frozen=True)
class Parameter:
    """One array.

    Attributes:
        path: among the parameters.
        shape: of the whole array.
        number: of its elements.
        bytes: in float32.
        spec: the axis or axes of the mesh that split each of its axes.
    """

    path: str
    shape: tuple[int, ...]
    number: int
    bytes: Bytes
    spec: tuple[str | tuple[str, ...] | None, ...]


@dataclass(frozen=True)
class LayerKind:
    """Layers that attend alike.

    Attributes:
        window: how many tokens to either side a token sees; 0: its whole text.
        layers: how many of this kind there are.
        backend: of attention, for rows of the length that is asked about.
    """

    window: int
    layers: int
    backend: str


@dataclass(frozen=True)
class Inspection:
    """A model or a recipe.

    Attributes:
        name: what was asked for.
        kind: what it is.
        family: the model_type that it is published under, or could be; None: no family has this architecture.
        settings: of its EncoderConfig.
        changed: names of the settings that are not the default.
        heads: name -> settings; the masked-language-model head's are the encoder's.
        tokenizer: name -> value; empty if there is none.
        sentence: how a vector is made of a text; empty unless the folder says it.
        parameters: every array, the encoder's first.
        parts: numbers of parameters: embeddings, layers, adapters, and each head.
        mesh: axis -> devices.
        memory: parameters, gradients, and the optimiser's state, in float32.
        optimizer: its name.
        length: tokens in a row, for what follows.
        flops: of a forward pass for each token of the encoder, and for each token that `mlm_head` predicts.
        attention: the kinds of layers.
        notes: what could not be known, in words.
    """

    name: str
    kind: Kind
    family: str | None
    settings: Mapping[str, Any]
    changed: tuple[str, ...]
    heads: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any]
    sentence: Mapping[str, Any]
    parameters: tuple[Parameter, ...]
    parts: Mapping[str, int]
    mesh: Mapping[str, int]
    memory: Mapping[str, Bytes]
    optimizer: str
    length: int
    flops: Mapping[str, float]
    attention: tuple[LayerKind, ...]
    notes: tuple[str, ...]


def inspect(
    target: str | Path, mesh: Mapping[str, int] | None = None, length: int | None = None, overrides: Sequence[str] = ()
) -> Inspection:
    """Look into a model or a recipe.

    Args:
        target: folder of a run, of transformers or of sentence-transformers, a name of the hub (whose weights are not
            fetched), or a recipe as `train` takes it.
        mesh: devices on each axis, which need not be there; an axis that is not given is the recipe's or run's, or 1.
        length: tokens in a row; None: the recipe's or run's, or the model's longest.
        overrides: command-line words for a recipe.

    Raises:
        ValueError: none of these, a setting that cannot be read, or a length that the model does not have.
        OSError: a file is missing or cannot be read.
    """
    found = describe_model(str(target), overrides)
    model, length = found.config.model, found.config.data.row_length if length is None else length
    if length < 1 or (model.positions == "learned" and length > model.max_length):
        raise ValueError(f"length is {length}; {target} takes rows of 1 to {model.max_length} tokens")
    axes = abstract_mesh(MeshConfig(**dataclasses.asdict(found.config.mesh) | dict(mesh or {})))
    parameters = tuple(_parameters(found.shapes, axes))
    parts: Counter[str] = Counter()
    for parameter in parameters:
        parts[_part(parameter.path)] += parameter.number
    encoder = forward_flops(model, length)
    flops = {"encoder": encoder}
    if "mlm_head" in found.shapes:
        flops["mlm_head"] = forward_flops(model, length, predicted=1) - encoder
    defaults = EncoderConfig()
    return Inspection(
        name=str(target),
        kind=found.kind,
        family=found.family or _family(model),
        settings=dataclasses.asdict(model),
        changed=tuple(name for name, value in vars(model).items() if value != getattr(defaults, name)),
        heads=found.heads,
        tokenizer=found.tokenizer,
        sentence=found.sentence,
        parameters=parameters,
        parts=dict(parts),
        mesh=dict(axes.shape),
        memory=state_memory(found.config, found.shapes, axes),
        optimizer=found.config.optimizer.name,
        length=length,
        flops=flops,
        attention=layer_kinds(model, found.config.compute, length),
        notes=found.notes,
    )


def layer_kinds(model: EncoderConfig, compute: ComputeConfig, length: int, train: bool = True) -> tuple[LayerKind, ...]:
    """The kinds of layers of a model in rows of so many tokens, on devices such as this process has."""
    windows = Counter(model.windows[layer % len(model.windows)] for layer in range(model.num_layers))
    relative = bool(model.disentangled or model.relative_bias_buckets) or model.positions == "alibi"
    dropout = model.attention_dropout if train else 0.0

    def backend(window: int) -> str:
        options = AttentionOptions(window, dropout, compute.attention)
        return choose_backend(options, length, relative=relative, global_tokens=model.global_tokens)

    return tuple(LayerKind(window, layers, backend(window)) for window, layers in windows.items())


def state_memory(config: RunConfig, shapes: Params, mesh: Mesh | AbstractMesh) -> dict[str, Bytes]:
    """What training holds throughout, in float32: parameters, gradients, optimizer, and average where one is kept.

    Args:
        config: of the run.
        shapes: of its parameters.
        mesh: whose devices share them.
    """
    optimizer = make_optimizer(config.optimizer, max(config.training.steps, 1), trainable=config.trainable_patterns)
    state = jax.eval_shape(optimizer.init, shapes)
    learns = (
        jax.tree.leaves(trainable_mask(config.trainable_patterns)(shapes))
        if config.trainable_patterns
        else itertools.repeat(True)
    )
    leaves, places = (jax.tree.leaves(tree) for tree in (shapes, shardings(shapes, mesh)))
    memory = {
        "parameters": (parameters := _bytes(leaves, places)),
        "gradients": _bytes(*(list(itertools.compress(x, learns)) for x in (leaves, places))),
        "optimizer": _bytes(jax.tree.leaves(state), jax.tree.leaves(shardings(state, mesh))),
    }
    return memory | ({"average": parameters} if config.training.ema_decay else {})


def _family(model: EncoderConfig) -> str | None:
    try:
        return family_of(model).model_type
    except ValueError:
        return None


def _parameters(shapes: Params, mesh: AbstractMesh) -> Iterator[Parameter]:
    for part in sorted(shapes, key=lambda name: name != "encoder"):
        tree = {part: shapes[part]}
        placed = jax.tree.leaves(shardings(tree, mesh))
        for (path, leaf), place in zip(jax.tree.leaves_with_path(tree), placed, strict=True):
            yield Parameter(path_of(path), leaf.shape, leaf.size, _bytes([leaf], [place]), tuple(place.spec))


def _part(path: str) -> str:
    first, second, *_ = path.split("/")
    if first != "encoder":
        return first
    if "_bottleneck/" in path:
        return "bottleneck"
    return "embeddings" if second == "embeddings" else "layers"


def _bytes(leaves: Sequence[Any], placed: Sequence[Any]) -> Bytes:
    total = sum(x.size * x.dtype.itemsize for x in leaves)
    device = sum(
        int(np.prod(place.shard_shape(x.shape))) * x.dtype.itemsize for x, place in zip(leaves, placed, strict=True)
    )
    return Bytes(total, device)
