"""The time of a program: parts in their order, loops, and transfers beside them."""

import types

import numpy as np
import pytest

from jaxencoder.describe.plan.devices import Tpu
from jaxencoder.describe.plan.hlo import parse
from jaxencoder.describe.plan.schedule import Schedule, Times

# A cycle, and a byte over memory or a link, take a second.
CHIP = Tpu(peak=1.0, clock=1.0, memory=1, bandwidth=1.0, link=1.0, closes=4)
BODY = """%body (s: f32[2]) -> f32[2] {
  %s = f32[2] parameter(0)
  ROOT %f = f32[2] fusion(%s), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"3"}
}

%condition (s: f32[2]) -> pred[] {
  %n = s32[] constant(4)
  %s = f32[2] parameter(0)
  ROOT %less = pred[] compare(%s, %n), direction=LT
}

"""
WORK = '%{} = f32[2] fusion(%p), kind=kLoop, calls=%c, backend_config={{"estimated_cycles":"{}"}}'
GROUPS = "replica_groups={{0,1},{2,3}}"


def mesh(data: int = 2, fsdp: int = 2):
    """Of a row of four chips."""
    devices = [types.SimpleNamespace(coords=(n, 0, 0)) for n in range(data * fsdp)]
    return types.SimpleNamespace(devices=np.array(devices).reshape(data, fsdp), axis_names=("data", "fsdp"))


def times(*instructions: str, kernels: dict[str, float] | None = None, on=None) -> Times:
    lines = "\n".join(f"  {line}" for line in ("%p = f32[2] parameter(0)", *instructions))
    program = parse(f"{BODY}ENTRY %main (p: f32[2]) -> f32[2] {{\n{lines}\n}}\n")
    return Schedule(program, on or mesh(), CHIP, kernels or {}).times()


def test_parts_and_loops():
    result = times(
        WORK.format("a", 5),
        "%loop = f32[2] while(%p), condition=%condition, body=%body",
        '%k.2 = f32[2] custom-call(%p), custom_call_target="tpu_custom_call", metadata={op_name="attend_forward"}',
        '%b = f32[2] custom-call(%p), custom_call_target="AllocateBuffer"',
        "%g = f32[2] fusion(%p), kind=kCustom, calls=%c",
        kernels={"attend": 99.0, "attend_forward": 7.0},
    )
    assert (result.fusions, result.kernels, result.other, result.waiting) == (5 + 4 * 3, 7, 2 * 8, 0)
    assert result.seconds == 40 and result.open_loops == 0


def test_a_loop_without_a_limit_counts_once():
    program = parse(
        f"{BODY.replace('constant(4)', 'parameter(1)')}ENTRY %main (p: f32[2]) -> f32[2] {{\n"
        "  ROOT %loop = f32[2] while(%p), condition=%condition, body=%body\n}\n"
    )
    result = Schedule(program, mesh(), CHIP, {}).times()
    assert (result.fusions, result.open_loops) == (3, 1)


def test_a_program_waits_for_a_transfer():
    """Half of 8 bytes, over one link to the neighbor."""
    result = times(f"%x = f32[2] all-gather(%p), channel_id=1, {GROUPS}, dimensions={{0}}")
    assert (result.waiting, result.seconds) == (4, 4)
    (traffic,) = result.traffic.values()
    assert (traffic.kind, traffic.axes, traffic.count, traffic.bytes, traffic.seconds) == (
        "all-gather",
        ("fsdp",),
        1,
        8,
        4,
    )


@pytest.mark.parametrize(("cycles", "waiting"), [(3, 1), (9, 0)])
def test_work_hides_a_transfer(cycles, waiting):
    start = f"%s = (f32[1], f32[2]) all-gather-start(%p), channel_id=1, {GROUPS}, dimensions={{0}}"
    result = times(start, WORK.format("a", cycles), "%d = f32[2] all-gather-done(%s)", WORK.format("b", 2))
    assert (result.fusions, result.waiting) == (cycles + 2, waiting)


