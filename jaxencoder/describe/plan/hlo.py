"""Programs in XLA's text form, read as far as an estimate of their time needs it.

The text is that of `jax.stages.Compiled.as_text`. Instructions of a compiled program are listed in the order in which
they run.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?)\s(?P<opcode>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_BEGIN = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = ")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|called_computations)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+))")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}\s]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{([\d,{}\s]*)\}")
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class Instruction:
    """One instruction; `operands` are names, and `rest` is the text after the operands."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that the instruction calls."""
        names = _CALLED.findall(self.rest)
        for listed, single in _BRANCHES.findall(self.rest):
            names += re.findall(r"[\w.\-]+", listed) or [single]
        return tuple(names)

    def attribute(self, pattern: str) -> str | None:
        """The first group of a pattern that is found in `rest`."""
        match = re.search(pattern, self.rest)
        return match[1] if match else None

    @property
    def cycles(self) -> int:
        """The compiler's own estimate; 0 if it gives none."""
        return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)


@dataclass(frozen=True)
class Collective:
    """A transfer between devices.

    Attributes:
        kind: its opcode, without -start and -done.
        channel: number that its parts share.
        bytes: of the whole array on each device: the result of a gather, the operand of a reduction.
        groups: numbers of the partitions that exchange data with each other.
    """

    kind: str
    channel: str
    bytes: int
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Program:
    """The computations of a program by name, each in its order, and the name of the first to run."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str
    _of_computations: dict[str, dict[str, Collective]] = field(default_factory=dict)

    def collectives(self, instruction: Instruction) -> dict[str, Collective]:
        """By channel: the transfer that an instruction is, or those of the fusion or of the call that it starts."""
        kind = instruction.opcode.removesuffix("-start")
        if kind in _KINDS:
            channel = instruction.attribute(r"channel_id=(\d+)") or instruction.name
            return {channel: Collective(kind, channel, _bytes_sent(instruction, kind), groups(instruction.rest))}
        if instruction.opcode not in ("fusion", "async-start"):
            return {}
        return {k: x for name in instruction.called for k, x in self._collectives_of(name).items()}

    def _collectives_of(self, computation: str) -> dict[str, Collective]:
        if computation not in self._of_computations:
            instructions = self.computations.get(computation, ())
            self._of_computations[computation] = {k: x for i in instructions for k, x in self.collectives(i).items()}
        return self._of_computations[computation]

    def trips(self, loop: Instruction) -> int | None:
        """How often the body of a `while` runs, where the limit is a constant, as in a scan; else None.

        XLA counts such loops from 0 in steps of 1.
        """
        if number := loop.attribute(r'"known_trip_count":\{"n":"(\d+)"'):
            return int(number)
        condition = loop.attribute(r"condition=%?([\w.\-]+)") or ""
        instructions = {x.name: x for x in self.computations.get(condition, ())}
        compares = [x for x in instructions.values() if x.opcode == "compare" and "direction=LT" in x.rest]
        if len(compares) != 1:
            return None
        limits = [instructions[name] for name in compares[0].operands if name in instructions]
        values = [x.attribute(r"^(\d+)\)") for x in limits if x.opcode == "constant"]
        return int(values[0]) if len(values) == 1 and values[0] else None


def parse(text: str) -> Program:
    """Read a program; ValueError if the text has no entry."""
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, name, instructions = "", "", []
    for line in _joined(text.splitlines()):
        if header := _COMPUTATION.match(line):
            name, instructions = header["name"], []
            entry = name if header["entry"] else entry
        elif line == "}" and name:
            computations[name], name = tuple(instructions), ""
        elif name and (match := _INSTRUCTION.match(line)):
            operands, rest = _split_operands(match["rest"])
            constant = match["rest"] if match["opcode"] == "constant" else rest
            instructions.append(Instruction(match["name"], match["type"], match["opcode"], operands, constant))
    if not entry:
        raise ValueError("the text has no ENTRY; it is no program of XLA")
    return Program(computations, entry)


def _joined(lines: list[str]) -> Iterator[str]:
    """Each instruction on one line: attributes of kernels may have line breaks."""
    current = ""
    for line in lines:
        if line == "}" or _COMPUTATION.match(line) or _BEGIN.match(line):
            yield current
            current = line
        else:
            current += line
    yield current


def _split_operands(text: str) -> tuple[tuple[str, ...], str]:
    """The names within the first parenthesis, which is open at the start, and the text after it."""
    depth = 1
    for position, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return tuple(re.findall(r"%([\w.\-]+)", text[:position])), text[position + 1 :]
    return (), text


def bytes_of(type_text: str) -> int:
    """Bytes of the arrays of a type such as (bf16[8,128]{1,0}, s32[])."""
    return (
        sum(_bits(name) * math.prod(map(int, filter(None, sizes.split(",")))) for name, sizes in _arrays(type_text))
        // 8
    )


def _arrays(type_text: str) -> list[tuple[str, str]]:
    return _ARRAY.findall(type_text)


def _bits(dtype: str) -> int:
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 0


def _bytes_sent(instruction: Instruction, kind: str) -> int:
    """Bytes of the whole array: see `Collective`."""
    sizes = sorted(bytes_of(f"{name}[{shape}]") for name, shape in _arrays(instruction.type))
    if instruction.opcode.endswith("-start") and kind in ("all-gather", "collective-permute"):
        # The type has operands and results.
        half = len(sizes) // 2
        return sum(sizes[half:]) if kind == "all-gather" else sizes[-1]
    total = sum(sizes)
    # The result of a reduce-scatter is one part of the array.
    return total * max(map(len, groups(instruction.rest)), default=1) if kind == "reduce-scatter" else total


@functools.lru_cache(maxsize=1024)
def groups(text: str) -> tuple[tuple[int, ...], ...]:
    """Groups of partitions in the attributes of a collective; empty if all are in one group."""
    if match := _LISTED.search(text):
        return tuple(tuple(map(int, part.split(","))) for part in re.findall(r"\{([\d,\s]+)\}", match[1]))
    if match := _IOTA.search(text):
        shape, source = _numbers(match[1]), _numbers(match[2])
        numbers = np.arange(math.prod(source)).reshape(source)
        if match[3]:
            numbers = numbers.transpose(_numbers(match[3]))
        return tuple(map(tuple, numbers.reshape(shape[0], -1).tolist()))
    if match := _NAMED.search(text):
        sizes = dict((name, int(size)) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1]))
        chosen = re.findall(r"'([^']+)'", match[2])
        axes = [list(sizes).index(name) for name in chosen]
        numbers = np.moveaxis(
            np.arange(math.prod(sizes.values())).reshape(list(sizes.values())), axes, range(-len(axes), 0)
        )
        return tuple(map(tuple, numbers.reshape(-1, math.prod(sizes[name] for name in chosen)).tolist()))
    if match := _PAIRS.search(text):
        return _cycles(re.findall(r"\{(\d+),(\d+)\}", "{" + match[1] + "}"))
    return ()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _cycles(pairs: list[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    """Partitions that are linked by the pairs of a permutation."""
    group: dict[int, set[int]] = {}
    for source, target in pairs:
        merged = group.get(int(source), {int(source)}) | group.get(int(target), {int(target)})
        group |= dict.fromkeys(merged, merged)
    return tuple(sorted({tuple(sorted(members)) for members in group.values()}))
