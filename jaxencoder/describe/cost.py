"""Cost of a model for rows of several lengths, with its own attention and with others: compiled but never run.

FLOPs are counted in the traced program and memory is read from the compiled one; see `training.program`. No array of
the model's size is allocated, so that models larger than this machine can be described.
"""

import dataclasses
import functools
import itertools
import math
import os
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tqdm import tqdm

from jaxencoder.config import ComputeConfig, EncoderConfig, MeshConfig, RunConfig
from jaxencoder.describe.description import Kind, describe_model
from jaxencoder.describe.format import format_count, format_memory, format_mesh, format_pairs, format_table, join_blocks
from jaxencoder.describe.inspect import LayerKind, MemoryUse, format_state, layer_kinds, state_memory
from jaxencoder.describe.shapes import batch_shapes, build_objective
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.layers import apply
from jaxencoder.sharding import ROWS, batch_sharding, make_mesh, shardings
from jaxencoder.training.program import Program, program

Use = Literal["training", "inference"]
Attention = Literal["own", "global", "local", "dense"]
WINDOW = 64  # tokens to either side, as in ModernBERT's local layers; for models without local layers
_HEADER = ("attention", "tokens", "layers", "FLOPs a row", "a token", "growth", "activations", "growth", "in all")


class Variant(NamedTuple):
    """A model with one of the kinds of attention to compare."""

    model: EncoderConfig
    compute: ComputeConfig


@dataclass(frozen=True)
class CostLine:
    """One program.

    Training is the objective's forward and backward pass without the update, whose work is elementwise and whose memory
    is `Cost.state`. Inference is the encoder's forward pass, without heads. A growth is an exponent of the length, from
    the previous line of the same attention; None for its first line.
    """

    use: Use
    attention: Attention
    length: int  # tokens in a row
    layers: tuple[LayerKind, ...]
    flops: float  # of the matrix products of a row
    flops_growth: float | None
    activations: int  # bytes on one device besides arguments and results, thus without parameters and gradients
    activations_growth: float | None

    @property
    def flops_token(self) -> float:
        return self.flops / self.length