def test_only_the_last_part_of_a_transfer_waits():
    """Parts of one channel, in fusions with work between them."""
    gather = f"ROOT %g = f32[2] all-gather(%s), channel_id=3, {GROUPS}, dimensions={{0}}"
    part = f"%part (s: f32[2]) -> f32[2] {{\n  %s = f32[2] parameter(0)\n  {gather}\n}}\n\n"
    lines = [f"%x{n} = f32[2] fusion(%p), kind=kCustom, calls=%part" for n in range(3)]
    lines.insert(2, WORK.format("a", 3))
    text = "\n".join(f"  {line}" for line in ("%p = f32[2] parameter(0)", *lines))
    result = Schedule(parse(f"{part}ENTRY %main (p: f32[2]) -> f32[2] {{\n{text}\n}}\n"), mesh(), CHIP, {}).times()
    assert (result.fusions, result.waiting, result.other) == (3, 1, 0)
    assert [traffic.count for traffic in result.traffic.values()] == [1]


def test_transfers_share_the_links():
    starts = [
        f"%s{n} = (f32[1], f32[2]) all-gather-start(%p), channel_id={n}, {GROUPS}, dimensions={{0}}" for n in (1, 2)
    ]
    assert times(*starts, *(f"%d{n} = f32[2] all-gather-done(%s{n})" for n in (1, 2))).waiting == 8


@pytest.mark.parametrize(
    ("instruction", "axes", "seconds"),
    [
        ("all-reduce(%p), channel_id=1, replica_groups={{0,2},{1,3}}, to_apply=%c", ("data",), 8),
        ("all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%c", ("data", "fsdp"), 6),  # a ring
        ("all-reduce(%p), channel_id=1, replica_groups={{0},{1},{2},{3}}, to_apply=%c", (), 0),
        ("collective-permute(%p), channel_id=1, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", ("fsdp",), 8),
        ("collective-permute(%p), channel_id=1, source_target_pairs={{0,0},{1,3},{3,1}}", ("data",), 8),
        ("all-to-all(%p), channel_id=1, replica_groups={{0,1},{2,3}}", ("fsdp",), 2),
    ],
)
def test_axes_and_paths(instruction, axes, seconds):
    (traffic,) = times(f"%x = f32[2] {instruction}").traffic.values()
    assert (traffic.axes, traffic.seconds) == (axes, seconds)


def test_a_call_and_the_longest_of_branches():
    gather = f"ROOT %g = f32[2] all-gather(%s), channel_id=3, {GROUPS}, dimensions={{0}}"
    body = BODY.replace("ROOT %f", gather + "\n  %f")
    branches = "%c = f32[2] conditional(%n, %p, %p), branch_computations={%body, %condition}"
    for call in ("%c = f32[2] call(%p), to_apply=%body", branches):
        text = f"{body}ENTRY %main (p: f32[2]) -> f32[2] {{\n  %p = f32[2] parameter(0)\n  {call}\n}}\n"
        result = Schedule(parse(text), mesh(), CHIP, {}).times()
        (traffic,) = result.traffic.values()
        assert (traffic.count, result.waiting, result.fusions) == (1, 4, 3)


def test_traffic_of_a_loop_counts_in_each_iteration():
    gather = f"ROOT %g = f32[2] all-gather(%s), channel_id=3, {GROUPS}, dimensions={{0}}"
    body = BODY.replace("ROOT %f", gather + "\n  %f")
    program = parse(
        f"{body}ENTRY %main (p: f32[2]) -> f32[2] {{\n"
        "  ROOT %loop = f32[2] while(%p), condition=%condition, body=%body\n}\n"
    )
    result = Schedule(program, mesh(), CHIP, {}).times()
    (traffic,) = result.traffic.values()
    assert (traffic.count, traffic.bytes, result.waiting, result.fusions) == (4, 32, 16, 12)
