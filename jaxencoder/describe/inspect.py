"""The parts of a model or a recipe and what they need: read from its settings, without its weights."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from jaxencoder.config import ComputeConfig, EncoderConfig, MeshConfig, RunConfig
from jaxencoder.describe.description import Kind, describe_model
from jaxencoder.describe.format import format_count, format_memory, format_mesh, format_pairs, format_table, join_blocks
from jaxencoder.families.published import family_of
from jaxencoder.kernels.choice import choose_backend
from jaxencoder.kernels.inputs import AttentionOptions
from jaxencoder.model.flops import forward_flops, unused_parameters
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import path_of
from jaxencoder.sharding import abstract_mesh, shardings
from jaxencoder.training.layerwise import trainable_mask
from jaxencoder.training.optimizers import make_optimizer


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of arrays: in total, and on one device of the mesh."""

    total: int
    device: int


@dataclass(frozen=True)
class Parameter:
    """One array of the parameter tree."""

    path: str
    shape: tuple[int, ...]  # over all devices
    number: int
    bytes: MemoryUse  # in float32
    spec: tuple[str | tuple[str, ...] | None, ...]  # for each axis the axis or axes of the mesh that split it


@dataclass(frozen=True)
class LayerKind:
    """Layers with the same attention."""

    window: int  # tokens to either side that a token attends to; 0: its whole text
    layers: int  # their number
    backend: str  # of attention, for the inspected length


@dataclass(frozen=True)
class Inspection:
    """A model or a recipe; kind, heads, tokenizer, sentence and notes are as in `ModelDescription`."""

    name: str
    kind: Kind
    family: str | None  # its model_type as a published model; None: no family has this architecture
    settings: Mapping[str, Any]  # of its EncoderConfig
    changed: tuple[str, ...]  # names of the settings that differ from the default
    heads: Mapping[str, Mapping[str, Any]]
    tokenizer: Mapping[str, Any]
    sentence: Mapping[str, Any]
    parameters: tuple[Parameter, ...]  # every array, the encoder's first
    parts: Mapping[str, int]  # number of parameters of embeddings, layers, adapters and each head
    active: int  # parameters that a token uses, without those of other experts
    mesh: Mapping[str, int]  # axis -> devices
    memory: Mapping[str, MemoryUse]  # see `state_memory`
    optimizer: str
    length: int  # tokens in a row, for `flops` and `attention`
    flops: Mapping[str, float]  # of a forward pass, per token of the encoder and per token that `mlm_head` predicts
    attention: tuple[LayerKind, ...]
    notes: tuple[str, ...]


def inspect(
    target: str | Path, mesh: Mapping[str, int] | None = None, length: int | None = None, overrides: Sequence[str] = ()
) -> Inspection:
    """Inspect a model or a recipe.

    Args:
        target: folder of a run, of transformers or of sentence-transformers, a name on the hub (whose weights are not
            fetched), or a recipe as for `train`.
        mesh: devices on each axis, which need not exist; axes left out are those of the recipe or run, or 1.
        length: tokens in a row; None: that of the recipe or run, or the model's maximum.
        overrides: command-line words for a recipe.

    Raises:
        ValueError: an unknown target, a setting that cannot be read, or a length that the model does not have.
        OSError: a file is missing or cannot be read.
    """
    described = describe_model(str(target), overrides)
    model, data = described.config.model, described.config.data
    text_limit, length = (data.text_limit, data.row_length) if length is None else (length, length)
    if length < 1 or (model.positions == "learned" and text_limit > model.max_length):
        raise ValueError(f"length is {length}; {target} takes rows of 1 to {model.max_length} tokens")
    axes = abstract_mesh(MeshConfig(**dataclasses.asdict(described.config.mesh) | dict(mesh or {})))
    parameters = tuple(_parameters(described.shapes, axes))
    parts: Counter[str] = Counter()
    for parameter in parameters:
        parts[_part(parameter.path)] += parameter.number
    encoder = forward_flops(model, length)
    flops = {"encoder": encoder}
    if "mlm_head" in described.shapes:
        flops["mlm_head"] = forward_flops(model, length, predicted=1) - encoder
    defaults = EncoderConfig()
    return Inspection(
        name=str(target),
        family=described.family or _family(model),
        settings=dataclasses.asdict(model),
        changed=tuple(name for name, value in vars(model).items() if value != getattr(defaults, name)),
        parameters=parameters,
        parts=dict(parts),
        active=sum(parts.values()) - unused_parameters(model),
        mesh=dict(axes.shape),
        memory=state_memory(described.config, described.shapes, axes),
        optimizer=described.config.optimizer.name,
        length=length,
        flops=flops,
        attention=layer_kinds(model, described.config.compute, length),
        kind=described.kind,
        heads=described.heads,
        tokenizer=described.tokenizer,
        sentence=described.sentence,
        notes=described.notes,
    )


def layer_kinds(model: EncoderConfig, compute: ComputeConfig, length: int, train: bool = True) -> tuple[LayerKind, ...]:
    """The kinds of layers of a model, for rows of `length` tokens on this process's kind of device."""
    windows = Counter(model.windows[layer % len(model.windows)] for layer in range(model.num_layers))
    relative = bool(model.disentangled or model.relative_bias_buckets) or model.positions == "alibi"
    dropout = model.attention_dropout if train else 0.0

    def backend(window: int) -> str:
        options = AttentionOptions(window, dropout, compute.attention)
        return choose_backend(options, length, relative=relative, global_tokens=model.global_tokens)

    return tuple(LayerKind(window, layers, backend(window)) for window, layers in windows.items())


