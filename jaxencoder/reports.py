"""What the verbs `families`, `inspect` and `cost` print: their data as tables, as wide as the terminal."""

import dataclasses
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from jaxencoder.describe.families import Entry
from jaxencoder.inference.cost import Cost, Line
from jaxencoder.inference.inspect import Bytes, Inspection

_WIDTH = 120  # where there is no terminal


def families(entries: Sequence[Entry]) -> str:
    """A row for each family."""
    rows = []
    for entry in entries:
        numbers = _range(count(size.parameters) for size in entry.sizes)
        lengths = _range(f"{length:,}" for length in entry.max_lengths)
        special = "; ".join((*(entry.special or entry.architecture.values()), entry.tokenizer, entry.objective))
        rows.append((entry.model_type, numbers, lengths, special, entry.choose_for))
    header = ("family", "parameters", "tokens", "what is special", "choose it for")
    return table(header, rows, gap=1) + "\n\njaxencoder families NAME shows one with its checkpoints and papers."


def family(entry: Entry) -> str:
    """All of one family."""
    common = [text for text in entry.architecture.values() if text not in entry.special]
    architecture = {"architecture": "; ".join(entry.special), "as in BERT": "; ".join(common)}
    facts = {
        "family": f"{entry.title} ({entry.model_type})",
        "choose it for": entry.choose_for,
        **(architecture if entry.special else {"architecture": "; ".join(common)}),
        "tokenizer": entry.tokenizer,
        "objective": entry.objective,
        "text": entry.text,
        "heads": ", ".join(entry.heads),
        "papers": ", ".join(f"arXiv:{number} ({what})" for what, number in entry.papers.items()),
    }
    header = ("checkpoint", "layers x width", "heads", "vocabulary", "tokens", "parameters", "embeddings")
    rows = [
        (
            size.name,
            f"{size.layers} x {size.hidden_size}",
            str(size.heads),
            f"{size.vocab_size:,}",
            f"{size.max_length:,}",
            count(size.parameters),
            count(size.embeddings),
        )
        for size in entry.sizes
    ]
    return _pairs(facts) + "\n\n" + table(header, rows, right=range(1, len(header)))


def inspection(found: Inspection, every_setting: bool = False) -> str:
    """All of a model or a recipe.

    Args:
        found: of `inspect`.
        every_setting: also those of the architecture that have their default.
    """
    devices = math.prod(found.mesh.values())
    blocks = [_pairs(_summary(found))]
    names = found.settings if every_setting else found.changed
    blocks.append(table(("setting", "value"), [(name, _value(found.settings[name])) for name in names]))
    blocks.append(_parameters(found, devices))
    total = sum(found.parts.values())
    parts = {**found.parts, "together": total}
    rows = [(name, f"{number:,}", f"{number / total:.1%}") for name, number in parts.items()]
    blocks.append(table(("part", "parameters", "share"), rows, right=(1, 2)))
    blocks.append(_memory(found, devices))
    rows = [
        (f"{kind.window} tokens to either side" if kind.window else "the whole text", str(kind.layers), kind.backend)
        for kind in found.attention
    ]
    blocks.append(table((f"attention in rows of {found.length:,}", "layers", "backend"), rows, right=(1,)))
    blocks.append(table(("a forward pass takes", "FLOPs"), _flops(found), right=(1,)))
    return "\n\n".join((*blocks, *(f"Note: {note}." for note in found.notes)))


def costs(found: Cost) -> str:
    """What rows of each length cost with each attention."""
    each = " on each device" if math.prod(found.mesh.values()) > 1 else ""
    facts = {
        "model": f"{found.name} ({found.kind})",
        "batch": f"{found.rows} row(s), {found.dtype}, attention {_patterns(found)}",
        "compiled for": f"{found.device}, mesh {_axes(found.mesh)}",
    }
    names = {"optimizer": f"state of {found.optimizer}", "average": "average of parameters"}
    state = [(names.get(name, name), memory(part.device)) for name, part in found.state.items()]
    blocks = [_pairs(facts), table((f"whatever the length{each}", "float32"), state, right=(1,))]
    held = sum(part.device for part in found.state.values())
    for use, title, kept in (
        ("training", "forward and backward pass", held),
        ("inference", "the encoder's forward pass", found.state["parameters"].device),
    ):
        header = (
            "attention",
            "tokens",
            "layers",
            "FLOPs a row",
            "a token",
            "growth",
            "activations",
            "growth",
            "in all",
        )
        rows = [_cost(line, kept) for line in found.lines if line.use == use]
        blocks.append(f"{use}: {title}, memory{each}\n" + table(header, rows, right=(1, *range(3, len(header)))))
    blocks.append(
        "growth: exponent of the length, from the line above; in all: with the parameters and what else stays."
    )
    return "\n\n".join((*blocks, *(f"Note: {note}." for note in found.notes)))


def as_json(found: Any) -> str:
    """A dataclass, or a list of them, as indented JSON."""
    plain = [dataclasses.asdict(part) for part in found] if isinstance(found, list) else dataclasses.asdict(found)
    return json.dumps(plain, indent=2, ensure_ascii=False)


