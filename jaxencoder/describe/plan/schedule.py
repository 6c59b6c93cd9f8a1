"""How long a compiled program takes on TPUs, by the compiler's own estimate of its parts.

The compiler schedules a program once for all chips, in one order, and writes into it the cycles of each fusion. What
it leaves out is added here: transfers between chips, kernels of Pallas, and gathers and scatters. A transfer runs
beside the instructions between its start and its end; a program waits only for what is left of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxencoder.describe.plan.devices import Tpu
from jaxencoder.describe.plan.hlo import Collective, Instruction, Program, bytes_of

# Calls that only name or place memory.
_FREE = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding", "GatherScatterIndicesBitpacked"}


@dataclass(frozen=True)
class Traffic:
    """All transfers of one kind along the same axes in a program, on one device."""

    kind: str
    axes: tuple[str, ...]  # of the mesh
    count: int
    bytes: int
    seconds: float  # on the links, waited for or not

    def __add__(self, other: "Traffic") -> "Traffic":
        sums = self.count + other.count, self.bytes + other.bytes, self.seconds + other.seconds
        return Traffic(self.kind, self.axes, *sums)

    def repeated(self, number: int) -> "Traffic":
        return Traffic(self.kind, self.axes, self.count * number, self.bytes * number, self.seconds * number)


@dataclass(frozen=True)
class Times:
    """Seconds of a program by part, and its transfers."""

    fusions: float = 0.0  # by the compiler's estimate
    kernels: float = 0.0  # of Pallas
    other: float = 0.0  # gathers, scatters and more without an estimate
    waiting: float = 0.0  # for transfers
    traffic: Mapping[str, Traffic] = field(default_factory=dict)  # by kind and axes
    open_loops: int = 0  # whose number of iterations depends on the data; they count as one

    @property
    def seconds(self) -> float:
        return self.fusions + self.kernels + self.other + self.waiting

    def __add__(self, other: "Times") -> "Times":
        traffic = dict(self.traffic)
        for name, x in other.traffic.items():
            traffic[name] = traffic[name] + x if name in traffic else x
        return Times(
            fusions=self.fusions + other.fusions,
            kernels=self.kernels + other.kernels,
            other=self.other + other.other,
            waiting=self.waiting + other.waiting,
            traffic=traffic,
            open_loops=self.open_loops + other.open_loops,
        )

    def repeated(self, number: int) -> "Times":
        traffic = {name: x.repeated(number) for name, x in self.traffic.items()}
        return Times(
            fusions=number * self.fusions,
            kernels=number * self.kernels,
            other=number * self.other,
            waiting=number * self.waiting,
            traffic=traffic,
            open_loops=self.open_loops,
        )


class Schedule:
    """Estimates the time of a program.

    Args:
        program: for one partition, of the devices of `mesh` in their order.
        chip: of the mesh.
        kernel_seconds: seconds of one call of a kernel, by a part of its name.
    """

    def __init__(self, program: Program, mesh: Mesh, chip: Tpu, kernel_seconds: dict[str, float]):
        self._program, self._chip, self._kernels = program, chip, kernel_seconds
        self._devices: list[Any] = list(mesh.devices.flat)
        self._mesh = mesh
        self._known: dict[str, Times] = {}

    def times(self) -> Times:
        """The time of the whole program."""
        return self._computation(self._program.entry)

    def _computation(self, name: str) -> Times:
        if name not in self._known:
            self._known[name] = self._run(self._program.computations[name])
        return self._known[name]

    def _run(self, instructions: tuple[Instruction, ...]) -> Times:
        """Instructions one after the other, with transfers beside them, of which the links carry one at a time."""
        named = {x.name: x for x in instructions}
        parts = [self._transfers(instruction, named) for instruction in instructions]
        last = {channel: number for number, part in enumerate(parts) for channel in part}
        clock, links, ends, total = 0.0, 0.0, {}, Times()
        for number, instruction in enumerate(instructions):
            for channel, collective in parts[number].items():
                if channel not in ends:
                    seconds = self._transfer_seconds(collective)
                    ends[channel] = links = max(links, clock) + seconds
                    traffic = Traffic(collective.kind, self._axes(collective), 1, collective.bytes, seconds)
                    total += Times(traffic={" ".join((traffic.kind, *traffic.axes)): traffic})
            spent = self._own(instruction)
            total += spent
            clock += spent.seconds
            waited = max((ends[x] - clock for x in parts[number] if last[x] == number), default=0.0)
            if waited > 0 and not instruction.opcode.endswith("-start"):
                total, clock = replace(total, waiting=total.waiting + waited), clock + waited
        return total

    def _transfers(self, instruction: Instruction, named: dict[str, Instruction]) -> dict[str, Collective]:
        """The transfers that an instruction starts, carries on or ends, by channel."""
        if instruction.opcode.endswith("-done") and instruction.operands:
            instruction = named.get(instruction.operands[0], instruction)
        return self._program.collectives(instruction)

    def _own(self, instruction: Instruction) -> Times:
        """The time of an instruction itself."""
        match instruction.opcode:
            case "while":
                trips = self._program.trips(instruction)
                body = self._computation(instruction.attribute(r"body=%?([\w.\-]+)") or "")
                return body.repeated(trips) if trips is not None else body + Times(open_loops=1)
            case "conditional":
                return max((self._computation(name) for name in instruction.called), key=lambda x: x.seconds)
            case "call":
                return self._computation(instruction.called[0])
            case "custom-call":
                return self._custom_call(instruction)
        if instruction.cycles:
            return Times(fusions=instruction.cycles / self._chip.clock)
        if instruction.opcode in ("fusion", "gather", "scatter", "sort") and not self._program.collectives(instruction):
            # Read and written once, at the speed of the memory.
            return Times(other=2 * bytes_of(instruction.type) / self._chip.bandwidth)
        return Times()

    def _custom_call(self, instruction: Instruction) -> Times:
        target = instruction.attribute(r'custom_call_target="([^"]*)"')
        if target != "tpu_custom_call":
            return Times() if target in _FREE else Times(fusions=instruction.cycles / self._chip.clock)
        names = [name for name in self._kernels if name in instruction.name or name in instruction.rest]
        return Times(kernels=self._kernels[max(names, key=len)] if names else 0.0)

    def _group(self, collective: Collective) -> tuple[int, ...]:
        """The largest group: in a permutation some devices may keep what they have."""
        return max(collective.groups, key=len, default=tuple(range(len(self._devices))))

    def _axes(self, collective: Collective) -> tuple[str, ...]:
        """The axes of the mesh along which the members of a group differ."""
        group = list(self._group(collective))
        shape, names = self._mesh.devices.shape, self._mesh.axis_names
        places = np.transpose(np.unravel_index(group, shape)).tolist()
        return tuple(
            name for name, numbers in zip(names, zip(*places, strict=True), strict=True) if len({*numbers}) > 1
        )

    def _transfer_seconds(self, collective: Collective) -> float:
        """Time on the links: every axis of the slice that the group extends over carries a part, in both directions.

        As in "How to Scale Your Model" (Austin et al. 2025), chapters 3 and 5.
        """
        group = self._group(collective)
        size = len(group)
        if size < 2:
            return 0.0
        places = [self._devices[number].coords for number in group]
        spans = [len({*numbers}) for numbers in zip(*places, strict=True) if len({*numbers}) > 1]
        # A dimension that is no ring has half of the paths.
        speed = sum(self._chip.link * (2 if span % self._chip.closes == 0 else 1) for span in spans) or self._chip.link
        share = (size - 1) / size
        match collective.kind:
            case "all-reduce":
                return 2 * share * collective.bytes / speed
            case "all-to-all":
                return share * collective.bytes * max(spans, default=size) / 4 / speed
            case "collective-permute":
                return collective.bytes / speed
        return share * collective.bytes / speed