def state_memory(config: RunConfig, shapes: Params, mesh: Mesh | AbstractMesh) -> dict[str, MemoryUse]:
    """Memory of the training state in float32: parameters, gradients, optimizer, and the average if one is kept."""
    optimizer = make_optimizer(config.optimizer, max(config.training.steps, 1), trainable=config.trainable_patterns)
    state = jax.eval_shape(optimizer.init, shapes)
    patterns = config.trainable_patterns
    trainable = jax.tree.leaves(trainable_mask(patterns)(shapes)) if patterns else itertools.repeat(True)
    leaves, placements = (jax.tree.leaves(tree) for tree in (shapes, shardings(shapes, mesh)))
    memory = {
        "parameters": (parameters := _bytes(leaves, placements)),
        "gradients": _bytes(*(list(itertools.compress(x, trainable)) for x in (leaves, placements))),
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
        placements = jax.tree.leaves(shardings(tree, mesh))
        for (path, leaf), sharding in zip(jax.tree.leaves_with_path(tree), placements, strict=True):
            yield Parameter(path_of(path), leaf.shape, leaf.size, _bytes([leaf], [sharding]), tuple(sharding.spec))


def _part(path: str) -> str:
    first, second, *_ = path.split("/")
    if first != "encoder":
        return first
    if "_bottleneck/" in path:
        return "bottleneck"
    return "embeddings" if second == "embeddings" else "layers"


def _bytes(leaves: Sequence[Any], placements: Sequence[Any]) -> MemoryUse:
    shapes = [sharding.shard_shape(x.shape) for x, sharding in zip(leaves, placements, strict=True)]
    device = sum(math.prod(shape) * x.dtype.itemsize for x, shape in zip(leaves, shapes, strict=True))
    return MemoryUse(sum(x.size * x.dtype.itemsize for x in leaves), device)


def format_inspection(inspection: Inspection, every_setting: bool = False) -> str:
    """All of a model or a recipe; `every_setting` includes settings of the architecture that have their default."""
    devices, total = math.prod(inspection.mesh.values()), sum(inspection.parts.values())
    names = inspection.settings if every_setting else inspection.changed
    parts = {**inspection.parts, "together": total}
    if inspection.active < total:
        parts["used for each token"] = inspection.active
    side = "before it" if inspection.settings.get("causal") else "to either side"
    attention = [
        (f"{kind.window} tokens {side}" if kind.window else "the whole text", str(kind.layers), kind.backend)
        for kind in inspection.attention
    ]
    flop_names = {"encoder": "encoder, for each token", "mlm_head": "mlm_head, for each token that it predicts"}
    flops = [(flop_names[name], format_count(number)) for name, number in inspection.flops.items()]
    shares = [(name, f"{number:,}", f"{number / total:.1%}") for name, number in parts.items()]
    blocks = [
        format_pairs(_summary(inspection)),
        format_table(("setting", "value"), [(name, _value(inspection.settings[name])) for name in names]),
        _parameter_table(inspection, devices),
        format_table(("part", "parameters", "share"), shares, right=(1, 2)),
        _memory_table(inspection, devices),
        format_table((f"attention in rows of {inspection.length:,}", "layers", "backend"), attention, right=(1,)),
        format_table(("a forward pass takes", "FLOPs"), flops, right=(1,)),
    ]
    return join_blocks(blocks, inspection.notes)


def _summary(inspection: Inspection) -> dict[str, str]:
    family = f"family {inspection.family}" if inspection.family else "of no published family"
    heads = (name + (f" ({_settings(values)})" if values else "") for name, values in inspection.heads.items())
    tokenizer = "none"
    if facts := inspection.tokenizer:
        special = " ".join(facts.get("special", {}).values())
        tokenizer = f"{facts['kind']}, {facts['vocab_size']:,} tokens {special}".rstrip()
    return {
        "model": inspection.name,
        "kind": f"{inspection.kind}, {family}",
        "heads": "; ".join(heads) or "none",
        "tokenizer": tokenizer,
        **({"sentence": _settings(inspection.sentence)} if inspection.sentence else {}),
    }


def _settings(settings: Mapping[str, Any]) -> str:
    """Settings with a value, on one line."""
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, Mapping):
        return f"({_settings(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameter_table(inspection: Inspection, devices: int) -> str:
    def spec(axes: Sequence[Any]) -> str:
        return f"P({', '.join('-' if a is None else a if isinstance(a, str) else '+'.join(a) for a in axes)})"

    rows = [
        (x.path, ", ".join(map(str, x.shape)), f"{x.number:,}", *_sizes(x.bytes, devices), spec(x.spec))
        for x in inspection.parameters
    ]
    on_each = ["on each"] if devices > 1 else []
    header = ("parameter", "shape", "number", "float32", *on_each, "PartitionSpec")
    return format_table(header, rows, right=range(1, len(header) - 1))


def _memory_table(inspection: Inspection, devices: int) -> str:
    state = inspection.memory.values()
    total = MemoryUse(sum(part.total for part in state), sum(part.device for part in state))
    memory = {format_state(name, inspection.optimizer): part for name, part in inspection.memory.items()}
    rows = [(name, *_sizes(part, devices)) for name, part in (memory | {"together": total}).items()]
    on_each = [f"on each of {devices} devices ({format_mesh(inspection.mesh)})"] if devices > 1 else []
    return format_table(("memory to train, without activations", "float32", *on_each), rows, right=(1, 2))


def format_state(name: str, optimizer: str) -> str:
    """The name of an entry of `state_memory`."""
    return {"optimizer": f"state of {optimizer}", "average": "average of parameters"}.get(name, name)


def _sizes(part: MemoryUse, devices: int) -> list[str]:
    return [format_memory(number) for number in ((part.total, part.device) if devices > 1 else (part.total,))]
