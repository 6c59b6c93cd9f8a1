"""The output of `jaxencoder cost`."""

import math
from collections import Counter
from collections.abc import Sequence

from jaxencoder.describe.cost import Cost, CostLine
from jaxencoder.describe.format import (
    format_count,
    format_memory,
    format_mesh,
    format_pairs,
    format_state,
    format_table,
    join_blocks,
)

_HEADER = ("attention", "tokens", "layers", "FLOPs a row", "a token", "growth", "activations", "growth", "in all")


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
    flops_growth, activations_growth = (
        "" if x is None else f"{x:.2f}" for x in (line.flops_growth, line.activations_growth)
    )
    return (
        line.attention,
        f"{line.length:,}",
        ", ".join(f"{layers} {backend}" for backend, layers in backends.items()),
        format_count(line.flops),
        format_count(line.flops_token),
        flops_growth,
        format_memory(line.activations),
        activations_growth,
        format_memory(line.activations + constant),
    )


def _windows(windows: Sequence[int]) -> str:
    """The pattern that the layers repeat."""
    return f"windows {', '.join(str(window or 'none') for window in windows)}" if any(windows) else "no windows"
