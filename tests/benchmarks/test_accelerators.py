"""The compilation for TPUs and GPUs: its cases, the kernels in the programs, and its failures."""

import sys
import types

import pytest

from benchmarks import accelerators as bench
from jaxencoder.describe.plan.update import CompiledUpdate, DoesNotFit

CALL = '  %{} = (bf16[2,64]{{1,0}}, f32[2]) custom-call(%a, %b), custom_call_target="{}", metadata={{}}\n'


def test_kernels_are_counted_by_name() -> None:
    calls = ("tiled_forward.4", "tpu_custom_call"), ("jvp_tiled_forward_.12.remat", "tpu_custom_call")
    no_kernels = ("tiled_forward", "tpu_custom_call"), ("cholesky.1", "Sharding")
    text = "".join(CALL.format(*call) for call in (*calls, *no_kernels))
    gpu = '  %call.{} = f32[2] custom-call(%a), custom_call_target="__gpu$xla.gpu.triton", name = "{}", warps = 4\n'
    text += gpu.format(1, "mha_forward") + gpu.format(2, "mha_backward") + gpu.format(3, "mha_forward")
    counted = {"tiled_forward": 2, "jvp_tiled_forward_": 1, "mha_forward": 2, "mha_backward": 1}
    assert bench.count_kernels(text) == counted


def test_expected_kernels_and_memory_of_devices() -> None:
    case = bench.CASES["modernbert_base/1024"]
    assert [bench.expected_kernels(name, case) for name in ("v5e:4x4", "H100", "T4")] == [bench.SHORT, bench.MHA, ()]
    assert bench.device_memory("v6e:4x4") == 32 << 30 and bench.device_memory("T4") == 15 << 30


@pytest.mark.parametrize("case", bench.CASES)
def test_a_case_is_its_recipe_in_microbatches(case: str) -> None:
    recipe, length = case.split("/")
    config = bench.case_config(bench.CASES[case], 16)
    assert (config.name, config.data.row_length, config.mesh.fsdp) == (recipe, int(length), 16)
    assert config.training.batch_size == bench.CASES[case].rows * 16 * config.training.accumulation
    assert config.compute.attention == "auto" and config.model.vocab_size == config.tokenizer.vocab_size


def test_rows_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="batches of 576 rows, no multiple of 5 on 16 device"):
        bench.case_config(bench.CASES["modernbert_base/8192"]._replace(rows=5), 16)


@pytest.mark.parametrize(
    ("memory", "kernel", "code", "output"),
    [
        ((3, 20, 15), "tiled_backward", 0, "| 3.0 | 20.0 | 15.0 | yes | 1 x tiled_backward, 1 x tiled_forward |"),
        ((3, 20, 15), "other", 1, "no tiled_backward"),
        ((3, 9, 17), "tiled_backward", 1, "| 17.0 | no |"),
        (None, "", 1, "| ? | ? | too many | no | no tiled_forward, no tiled_backward |"),
    ],
)
def test_failures(memory, kernel, code, output, monkeypatch, capsys) -> None:
    def compile_update(config, mesh):
        if memory is None:
            raise DoesNotFit(17 << 30)
        calls = "".join(CALL.format(name, "tpu_custom_call") for name in ("tiled_forward.1", kernel))
        return CompiledUpdate(*(size << 30 for size in memory), text=calls, jaxpr=None)

    slice_of_16 = types.SimpleNamespace(devices=[object()] * 16)
    monkeypatch.setattr(bench, "describe_topology", lambda name: slice_of_16)
    monkeypatch.setattr(bench, "make_mesh", lambda config, devices: None)
    monkeypatch.setattr(bench, "compile_update", compile_update)
    monkeypatch.setattr(sys, "argv", ["accelerators.py", "--devices", "v5e:4x4", "--cases", "deberta_v3_base/512"])
    assert bench.main() == code
    assert output in capsys.readouterr().out
