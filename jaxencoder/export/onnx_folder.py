"""Export to ONNX, in a folder laid out as Optimum, sentence-transformers and text-embeddings-inference expect."""

import tempfile
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.export.folder import Layout, exported_folder
from jaxencoder.export.program import Program, program

Precision = Literal["float32", "float16", "int8"]
FILE = Path("onnx") / "model.onnx"

_LARGEST = 1_900_000_000  # bytes of constants in one file; protobuf reads at most 2 GiB
# Of the largest value of an output. What 8-bit integers cost depends on the model: more than this is a failure.
_TOLERANCES = {"float32": 1e-4, "float16": 3e-2, "int8": 1.0}
_SMALLEST = 1e-2  # a largest value that counts as one


class OnnxExport(NamedTuple):
    """An exported file.

    Attributes:
        file: its path.
        task: of the model, by its name in transformers.
        differences: of each output from jax's, the largest in parts of the output's largest value.
    """

    file: Path
    task: str
    differences: dict[str, float]


def export_onnx(
    source: str | Path | Checkpoint, folder: str | Path, precision: Precision = "float32", layout: Layout | None = None
) -> OnnxExport:
    """Write a model as ONNX: FOLDER/onnx/model.onnx beside its settings and tokenizer.

    The file is run by onnxruntime on a few rows and compared with the model itself. Its inputs are int64 [batch,
    length] of any size up to the model's longest row: input_ids, attention_mask (1 at tokens, then 0 at padding) and,
    where the model has several types, token_type_ids. Its outputs are those of `jaxencoder.export.program.Program`.

    Args:
        source: a folder of any kind, a name on the Hugging Face hub, or a model.
        folder: the folder to write; empty or missing.
        precision: "float16" has float16 weights and products; "int8" has 8-bit weights, with a scale for each output,
            and rounds what they multiply when it runs (onnxruntime's dynamic quantization).
        layout: see `jaxencoder.export.folder.exported_folder`.

    Raises:
        ValueError: an unknown precision, a folder that is not empty, a model that cannot be exported, or a file whose
            outputs differ; without the extra [export].
        OSError: the source cannot be read, or the folder cannot be written.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}")
    try:
        import onnxruntime  # noqa: F401  # missing it should be said before the work, not after

        from jaxencoder.export.onnx_conversion import convert  # needs onnx
    except ImportError as error:
        raise ValueError(f"export to ONNX needs {error.name}; install jaxencoder[export]") from error
    folder = Path(folder)
    with exported_folder(source, folder, layout) as (model, encoder, gives_vectors):
        exported = program(model, gives_vectors)
        on_device = jax.tree.map(jnp.asarray, exported.params)
        names = list(exported.inputs)
        graph = convert(
            lambda *arrays: exported.function(on_device, dict(zip(names, arrays, strict=True))),
            {name: x.shape for name, x in exported.inputs.items()},
        )
        file = encoder / FILE
        file.parent.mkdir()
        _save(graph if precision == "float32" else _in_precision(graph, file.parent, precision), file)
        differences = compare(file, exported)
        for name, x in differences.items():
            if not x <= _TOLERANCES[precision]:
                problem = f"onnxruntime computes {name} with an error of {x:.1e} of its largest value"
                raise ValueError(f"{problem}, above {_TOLERANCES[precision]}; give float32")
    return OnnxExport(folder / file.relative_to(encoder), exported.task, differences)


def _save(graph: Any, file: Path) -> None:
    """Write a graph; one that is too large for protobuf has its weights in a second file."""
    import onnx

    size = sum(len(x.raw_data) for x in graph.graph.initializer)
    second_file = {"save_as_external_data": True, "location": f"{file.name}_data"} if size > _LARGEST else {}
    onnx.save_model(graph, file, **second_file)


def _in_precision(graph: Any, folder: Path, precision: Precision) -> Any:
    """A graph with float16 or 8-bit weights, converted by files in the folder, which may be of any size."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with tempfile.TemporaryDirectory(dir=folder) as name:
        plain, prepared, quantized = (Path(name) / f"{step}.onnx" for step in ("plain", "prepared", "quantized"))
        _save(graph, plain)
        if precision == "float16":
            return convert_float_to_float16(str(plain), keep_io_types=True)
        is_large = plain.with_name(f"{plain.name}_data").exists()
        quant_pre_process(
            plain, prepared, skip_optimization=True, skip_symbolic_shape=True, save_as_external_data=is_large
        )
        quantize_dynamic(
            prepared,
            quantized,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
            use_external_data_format=is_large,
        )
        return onnx.load(quantized)


def compare(file: Path, exported: Program) -> dict[str, float]:
    """The largest difference of each output of a file from the model's, in parts of the output's largest value.

    Rows of random tokens: of one token, and of two lengths with padding. NaN for values that are not finite.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    function = jax.jit(exported.function)
    differences: dict[str, list[float]] = {}
    sizes: dict[str, list[float]] = {}
    # The longest ones reach beyond the windows and the ranges of distances of most models.
    for rows, length in ((1, 1), (2, 7), (2, min(160, exported.max_length))):
        arrays = _random_rows(random, exported, rows, length)
        expected = function(exported.params, {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()})
        results = session.run(list(expected), arrays)
        for (name, x), y in zip(expected.items(), results, strict=True):
            ours, theirs = np.asarray(x), np.asarray(y, np.float32)
            differences.setdefault(name, []).append(np.abs(ours - theirs).max())
            sizes.setdefault(name, [_SMALLEST]).append(np.abs(ours).max())
    return {name: float(np.max(x) / np.max(sizes[name])) for name, x in differences.items()}


def _random_rows(random: np.random.Generator, exported: Program, rows: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of a program, int64, the last row with padding."""
    axes = len(exported.inputs["input_ids"].shape)
    shape = (rows, *(2,) * (axes - 2), length)
    arrays = {name: random.integers(0, exported.num_ids.get(name, 2), shape) for name in exported.inputs}
    arrays["attention_mask"] = np.ones(shape, np.int64)
    arrays["attention_mask"][-1, ..., (length + 1) // 2 :] = 0
    return arrays