def count(number: float) -> str:
    """A large number in three digits: 109482240 -> 109M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size * 0.9995:
            return _three_digits(number / size) + letter
    return f"{number:.0f}"


def memory(number: int) -> str:
    """Bytes in three digits: 437928960 -> 418 MiB."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 2**power * 0.9995:
            return f"{_three_digits(number / 2**power)} {unit}"
    return f"{number} B"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = (), gap: int = 0) -> str:
    """Columns of text, wrapped where the terminal is narrower.

    Args:
        header: names of the columns; empty for none.
        rows: of cells.
        right: numbers of the columns that are aligned to the right.
        gap: empty lines between rows.
    """
    rows = list(rows)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, gap, 0), show_header=any(header))
    for number, name in enumerate(header):
        grid.add_column(name, justify="right" if number in right else "left")
    for row in rows:
        grid.add_row(*row)
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    console = Console(file=io.StringIO(), width=width, color_system=None, markup=False, highlight=False, emoji=False)
    console.print(grid)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def _cost(line: Line, kept: int) -> tuple[str, ...]:
    backends: Counter[str] = Counter()
    for kind in line.layers:
        backends[kind.backend] += kind.layers
    growth = ("" if x is None else f"{x:.2f}" for x in (line.flops_growth, line.activations_growth))
    return (
        line.attention,
        f"{line.length:,}",
        ", ".join(f"{layers} {backend}" for backend, layers in backends.items()),
        count(line.flops),
        count(line.flops_token),
        next(growth),
        memory(line.activations),
        next(growth),
        memory(line.activations + kept),
    )


def _patterns(found: Cost) -> str:
    return ", ".join(f"{name} ({_windows(windows)})" for name, windows in found.windows.items())


def _windows(windows: Sequence[int]) -> str:
    """The pattern that layers repeat."""
    return f"windows {', '.join(str(window or 'none') for window in windows)}" if any(windows) else "no windows"


def _axes(mesh: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in mesh.items())


def _range(texts: Iterable[str]) -> str:
    """The first to the last; one alone where all are the same."""
    texts = list(dict.fromkeys(texts))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _pairs(facts: Mapping[str, str]) -> str:
    return table(("", ""), facts.items())


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}"


def _summary(found: Inspection) -> dict[str, str]:
    family = f"family {found.family}" if found.family else "of no published family"
    facts = {"model": found.name, "kind": f"{found.kind}, {family}"}
    heads = (name + (f" ({_told(settings)})" if settings else "") for name, settings in found.heads.items())
    facts["heads"] = "; ".join(heads) or "none"
    if found.tokenizer:
        special = " ".join(found.tokenizer.get("special", {}).values())
        facts["tokenizer"] = f"{found.tokenizer['kind']}, {found.tokenizer['vocab_size']:,} tokens {special}".rstrip()
    else:
        facts["tokenizer"] = "none"
    if found.sentence:
        facts["sentence"] = _told(found.sentence)
    return facts


def _told(settings: Mapping[str, Any]) -> str:
    """The settings that are set, on one line."""
    return ", ".join(f"{name} {_value(value)}" for name, value in settings.items() if value)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value, value))})"
    if isinstance(value, Mapping):
        return f"({_told(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parameters(found: Inspection, devices: int) -> str:
    def spec(axes: Sequence[Any]) -> str:
        return f"P({', '.join('-' if a is None else a if isinstance(a, str) else '+'.join(a) for a in axes)})"

    rows = [
        (
            parameter.path,
            ", ".join(map(str, parameter.shape)),
            f"{parameter.number:,}",
            *_sizes(parameter.bytes, devices),
            spec(parameter.spec),
        )
        for parameter in found.parameters
    ]
    on_each = ["on each"] if devices > 1 else []
    header = ("parameter", "shape", "number", "float32", *on_each, "PartitionSpec")
    return table(header, rows, right=range(1, len(header) - 1))


def _memory(found: Inspection, devices: int) -> str:
    total = Bytes(*(sum(getattr(part, name) for part in found.memory.values()) for name in ("total", "device")))
    names = {"optimizer": f"state of {found.optimizer}", "average": "average of parameters"}
    rows = [(names.get(name, name), *_sizes(part, devices)) for name, part in found.memory.items()]
    rows.append(("together", *_sizes(total, devices)))
    on_each = [f"on each of {devices} devices ({_axes(found.mesh)})"] if devices > 1 else []
    return table(("memory to train, without activations", "float32", *on_each), rows, right=(1, 2))


def _sizes(part: Bytes, devices: int) -> list[str]:
    return [memory(part.total), memory(part.device)] if devices > 1 else [memory(part.total)]


def _flops(found: Inspection) -> list[tuple[str, str]]:
    rows = [("encoder, for each token", count(found.flops["encoder"]))]
    if "mlm_head" in found.flops:
        rows.append(("mlm_head, for each token that it predicts", count(found.flops["mlm_head"])))
    return rows
