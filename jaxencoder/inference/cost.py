"""What rows of some lengths cost a model, with its own attention and with others: compiled, and never run.

FLOPs are counted in the traced program and bytes read from the compiled one, as `training.program` says. No array of
the model's size is ever made: a model that does not fit this machine can be looked at all the same.
"""

import dataclasses
import functools
import itertools
import math
import os
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxencoder.checkpoints.description import Kind, PlaceholderVocabulary, describe_model
from jaxencoder.config import ComputeConfig, EncoderConfig, MeshConfig, RunConfig
from jaxencoder.inference.inspect import Bytes, LayerKind, layer_kinds, state_memory
from jaxencoder.model.encoder import Encoder
from jaxencoder.objectives.objective import Batch, Objective
from jaxencoder.sharding import ROWS, batch_sharding, make_mesh, shardings
from jaxencoder.training.layerwise import stop_frozen_gradients, trainable_mask
from jaxencoder.training.program import Program, program

Use = Literal["training", "inference"]
Attention = Literal["own", "global", "local", "dense"]
WINDOW = 64  # tokens to either side in ModernBERT's local layers, for models that have none


@dataclass(frozen=True)
class Line:
    """One program.

    Attributes:
        use: training is the objective's forward and backward pass, without the update (elementwise work, whose memory
            is `Cost.state`); inference is the encoder's forward pass, without heads.
        attention: whose.
        length: tokens in a row.
        layers: its kinds of layers, with their backends.
        flops: of the matrix products of a row; see `training.program.Program`.
        flops_growth: the exponent of `flops` in the length, from the line before with the same attention; None: there
            is none before.
        activations: bytes on one device for all that is neither argument nor result: parameters and gradients are not
            counted.
        activations_growth: as flops_growth.
    """

    use: Use
    attention: Attention
    length: int
    layers: tuple[LayerKind, ...]
    flops: float
    flops_growth: float | None
    activations: int
    activations_growth: float | None

    @property
    def flops_token(self) -> float:
        return self.flops / self.length


@dataclass(frozen=True)
class Cost:
    """What rows cost.

    Attributes:
        name, kind: what was asked for.
        rows: in a batch, on all devices.
        mesh: axis -> devices.
        device: what it was compiled for.
        dtype: of activations.
        windows: of each attention, the pattern of its layers.
        state: what training holds whatever the length, in float32: parameters, gradients, and the optimiser's.
        optimizer: its name.
        lines: by use, attention and length.
        notes: what was not as asked, in words.
    """

    name: str
    kind: Kind
    rows: int
    mesh: Mapping[str, int]
    device: str
    dtype: str
    windows: Mapping[str, tuple[int, ...]]
    state: Mapping[str, Bytes]
    optimizer: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


class _Variant(NamedTuple):
    name: Attention
    model: EncoderConfig
    compute: ComputeConfig


def cost(
    target: str | Path,
    lengths: Sequence[int] = (512, 2048, 8192),
    *,
    rows: int | None = None,
    mesh: Mapping[str, int] | None = None,
    attention: Sequence[Attention] = get_args(Attention),
    window: int | None = None,
    backend: str | None = None,
    overrides: Sequence[str] = (),
) -> Cost:
    """Compile a model's training and inference for rows of some lengths.

    A run and a recipe train with their own objective, a published model as a masked language model. Each row is one
    document.

    Args:
        target: as of `inspect`.
        lengths: tokens in a row.
        rows: in a batch, over all devices; None: one for each share of the rows.
        mesh: devices on each axis, which must be there (as `pretend_devices` makes them); 1 where not given.
        attention: which to compare: the model's own, all its layers global, all local, and its own pattern with the
            backend that holds all scores.
        window: of the local one; None: the model's narrowest, or 64.
        backend: of attention, but for `dense`; None: the run's or recipe's.
        overrides: command-line words for a recipe.

    Raises:
        ValueError: what `describe_model` raises, a setting that no model has, or a mesh that does not fit.
        OSError: a file is missing or cannot be read.
    """
    found = describe_model(str(target), overrides, "cost")
    lengths = sorted(set(lengths))
    if not lengths or lengths[0] < 1:
        raise ValueError(f"lengths are {lengths}; give one or more, each at least 1 token")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; give how many tokens to either side, at least 1")
    backends = get_args(typing.get_type_hints(ComputeConfig)["attention"])
    if backend is not None and backend not in backends:
        raise ValueError(f"backend is {backend!r}; choose of {', '.join(backends)}")
    devices = _mesh(dict(mesh or {}))
    shares = math.prod(devices.shape[axis] for axis in ROWS)
    rows = shares if rows is None else rows
    if rows < 1 or rows % shares:
        raise ValueError(f"{rows} row(s) do not divide into the {shares} share(s) of the mesh; change one of them")
    if odd := [length for length in lengths if length % devices.shape["context"]]:
        raise ValueError(
            f"rows of {odd[0]} tokens do not divide into {devices.shape['context']} parts of context; take multiples"
        )
    config, notes = found.config, list(found.notes)
    if config.model.positions == "learned" and lengths[-1] > config.model.max_length:
        notes.append(
            f"the model has {config.model.max_length} positions; it is taken to have {lengths[-1]}, as it would need"
        )
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, max_length=lengths[-1]))
    if backend is not None:
        config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, attention=backend))
    if found.family is not None:
        notes.append("a published model is trained as a masked language model here")
    variants = list(_variants(config, attention, window, notes))
    compiled = functools.cache(functools.partial(_compiled, config, devices, rows))
    lines: list[Line] = []
    every = list(itertools.product(get_args(Use), variants, lengths))
    for use, variant, length in tqdm(every, "compiling", leave=False, disable=None):
        kinds = layer_kinds(variant.model, variant.compute, length, train=use == "training")
        # Where `auto` comes to dense for every layer, so that what is the same is compiled once.
        dense = {kind.backend for kind in kinds} == {"dense"}
        compute = dataclasses.replace(variant.compute, attention="dense") if dense else variant.compute
        made = compiled(use, variant.model, compute, length)
        line = Line(use, variant.name, length, kinds, made.flops / rows, None, made.temporaries, None)
        lines.append(line if length == lengths[0] else _after(line, lines[-1]))
    shapes = jax.eval_shape(_objective(config, config.model, config.compute).init, jax.random.key(0))
    return Cost(
        name=str(target),
        kind=found.kind,
        rows=rows,
        mesh=dict(devices.shape),
        device=devices.devices.flat[0].device_kind,
        dtype=config.compute.dtype,
        windows={variant.name: variant.model.windows for variant in variants},
        state=state_memory(config, shapes, devices),
        optimizer=config.optimizer.name,
        lines=tuple(lines),
        notes=tuple(notes),
    )


