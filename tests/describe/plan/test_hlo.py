"""XLA's text: instructions, loops, and what is exchanged between which devices."""

import pytest

from jaxencoder.describe.plan.hlo import bytes_of, groups, parse

TEXT = """HloModule jit_update, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%condition (state: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state = (s32[], f32[8]) parameter(0)
  %step = s32[]{:T(128)} get-tuple-element(%state), index=0
  ROOT %less = pred[]{:T(512)} compare(%step, %limit), direction=LT
}

%started (x: f32[8]) -> f32[32] {
  %x = f32[8] parameter(0)
  ROOT %all-gather.3 = f32[32]{0} all-gather(%x), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: f32[8]) -> (s32[], f32[8]) {
  %p = f32[8]{0:T(256)} parameter(0)
  %start = (f32[32], u32[]) fusion(%p), kind=kCustom, calls=%started
  %kernel.1 = (f32[4,8]{1,0}, /*index=1*/bf16[2]) custom-call(%p), custom_call_target="tpu_custom_call", a={
"block": 8
}, metadata={op_name="kernel"}
  %fused = f32[8]{0} fusion(%p), kind=kLoop, calls=%add, backend_config={"window_config":{"estimated_cycles":"1500"}}
  ROOT %loop = (s32[], f32[8]) while(%init), condition=%condition, body=%started, metadata={op_name="scan"}
}
"""


def test_instructions():
    program = parse(TEXT)
    assert program.entry == "main" and program.computations.keys() == {"add", "condition", "started", "main"}
    _, start, kernel, fused, loop = program.computations["main"]
    assert (kernel.opcode, kernel.operands) == ("custom-call", ("p",)) and 'op_name="kernel"' in kernel.rest
    assert (fused.cycles, kernel.cycles) == (1500, 0) and fused.called == ("add",)
    assert loop.called == ("condition", "started")
    (gather,) = program.collectives(start).values()
    assert (gather.kind, gather.channel, gather.bytes, gather.groups) == ("all-gather", "7", 128, ((0, 1, 2, 3),))
    assert program.collectives(fused) == {}
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule jit_update")


def test_iterations_of_a_loop():
    assert parse(TEXT).trips(parse(TEXT).computations["main"][-1]) == 12
    by_data = parse(TEXT.replace("constant(12)", "parameter(1)"))
    assert by_data.trips(by_data.computations["main"][-1]) is None
    known = parse(TEXT.replace('op_name="scan"}', 'op_name="scan"}, backend_config={"known_trip_count":{"n":"5"}}'))
    assert known.trips(known.computations["main"][-1]) == 5


def test_bytes():
    assert bytes_of("(bf16[2,128,256]{2,1,0:T(8,128)(2,1)S(1)}, s32[]{:T(128)}, /*index=2*/pred[3])") == 131072 + 4 + 3
    assert bytes_of("s4[6]") == 3 and bytes_of("token[]") == 0 and bytes_of("f8e4m3fn[5]") == 5


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("replica_groups={{0,2},{1,3}}, dimensions={0}", ((0, 2), (1, 3))),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), use_global_device_ids=true", ((0, 2), (1, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        ("source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", ((0, 1), (2, 3))),
        ("replica_groups={}", ()),
    ],
)
def test_groups(attributes, expected):
    assert groups(attributes) == expected


@pytest.mark.parametrize(
    ("instruction", "size"),
    [
        ("%x = f32[8] reduce-scatter(%p), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add", 128),
        ("%x = (f32[8], f32[32]) all-gather-start(%p), channel_id=1, replica_groups={{0,1,2,3}}", 128),
        ("%x = f32[8] all-reduce(%p), channel_id=1, replica_groups={{0,1}}, to_apply=%add", 32),
        ("%x = (f32[8], f32[8], u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}", 32),
    ],
)
def test_bytes_of_whole_arrays(instruction, size):
    program = parse(f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  %p = f32[8] parameter(0)\n  {instruction}\n}}\n")
    (collective,) = program.collectives(program.computations["main"][1]).values()
    assert collective.bytes == size
