"""Export to StableHLO by `jax.export`: a program that jax alone runs, on a CPU, NVIDIA or AMD GPUs and TPUs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import ml_dtypes
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.weights import SINGLE, save_weights
from jaxencoder.export.folder import Layout, exported_folder
from jaxencoder.export.program import Arrays, program
from jaxencoder.files import write_atomic, write_json
from jaxencoder.parameters import flatten, set_path

Precision = Literal["float32", "bfloat16"]
FOLDER = "stablehlo"
PROGRAM, PARAMS, SETTINGS = "program.bin", SINGLE, "program.json"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class StableHloExport(NamedTuple):
    """An exported program.

    Attributes:
        file: its path; `PARAMS` and `SETTINGS` are beside it.
        task: of the model, by its name in transformers.
    """

    file: Path
    task: str


def export_stablehlo(
    source: str | Path | Checkpoint, folder: str | Path, precision: Precision = "float32", layout: Layout | None = None
) -> StableHloExport:
    """Write a model as a program of `jax.export` for every platform: FOLDER/stablehlo beside settings and tokenizer.

    The program is a function of the parameters {name: array}, as they are in the folder's model.safetensors, and of
    the inputs {name: int32 [batch, length]}, which program.json names with their axes. It returns {name: array}, see
    `jaxencoder.export.program.Program`. jax compiles it for each shape of the inputs.

    Args:
        source: a folder of any kind, a name on the Hugging Face hub, or a model.
        folder: the folder to write; empty or missing.
        precision: of activations and matrix products; with bfloat16 the weights of products are stored so.
        layout: see `jaxencoder.export.folder.exported_folder`.

    Raises:
        ValueError: an unknown precision, a folder that is not empty, or a model that cannot be exported; without the
            extra [export].
        OSError: the source cannot be read, or the folder cannot be written.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; give {' or '.join(get_args(Precision))}")
    folder = Path(folder)
    with exported_folder(source, folder, layout) as (model, encoder, gives_vectors):
        exported = program(model, gives_vectors, precision)
        params = {name: _stored(name, x, precision) for name, x in flatten(exported.params).items()}

        def function(params: Mapping[str, jax.Array], arrays: Arrays) -> dict[str, jax.Array]:
            tree: dict[str, Any] = {}
            for name, x in params.items():
                set_path(tree, name, x)
            return exported.function(tree, arrays)

        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
        traced = jax.export.export(jax.jit(function), platforms=_PLATFORMS)(shapes, exported.inputs)
        try:
            content = traced.serialize()
        except ImportError as error:
            raise ValueError(f"export to StableHLO needs {error.name}; install jaxencoder[export]") from error
        file = encoder / FOLDER / PROGRAM
        file.parent.mkdir()
        write_atomic(file, bytes(content))
        save_weights(params, file.parent, max_shard_bytes=1 << 62)
        settings = {
            "task": exported.task,
            "inputs": {name: [str(dim) for dim in x.shape] for name, x in exported.inputs.items()},
            "outputs": sorted(jax.eval_shape(function, shapes, exported.inputs)),
            "max_length": exported.max_length,
            "precision": precision,
            "platforms": list(_PLATFORMS),
            "jax": jax.__version__,
            "calling_convention_version": traced.calling_convention_version,
        }
        write_json(file.with_name(SETTINGS), settings)
    return StableHloExport(folder / file.relative_to(encoder), exported.task)


def _stored(name: str, x: Any, precision: str) -> np.ndarray:
    """A parameter as it is stored: the encoder's kernels in the precision of products."""
    is_kernel = name.startswith("encoder/") and name.endswith("/kernel")
    return np.asarray(x).astype(ml_dtypes.bfloat16 if is_kernel and precision == "bfloat16" else np.float32)