def pretend_devices(number: int) -> None:
    """Let a CPU pass for so many devices; before jax has started, and without effect where XLA_FLAGS says how many."""
    if number > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", number)


def _mesh(axes: dict[str, int]) -> Mesh:
    config = MeshConfig(**{"data": 1} | axes)
    sizes = dataclasses.asdict(config)
    if -1 in sizes.values():
        raise ValueError(f"mesh is {sizes}; give a number of devices in place of -1")
    number = math.prod(sizes.values())
    if number > len(jax.devices()):
        raise ValueError(
            f"a mesh of {number} devices does not fit the {len(jax.devices())} that are here; take fewer, or "
            "JAX_PLATFORMS=cpu, where devices are pretended"
        )
    return make_mesh(config, jax.devices()[:number])


def _variants(
    config: RunConfig, names: Sequence[Attention], window: int | None, notes: list[str]
) -> Iterator[_Variant]:
    """Those that the model can have; notes say why others are left out."""
    model, compute = config.model, config.compute
    windows = {"global": 0, "local": window or min(filter(None, model.windows), default=WINDOW)}
    seen: dict[tuple[EncoderConfig, ComputeConfig], str] = {}
    for name in dict.fromkeys(names):
        other, how = model, compute
        if name in windows:
            lost = {"global_tokens": False} if name == "global" else {}
            other = dataclasses.replace(model, windows=(windows[name],), **lost)
        elif name == "dense":
            how = dataclasses.replace(compute, attention="dense")
        elif name != "own":
            raise ValueError(f"attention is {name!r}; choose of {', '.join(get_args(Attention))}")
        if (same := seen.setdefault((_pattern(other), how), name)) != name:
            notes.append(f"{name} is left out: it is what {same} is")
            continue
        yield _Variant(name, other, how)


def _pattern(model: EncoderConfig) -> EncoderConfig:
    """With the shortest pattern that gives the same layers, so that models are equal when all their layers are."""
    return dataclasses.replace(model, windows=model.windows[:1]) if len(set(model.windows)) == 1 else model


def _compiled(
    config: RunConfig, mesh: Mesh, rows: int, use: Use, model: EncoderConfig, compute: ComputeConfig, length: int
) -> Program:
    objective = _objective(config, model, compute)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    batch = _batch(config, rows, length)
    everywhere, places = NamedSharding(mesh, PartitionSpec()), shardings(params, mesh)
    places_of_rows = {
        name: batch_sharding(mesh, 2 if x.ndim == 2 and x.shape[1] == length else 1) for name, x in batch.items()
    }
    with jax.set_mesh(mesh):
        if use == "inference":
            encoder = Encoder(model, compute)

            def forward(params, batch):
                inputs = (batch[name] for name in ("token_ids", "segment_ids", "positions"))
                return encoder.apply({"params": params["encoder"]}, *inputs)

            return program(jax.jit(forward, in_shardings=(places, places_of_rows)), params, batch)

        def differentiated(params, batch, key):
            return jax.value_and_grad(objective.loss, has_aux=True)(params, batch, key, True)

        step = jax.jit(
            differentiated,
            in_shardings=(places, places_of_rows, everywhere),
            out_shardings=((everywhere, everywhere), places),
        )
        return program(step, params, batch, jax.eval_shape(jax.random.key, 0))


def _objective(config: RunConfig, model: EncoderConfig, compute: ComputeConfig) -> Objective:
    """As `training.loop` builds it."""
    built = dataclasses.replace(config, model=model, compute=compute).build(PlaceholderVocabulary(model.vocab_size))
    return (
        stop_frozen_gradients(built, trainable_mask(config.trainable_patterns)) if config.trainable_patterns else built
    )


def _batch(config: RunConfig, rows: int, length: int) -> Batch:
    """The shapes of rows of one document each, with whatever an objective may look for."""
    tokens = ("token_ids", "segment_ids", "positions", "token_labels")
    batch = {name: jax.ShapeDtypeStruct((rows, length), jnp.int32) for name in tokens}
    batch["row_ids"] = jax.ShapeDtypeStruct((rows,), jnp.uint32)
    for name in ("labels", "groups"):
        batch[name] = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    if config.is_supervised:
        shape, dtype = config.objective.label_array
        batch["labels"] = jax.ShapeDtypeStruct((rows, 1, *shape), dtype)
    return batch


def _after(line: Line, before: Line) -> Line:
    """With the exponents of its growth."""

    def growth(name: str) -> float:
        now, then = getattr(line, name), getattr(before, name)
        return math.log(now / then) / math.log(line.length / before.length)

    return dataclasses.replace(line, flops_growth=growth("flops"), activations_growth=growth("activations"))
