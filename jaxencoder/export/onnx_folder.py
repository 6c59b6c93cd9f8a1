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
# Of the largest value of an output; 8-bit integers are not held to one.
_TOLERANCES = {"float32": 1e-4, "float16": 3e-2}


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
        if precision == "float16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            graph = convert_float_to_float16(graph, keep_io_types=True)
        _save(_quantized(graph, file.parent) if precision == "int8" else graph, file)
        differences = compare(file, exported)
        limit = _TOLERANCES.get(precision, np.inf)
        if wrong := {name: x for name, x in differences.items() if not x <= limit}:
            name, x = next(iter(wrong.items()))
            raise ValueError(f"onnxruntime computes {name} with an error of {x:.1e}, above {limit}; give float32")
    return OnnxExport(folder / file.relative_to(encoder), exported.task, differences)


def _save(graph: Any, file: Path) -> None:
    """Write a graph; one that is too large for protobuf has its weights in a second file."""
    import onnx

    size = sum(len(x.raw_data) for x in graph.graph.initializer)
    second_file = {"save_as_external_data": True, "location": f"{file.name}_data"} if size > _LARGEST else {}
    onnx.save_model(graph, file, **second_file)


def _quantized(graph: Any, folder: Path) -> Any:
    """A graph with 8-bit weights; files in the folder, which onnxruntime's functions want, come and go."""
    import onnx
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=folder) as name:
        plain, prepared, quantized = (Path(name) / f"{step}.onnx" for step in ("plain", "prepared", "quantized"))
        _save(graph, plain)
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

    Rows of random tokens: of one token, and of two lengths with padding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    function = jax.jit(exported.function)
    largest: dict[str, float] = {}
    for rows, length in ((1, 1), (2, 7), (3, min(40, exported.max_length))):
        arrays = _random_rows(random, exported, rows, length)
        expected = function(exported.params, {name: jnp.asarray(x, jnp.int32) for name, x in arrays.items()})
        results = session.run(list(expected), arrays)
        mask = arrays["attention_mask"]
        for (name, x), y in zip(expected.items(), results, strict=True):
            ours, theirs = np.asarray(x), np.asarray(y, np.float32)
            if ours.shape[: mask.ndim] == mask.shape:
                ours, theirs = ours[mask == 1], theirs[mask == 1]
            error = np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max()))
            largest[name] = max(largest.get(name, 0.0), float(error))
    return largest


def _random_rows(random: np.random.Generator, exported: Program, rows: int, length: int) -> dict[str, np.ndarray]:
    """Inputs of a program, int64, the last row with padding."""
    axes = len(exported.inputs["input_ids"].shape)
    shape = (rows, *(2,) * (axes - 2), length)
    sizes = {name: exported.sizes.get(name, 2) for name in exported.inputs}
    arrays = {name: random.integers(0, size, shape) for name, size in sizes.items()}
    arrays["attention_mask"] = np.ones(shape, np.int64)
    arrays["attention_mask"][-1, ..., (length + 1) // 2 :] = 0
    return arrays
