"""The output of `jaxencoder inspect`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxencoder.describe.format import (
    format_count,
    format_memory,
    format_mesh,
    format_pairs,
    format_state,
    format_table,
    join_blocks,
)
from jaxencoder.describe.inspect import Inspection, MemoryUse


def format_inspection(inspection: Inspection, every_setting: bool = False) -> str:
    """All of a model or a recipe.

    Args:
        every_setting: include settings of the architecture that have their default.
    """
    devices = math.prod(inspection.mesh.values())
    names = inspection.settings if every_setting else inspection.changed
    total = sum(inspection.parts.values())
    parts = {**inspection.parts, "together": total}
    attention = [
        (f"{kind.window} tokens to either side" if kind.window else "the whole text", str(kind.layers), kind.backend)
        for kind in inspection.attention
    ]
    blocks = [
        format_pairs(_summary(inspection)),
        format_table(("setting", "value"), [(name, _value(inspection.settings[name])) for name in names]),
        _parameters(inspection, devices),
        format_table(
            ("part", "parameters", "share"),
            [(name, f"{number:,}", f"{number / total:.1%}") for name, number in parts.items()],
            right=(1, 2),
        ),
        _memory(inspection, devices),
        format_table((f"attention in rows of {inspection.length:,}", "layers", "backend"), attention, right=(1,)),
        format_table(("a forward pass takes", "FLOPs"), _flops(inspection), right=(1,)),
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


def _parameters(inspection: Inspection, devices: int) -> str:
    def spec(axes: Sequence[Any]) -> str:
        return f"P({', '.join('-' if a is None else a if isinstance(a, str) else '+'.join(a) for a in axes)})"

    rows = [
        (x.path, ", ".join(map(str, x.shape)), f"{x.number:,}", *_sizes(x.bytes, devices), spec(x.spec))
        for x in inspection.parameters
    ]
    on_each = ["on each"] if devices > 1 else []
    header = ("parameter", "shape", "number", "float32", *on_each, "PartitionSpec")
    return format_table(header, rows, right=range(1, len(header) - 1))


def _memory(inspection: Inspection, devices: int) -> str:
    state = inspection.memory.values()
    total = MemoryUse(sum(part.total for part in state), sum(part.device for part in state))
    rows = [
        (format_state(name, inspection.optimizer), *_sizes(part, devices)) for name, part in inspection.memory.items()
    ]
    rows.append(("together", *_sizes(total, devices)))
    on_each = [f"on each of {devices} devices ({format_mesh(inspection.mesh)})"] if devices > 1 else []
    return format_table(("memory to train, without activations", "float32", *on_each), rows, right=(1, 2))


def _sizes(part: MemoryUse, devices: int) -> list[str]:
    return [format_memory(number) for number in ((part.total, part.device) if devices > 1 else (part.total,))]


def _flops(inspection: Inspection) -> list[tuple[str, str]]:
    names = {"encoder": "encoder, for each token", "mlm_head": "mlm_head, for each token that it predicts"}
    return [(names[name], format_count(number)) for name, number in inspection.flops.items()]
