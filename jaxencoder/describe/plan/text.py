"""A plan as text for the terminal."""

from collections.abc import Iterator

from jaxencoder.describe.format import format_count, format_memory, format_mesh, format_pairs, format_table, join_blocks
from jaxencoder.describe.plan.plan import Plan, UpdatePlan


def format_plan(plan: Plan) -> str:
    """Memory, time and cost of a recipe on a slice."""
    facts = {
        "recipe": plan.name,
        "slice": f"{plan.topology}, {plan.chips} chips of {format_memory(plan.capacity)}",
        "mesh": format_mesh(plan.mesh),
        "compute": plan.dtype,
    }
    if plan.phases:
        tokens = sum(phase.tokens for phase in plan.phases)
        facts["in all"] = (
            f"{format_count(tokens)} tokens in {_hours(plan.hours)}, {_number(plan.hours * plan.chips)} chip-hours"
        )
        if plan.cost is not None:
            facts["cost"] = f"{_number(plan.cost)} at the given price"
    blocks = [format_pairs(facts), _updates(plan), _times(plan), _memory(plan)]
    for update in plan.updates:
        if update.times:
            blocks.append(_transfers(plan, update))
    if len(plan.phases) > 1:
        blocks.append(_phases(plan))
    return join_blocks(filter(None, blocks), plan.notes)


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.0f} minutes" if hours * 60 >= 1 else f"{hours * 3600:.0f} seconds"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"


def _updates(plan: Plan) -> str:
    header = ("phase", "rows", "tokens", "parts", "remat", "an update, ms", "tokens/s", "MFU")
    rows = []
    for x in plan.updates:
        speed = ("does not fit", "", "")
        if x.seconds and x.tokens_per_second and x.mfu:
            speed = (_milliseconds(x.seconds), format_count(x.tokens_per_second), f"{x.mfu:.0%}")
        rows.append((str(x.phase), f"{x.rows:,}", f"{x.length:,}", str(x.accumulation), x.remat, *speed))
    return format_table(header, rows, right=(0, 1, 2, 3, 5, 6, 7))


def _times(plan: Plan) -> str:
    rows = [
        (f"phase {x.phase}", *map(_milliseconds, (x.times.fusions, x.times.kernels, x.times.other, x.times.waiting)))
        for x in plan.updates
        if x.times
    ]
    header = ("ms of an update", "fusions", "kernels", "other", "waiting for transfers")
    return format_table(header, rows, right=(1, 2, 3, 4)) if rows else ""


def _memory(plan: Plan) -> str:
    names = list(dict.fromkeys(name for update in plan.updates for name in update.memory))
    rows = [
        (
            f"phase {update.phase}",
            *(format_memory(update.memory[name]) if name in update.memory else "" for name in names),
        )
        for update in plan.updates
    ]
    return format_table(("memory of a chip", *names), rows, right=range(1, len(names) + 1))


def _transfers(plan: Plan, update: UpdatePlan) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        assert update.times is not None
        for x in sorted(update.times.traffic.values(), key=lambda x: -x.seconds):
            axes = ", ".join(x.axes) or "none"
            yield x.kind, axes, f"{x.count:,}", format_memory(x.bytes), _milliseconds(x.seconds)

    return format_table((f"transfers, phase {update.phase}", "axes", "number", "size", "ms"), rows(), right=(2, 3, 4))


def _phases(plan: Plan) -> str:
    rows = [
        (str(x.phase), f"{x.steps:,}", format_count(x.tokens), f"as phase {x.compiled}", _hours(x.hours))
        for x in plan.phases
    ]
    return format_table(("phase", "steps", "tokens", "speed", "time"), rows, right=(0, 1, 2))
