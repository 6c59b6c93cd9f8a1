"""The verb that writes a model for other runtimes."""

from typing import Annotated, Literal

from jaxencoder.cli import verb
from jaxencoder.cli.use import NewFolder


class Export(verb.Verb):
    """Write a model as a program for other runtimes: ONNX, or StableHLO for jax without this package.

    Example: jaxencoder export runs/sst2 sst2-onnx --to onnx --precision int8
    """

    model: verb.ModelName
    folder: NewFolder
    to: Literal["onnx", "stablehlo"] = "onnx"
    """Format of the program."""
    precision: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """Precision of weights and matrix products: float16 and int8 for onnx, bfloat16 for stablehlo."""
    layout: Annotated[
        Literal["transformers", "sentence-transformers"] | None, verb.default_is("as the model was trained or saved")
    ] = None
    """Library whose folder is written; sentence-transformers makes an embedding model of an encoder."""

    def run(self) -> None:
        precision = self.precision
        if self.to == "onnx":
            from jaxencoder.export.onnx_folder import export_onnx

            if precision == "bfloat16":
                raise ValueError("--precision bfloat16 is for --to stablehlo; give float32, float16 or int8")
            exported = export_onnx(self.model, self.folder, precision, self.layout)
            for name, difference in exported.differences.items():
                print(f"{name}: onnxruntime differs by at most {difference:.1e} of the largest value")
        else:
            from jaxencoder.export.stablehlo_folder import export_stablehlo

            if precision not in ("float32", "bfloat16"):
                raise ValueError(f"--precision {precision} is for --to onnx; give float32 or bfloat16")
            exported = export_stablehlo(self.model, self.folder, precision, self.layout)
        print(f"{self.model} in {exported.file}, for {exported.task}")
