"""The verb export: what it passes on, what it prints, and options that do not go together."""

from pathlib import Path

import pytest

from jaxencoder.cli.main import main
from jaxencoder.export.stablehlo_folder import StableHloExport


def test_onnx(calls, capsys):
    pytest.importorskip("onnx")
    from jaxencoder.export.onnx_folder import OnnxExport

    result = OnnxExport(Path("new/onnx/model.onnx"), "fill-mask", {"logits": 2.5e-6})
    record = calls("export.onnx_folder", "export_onnx", result=result)
    assert main(["export", "run", "new", "--precision", "int8", "--layout", "transformers"]) == 0
    assert record == [(("run", Path("new"), "int8", "transformers"), {})]
    assert capsys.readouterr().out.splitlines() == [
        "logits: onnxruntime differs by at most 2.5e-06 of the largest value",
        "run in new/onnx/model.onnx, for fill-mask",
    ]


def test_stablehlo(calls, capsys):
    result = StableHloExport(Path("new/stablehlo/program.bin"), "fill-mask")
    record = calls("export.stablehlo_folder", "export_stablehlo", result=result)
    assert main(["export", "run", "new", "--to", "stablehlo", "--precision", "bfloat16"]) == 0
    assert record == [(("run", Path("new"), "bfloat16", None), {})]
    assert capsys.readouterr().out == "run in new/stablehlo/program.bin, for fill-mask\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "bfloat16"], "--precision bfloat16 is for --to stablehlo; give float32, float16 or int8"),
        (["--to", "stablehlo", "--precision", "int8"], "--precision int8 is for --to onnx; give float32 or bfloat16"),
    ],
)
def test_a_precision_of_the_other_format(options, message, capsys):
    assert main(["export", "run", "new", *options]) == 2
    assert message in capsys.readouterr().err
