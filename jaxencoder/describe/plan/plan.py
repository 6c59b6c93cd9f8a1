"""What a recipe will need on a slice of TPUs: memory, time and cost, before anything is paid for."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxencoder.config import MeshConfig, RunConfig
from jaxencoder.describe.description import describe_model
from jaxencoder.describe.format import format_memory
from jaxencoder.describe.inspect import MemoryUse, state_memory
from jaxencoder.describe.plan.devices import Topology, describe_topology
from jaxencoder.describe.plan.hlo import parse
from jaxencoder.describe.plan.kernels import kernel_seconds
from jaxencoder.describe.plan.schedule import Schedule, Times
from jaxencoder.describe.plan.update import CompiledUpdate, DoesNotFit, compile_update
from jaxencoder.describe.shapes import build_objective
from jaxencoder.sharding import make_mesh
from jaxencoder.training.loop import check_shards

REMAT = ("none", "dots", "full")  # from the fastest to the one that needs the least memory


@dataclass(frozen=True)
class UpdatePlan:
    """An update of one phase, on one device unless said otherwise.

    Attributes:
        phase: its number in the recipe.
        rows, length: of the batch, over all devices.
        accumulation, remat: as in the settings.
        memory: bytes by part: parameters, gradients, optimizer (and average), and the peak of the whole program.
        times: seconds of an update by part; None if the program does not fit, as are all of the last three.
        needed: bytes that a program needs that does not fit; 0 if unknown.
        flops: of the model for a token, without recomputed work.
        seconds: of an update.
        tokens_per_second: over all devices.
        mfu: model FLOPs utilization, the share of the peak that the model's own FLOPs take.
    """

    phase: int
    rows: int
    length: int
    accumulation: int
    remat: str
    memory: Mapping[str, int]
    times: Times | None
    needed: int
    flops: float
    seconds: float | None
    tokens_per_second: float | None
    mfu: float | None


@dataclass(frozen=True)
class PhasePlan:
    """A phase, whose time is that of the update with rows of the same length that was compiled."""

    phase: int
    steps: int
    tokens: int  # of the phase
    compiled: int  # the phase whose update gives the tokens per second
    hours: float


@dataclass(frozen=True)
class Plan:
    """A recipe on a slice.

    Attributes:
        mesh: axis -> devices.
        capacity: bytes of a device.
        peak: FLOP/s of a device.
        updates: those that were compiled.
        phases: empty if an update does not fit, or if their number of steps depends on the data.
        cost: of all phases at the price that was given; None without one.
        notes: what the estimate leaves out or assumes, and what would have to change, one sentence each.
    """

    name: str
    topology: str
    chips: int
    mesh: Mapping[str, int]
    dtype: str
    capacity: int
    peak: float
    updates: tuple[UpdatePlan, ...]
    phases: tuple[PhasePlan, ...]
    hours: float
    cost: float | None
    notes: tuple[str, ...]


class Choice(NamedTuple):
    """What a search varies."""

    mesh: MeshConfig
    remat: str
    accumulation: int


def plan(
    recipe: str,
    topology: str,
    overrides: Sequence[str] = (),
    *,
    price: float | None = None,
    search: bool = False,
) -> Plan:
    """Compile the updates of a recipe for a slice, and estimate their memory, time and cost.

    Phases with rows of the same length share a compiled update, that of the phase with the most steps: they are taken
    to be as fast per token.

    Args:
        recipe, overrides: as for `jaxencoder.config_io.load`.
        topology: a slice of TPUs such as v5e:16x16.
        price: of a chip for an hour, in any currency.
        search: try meshes, recomputation and accumulation, and plan with the fastest that fits.

    Raises:
        ValueError: an unknown recipe or topology, a published model, batches that do not divide over the mesh, a price
            that is not above 0, no choice of a search that fits, or no compiler of TPUs.
    """
    if price is not None and not price > 0:
        raise ValueError(f"price is {price}; give that of a chip for an hour, above 0")
    place, described = describe_topology(topology), describe_model(recipe, overrides, "plan")
    if described.kind not in ("recipe", "run"):
        raise ValueError(f"{recipe} is a published model; plan a recipe that starts from it, with --init-from {recipe}")
    config, notes = described.config, list(described.notes)
    if search:
        config, note = _searched(config, place)
        notes.append(note)
    mesh = make_mesh(config.mesh, place.devices)
    numbers = _phases_to_compile(config)
    check_shards(config, mesh)  # before minutes of compilation
    compiling = tqdm(dict.fromkeys(numbers), "compiling", leave=False, disable=None)
    updates = tuple(_update(config, number, mesh, place) for number in compiling)
    fits = all(update.times for update in updates)
    rates = {x.phase: x.tokens_per_second for x in updates if x.tokens_per_second}
    has_steps = config.training.steps > 0 and not config.training.batch_examples
    if fits and not has_steps:
        notes.append("the number of updates depends on the data: hours and cost are left out")
    are_known = fits and has_steps
    phases = tuple(_phase(config, n, compiled, rates) for n, compiled in enumerate(numbers)) if are_known else ()
    hours = sum(phase.hours for phase in phases)
    notes += _assumptions(updates) if fits else _advice(config, updates, place)
    return Plan(
        name=recipe,
        topology=topology,
        chips=len(place.devices),
        mesh=dict(mesh.shape),
        dtype=config.compute.dtype,
        capacity=place.chip.memory,
        peak=place.chip.peak,
        updates=updates,
        phases=phases,
        hours=hours,
        cost=hours * len(place.devices) * price if price and phases else None,
        notes=tuple(notes),
    )


def _phases_to_compile(config: RunConfig) -> list[int]:
    """For each phase the number of the phase whose update stands for it."""
    phases = config.phase_configs
    kinds = [(phase.data.row_length, type(phase.objective)) for phase in phases]
    return [
        max((n for n, x in enumerate(kinds) if x == kind), key=lambda n: phases[n].training.steps) for kind in kinds
    ]


def _update(config: RunConfig, number: int, mesh: Mesh, place: Topology) -> UpdatePlan:
    phase = _with_vocabulary(config, number)
    settings, length = phase.training, phase.data.row_length
    try:
        compiled, needed = compile_update(phase, mesh), 0
    except DoesNotFit as error:
        compiled, needed = None, error.bytes
    times = _times(compiled, mesh, place) if compiled else None
    flops = phase.objective.flops(phase.model, length)
    speed = settings.batch_size * length / times.seconds if times else None
    return UpdatePlan(
        phase=number,
        rows=settings.batch_size,
        length=length,
        accumulation=settings.accumulation,
        remat=phase.compute.remat,
        memory=_memory(phase, mesh, compiled),
        times=times,
        needed=needed,
        flops=flops,
        seconds=times and times.seconds,
        tokens_per_second=speed,
        mfu=speed and speed * flops / (len(place.devices) * place.chip.peak),
    )


def _with_vocabulary(config: RunConfig, number: int) -> RunConfig:
    """A phase as a run of its own."""
    phase = config.phase_configs[number]
    return dataclasses.replace(phase, model=dataclasses.replace(phase.model, vocab_size=config.model.vocab_size))


def _memory(phase: RunConfig, mesh: Mesh, compiled: CompiledUpdate | None) -> dict[str, int]:
    shapes = jax.eval_shape(build_objective(phase).init, jax.random.key(0))
    state: Mapping[str, MemoryUse] = state_memory(phase, shapes, mesh)
    parts = {name: part.device for name, part in state.items()}
    return parts | ({"peak": compiled.peak} if compiled else {})


def _times(compiled: CompiledUpdate, mesh: Mesh, place: Topology) -> Times:
    seconds = kernel_seconds(compiled.jaxpr, place)
    return Schedule(parse(compiled.text), mesh, place.chip, seconds).times()


def _phase(config: RunConfig, number: int, compiled: int, rates: Mapping[int, float]) -> PhasePlan:
    phase = config.phase_configs[number]
    tokens = phase.training.steps * phase.training.batch_size * phase.data.row_length
    return PhasePlan(number, phase.training.steps, tokens, compiled, tokens / rates[compiled] / 3600)


def _assumptions(updates: Sequence[UpdatePlan]) -> list[str]:
    notes = [
        "times are estimates by the compiler, nothing has run; the loader, evaluations and checkpoints are left out"
    ]
    if any(update.times and update.times.kernels for update in updates):
        notes.append("kernels are estimated from the compiler's schedules of them, see benchmarks/kernel_schedules.py")
    if any(update.times and update.times.open_loops for update in updates):
        notes.append("a loop whose length depends on the data counts once")
    return notes


def _advice(config: RunConfig, updates: Sequence[UpdatePlan], place: Topology) -> list[str]:
    """What to change where an update does not fit."""
    notes, capacity = [], place.chip.memory
    for update in updates:
        if update.times:
            continue
        state = sum(update.memory.values())
        needed = format_memory(update.needed) if update.needed else "more"
        notes.append(f"phase {update.phase} does not fit: it needs {needed}, and a chip has {format_memory(capacity)}")
        if state > capacity / 2 and config.mesh.fsdp != len(place.devices):
            notes.append(f"the training state takes {format_memory(state)}: split it with --mesh.fsdp")
        if update.remat != "full":
            notes.append(f"less memory, more time: --compute.remat {REMAT[REMAT.index(update.remat) + 1]}")
        notes.append("fewer rows at once: --training.accumulation, or --phases.N.accumulation for one phase")
    return list(dict.fromkeys(notes))


def _searched(config: RunConfig, place: Topology) -> tuple[RunConfig, str]:
    """The recipe with the fastest choice that fits, and a sentence about the search; ValueError if none fits."""
    number = _longest_phase(config)
    best, tried = None, 0
    candidates = [(mesh, remat) for mesh in meshes(config, len(place.devices)) for remat in REMAT]
    if not candidates:
        sizes = sorted({phase.training.batch_size for phase in config.phase_configs})
        rows = ", ".join(map(str, sizes))
        raise ValueError(f"batches of {rows} rows do not divide over the chips of {place.name}; change the batch")
    for mesh, remat in tqdm(candidates, "searching", leave=False, disable=None):
        for choice in _accumulations(config, number, mesh, remat):
            chosen = _with_choice(config, choice, number)
            update = _update(chosen, number, make_mesh(mesh, place.devices), place)
            tried += 1
            if update.times:
                if best is None or update.times.seconds < best[0]:
                    best = update.times.seconds, chosen
                break
    if best is None:
        raise ValueError(
            f"none of {tried} meshes, recomputations and accumulations fits {place.name}; take a larger slice"
        )
    note = f"the fastest of {tried} compiled choices of mesh, recomputation and accumulation, for phase {number}"
    return best[1], note


def _longest_phase(config: RunConfig) -> int:
    """The number of the phase with the most tokens."""
    sizes = [x.training.steps * x.training.batch_size * x.data.row_length for x in config.phase_configs]
    return sizes.index(max(sizes))


def meshes(config: RunConfig, devices: int) -> list[MeshConfig]:
    """Meshes to try: the state on every device, split over 16 of them, and split over all.

    Rows are split over context as far as the batch of a phase has fewer rows than there are devices.
    """
    # Evaluations use the batch of the run in all phases.
    batches = [x.training.batch_size for x in (config, *config.phase_configs)]
    lengths = [phase.data.row_length for phase in config.phase_configs]
    parts = (2**n for n in range(devices.bit_length()) if devices % 2**n == 0)
    usable = (n for n in parts if not any(x % (devices // n) for x in batches) and not any(x % n for x in lengths))
    context = next(usable, 0)
    shards = devices // context if context else 0
    sizes = dict.fromkeys(math.gcd(size, shards) for size in (1, 16, shards)) if shards else ()
    return [MeshConfig(data=shards // size, fsdp=size, context=context) for size in sizes]


def _accumulations(config: RunConfig, number: int, mesh: MeshConfig, remat: str) -> Iterator[Choice]:
    """Choices with 1, 2, 4, ... parts of the batch, as far as it divides."""
    rows, shards = config.phase_configs[number].training.batch_size, mesh.data * mesh.fsdp
    for parts in itertools.takewhile(lambda n: n * shards <= rows, (2**n for n in itertools.count())):
        if rows % (parts * shards) == 0:
            yield Choice(mesh, remat, parts)


def _with_choice(config: RunConfig, choice: Choice, number: int) -> RunConfig:
    """The recipe with a choice for one phase; the other phases compute at most as many tokens at once."""
    shards = choice.mesh.data * choice.mesh.fsdp
    longest = config.phase_configs[number]
    at_once = longest.training.batch_size // (shards * choice.accumulation) * longest.data.row_length

    def parts(phase: RunConfig) -> int:
        rows = max(phase.training.batch_size // shards, 1)  # of a device
        limit = max(at_once // phase.data.row_length, 1)
        return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= limit)

    numbers = [parts(phase) for phase in config.phase_configs]
    training = config.training if config.phases else dataclasses.replace(config.training, accumulation=numbers[0])
    phases = tuple(dataclasses.replace(x, accumulation=n) for x, n in zip(config.phases, numbers, strict=False))
    compute = dataclasses.replace(config.compute, remat=choice.remat)
    return dataclasses.replace(config, mesh=choice.mesh, compute=compute, training=training, phases=phases)