@dataclass(frozen=True)
class Cost:
    """Cost of a model's rows; name, kind, mesh and optimizer are as in `Inspection`."""

    name: str
    kind: Kind
    rows: int  # in a batch, on all devices
    mesh: Mapping[str, int]
    device: str  # kind of device that the programs are compiled for
    dtype: str  # of activations
    windows: Mapping[str, tuple[int, ...]]  # attention variant -> pattern of its layers
    state: Mapping[str, MemoryUse]  # of training, whatever the length; see `state_memory`
    optimizer: str
    lines: tuple[CostLine, ...]  # by use, attention and length
    notes: tuple[str, ...]  # deviations from the request, one sentence each


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
    """Compile a model's training and inference for rows of several lengths, each of one document.

    A run and a recipe train with their own objective, a published model as a masked language model.

    Args:
        target, overrides: as for `inspect`.
        lengths: tokens in a row.
        rows: in a batch, over all devices; None: one for each share of the rows.
        mesh: devices on each axis, which must exist (see `pretend_devices`); axes left out have 1.
        attention: variants to compare: the model's own layers, all layers global, all layers local, and its own layers
            with the backend that holds all scores in memory.
        window: of the local variant; None: the model's narrowest, or 64.
        backend: of attention, except for `dense`; None: that of the run or recipe.

    Raises:
        ValueError: as `describe_model`, an unknown setting, or rows that the mesh does not divide.
        OSError: a file is missing or cannot be read.
    """
    lengths = sorted(set(lengths))
    _check(lengths, window, backend)
    described = describe_model(str(target), overrides, "cost")
    devices = _mesh(dict(mesh or {}))
    rows, notes = _rows(rows, lengths, devices), list(described.notes)
    config, longest = described.config, lengths[-1]
    if config.model.positions == "learned" and longest > config.model.max_length:
        notes.append(
            f"the model has {config.model.max_length} positions; its cost is that of one with {longest} positions"
        )
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, max_length=longest))
    if backend is not None:
        config = dataclasses.replace(config, compute=dataclasses.replace(config.compute, attention=backend))
    if described.family is not None:
        notes.append("a published model is trained as a masked language model here")
    variants = _variants(config, attention, window, notes)
    lines = _lines(config, devices, rows, variants, lengths)
    shapes = jax.eval_shape(build_objective(config).init, jax.random.key(0))
    return Cost(
        name=str(target),
        kind=described.kind,
        rows=rows,
        mesh=dict(devices.shape),
        device=devices.devices.flat[0].device_kind,
        dtype=config.compute.dtype,
        windows={name: variant.model.windows for name, variant in variants.items()},
        state=state_memory(config, shapes, devices),
        optimizer=config.optimizer.name,
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _check(lengths: Sequence[int], window: int | None, backend: str | None) -> None:
    if not lengths or lengths[0] < 1:
        raise ValueError(f"lengths are {lengths}; give one or more, each at least 1 token")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; give the tokens to either side, at least 1")
    backends = get_args(typing.get_type_hints(ComputeConfig)["attention"])
    if backend is not None and backend not in backends:
        raise ValueError(f"backend is {backend!r}; give one of {', '.join(backends)}")


def _rows(rows: int | None, lengths: Sequence[int], mesh: Mesh) -> int:
    """Rows of a batch; ValueError for rows or lengths that the mesh does not divide."""
    shares, parts = math.prod(mesh.shape[axis] for axis in ROWS), mesh.shape["context"]
    rows = shares if rows is None else rows
    if rows < 1 or rows % shares:
        raise ValueError(f"{rows} row(s) do not divide into the {shares} share(s) of the mesh; change one of them")
    if odd := [length for length in lengths if length % parts]:
        raise ValueError(f"rows of {odd[0]} tokens do not divide into {parts} parts of context; give multiples")
    return rows


def _lines(
    config: RunConfig, mesh: Mesh, rows: int, variants: dict[Attention, Variant], lengths: Sequence[int]
) -> list[CostLine]:
    compiled = functools.cache(functools.partial(_compiled, config, mesh, rows))
    lines: list[CostLine] = []
    combinations = list(itertools.product(get_args(Use), variants.items(), lengths))
    for use, (name, (model, compute)), length in tqdm(combinations, "compiling", leave=False, disable=None):
        kinds = layer_kinds(model, compute, length, train=use == "training")
        # Where `auto` chooses dense for every layer, name it so that equal programs are compiled once.
        if {kind.backend for kind in kinds} == {"dense"}:
            compute = dataclasses.replace(compute, attention="dense")
        made = compiled(use, model, compute, length)
        flops, activations, growths = made.flops / rows, made.temporaries, (None, None)
        if length != lengths[0]:
            ratios = flops / lines[-1].flops, activations / lines[-1].activations
            growths = tuple(math.log(ratio) / math.log(length / lines[-1].length) for ratio in ratios)
        lines.append(CostLine(use, name, length, kinds, flops, growths[0], activations, growths[1]))
    return lines


def pretend_devices(number: int) -> None:
    """Make a CPU act as this many devices. Call before jax starts; XLA_FLAGS takes precedence."""
    if number > 1 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", number)


def _mesh(axes: dict[str, int]) -> Mesh:
    config = MeshConfig(**{"data": 1} | axes)
    sizes = dataclasses.asdict(config)
    if -1 in sizes.values():
        raise ValueError(f"mesh is {sizes}; give a number of devices in place of -1")
    number = math.prod(sizes.values())
    if number > len(jax.devices()):
        count = f"a mesh of {number} devices does not fit the {len(jax.devices())} of this machine"
        raise ValueError(f"{count}; use fewer, or set JAX_PLATFORMS=cpu, where devices are simulated")
    return make_mesh(config, jax.devices()[:number])


def _variants(
    config: RunConfig, names: Sequence[Attention], window: int | None, notes: list[str]
) -> dict[Attention, Variant]:
    """The variants of a model, without duplicates; adds a note for each variant left out."""
    model, compute = config.model, config.compute
    local = window or min(filter(None, model.windows), default=WINDOW)
    variants: dict[Attention, Variant] = {}
    seen: dict[Variant, str] = {}
    for name in dict.fromkeys(names):
        match name:
            case "own":
                variant = Variant(model, compute)
            case "global":
                variant = Variant(dataclasses.replace(model, windows=(0,), global_tokens=False), compute)
            case "local":
                variant = Variant(dataclasses.replace(model, windows=(local,)), compute)
            case "dense":
                variant = Variant(model, dataclasses.replace(compute, attention="dense"))
            case _:
                raise ValueError(f"attention is {name!r}; give one of {', '.join(get_args(Attention))}")
        windows = variant.model.windows  # models with equal layers have the same shortest pattern
        shortest = dataclasses.replace(variant.model, windows=windows[:1] if len(set(windows)) == 1 else windows)
        if (first := seen.setdefault(Variant(shortest, variant.compute), name)) == name:
            variants[name] = variant
        else:
            notes.append(f"{name} is left out: it equals {first}")
    return variants


def _compiled(
    config: RunConfig, mesh: Mesh, rows: int, use: Use, model: EncoderConfig, compute: ComputeConfig, length: int
) -> Program:
    objective = build_objective(dataclasses.replace(config, model=model, compute=compute))
    params = jax.eval_shape(objective.init, jax.random.key(0))
    batch = batch_shapes(config, rows, length)
    replicated, param_shardings = NamedSharding(mesh, PartitionSpec()), shardings(params, mesh)
    row_shardings = {
        name: batch_sharding(mesh, 2 if x.ndim == 2 and x.shape[1] == length else 1) for name, x in batch.items()
    }
    with jax.set_mesh(mesh):
        if use == "inference":
            encoder = Encoder(model, compute)

            def forward(params, batch):
                inputs = (batch[name] for name in ("token_ids", "segment_ids", "positions"))
                return apply(encoder, params["encoder"], *inputs)

            return program(jax.jit(forward, in_shardings=(param_shardings, row_shardings)), params, batch)

        def loss_and_gradients(params, batch, key):
            return jax.value_and_grad(objective.loss, has_aux=True)(params, batch, key, True)

        step = jax.jit(
            loss_and_gradients,
            in_shardings=(param_shardings, row_shardings, replicated),
            out_shardings=((replicated, replicated), param_shardings),
        )
        return program(step, params, batch, jax.eval_shape(jax.random.key, 0))


def format_cost(cost: Cost) -> str:
    """The cost of rows of each length with each attention."""
    each = " on each device" if math.prod(cost.mesh.values()) > 1 else ""
    patterns = ", ".join(f"{name} ({_windows(windows)})" for name, windows in cost.windows.items())
    facts = {
        "model": f"{cost.name} ({cost.kind})",
        "batch": f"{cost.rows} row(s), {cost.dtype}, attention {patterns}",
        "compiled for": f"{cost.device}, mesh {format_mesh(cost.mesh)}",
    }
    state = [(format_state(name, cost.optimizer), format_memory(part.device)) for name, part in cost.state.items()]
    blocks = [format_pairs(facts), format_table((f"whatever the length{each}", "float32"), state, right=(1,))]
    training = sum(part.device for part in cost.state.values())
    for use, title, constant in (
        ("training", "forward and backward pass", training),
        ("inference", "the encoder's forward pass", cost.state["parameters"].device),
    ):
        rows = [_row(line, constant) for line in cost.lines if line.use == use]
        table = format_table(_HEADER, rows, right=(1, *range(3, len(_HEADER))))
        blocks.append(f"{use}: {title}, memory{each}\n{table}")
    blocks.append("growth: exponent of the length, from the line above; in all: with parameters and training state.")
    return join_blocks(blocks, cost.notes)


def _row(line: CostLine, constant: int) -> tuple[str, ...]:
    """The cells of a line; `constant` is the memory that does not depend on the length."""
    backends: Counter[str] = Counter()
    for kind in line.layers:
        backends[kind.backend] += kind.layers
    layers = ", ".join(f"{number} {backend}" for backend, number in backends.items())
    growths = ["" if x is None else f"{x:.2f}" for x in (line.flops_growth, line.activations_growth)]
    flops = format_count(line.flops), format_count(line.flops_token), growths[0]
    memory = format_memory(line.activations), growths[1], format_memory(line.activations + constant)
    return line.attention, f"{line.length:,}", layers, *flops, *memory


def _windows(windows: Sequence[int]) -> str:
    """The pattern that the layers repeat."""
    return f"windows {', '.join(str(window or 'none') for window in windows)}" if any(windows) else "no windows"
