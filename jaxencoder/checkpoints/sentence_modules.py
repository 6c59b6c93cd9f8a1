"""The modules after the Pooling of a sentence-transformers folder: settings and weights, read and written.

Each has a folder with a config.json and, if it has parameters, weights.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.files import read_json, write_json
from jaxencoder.model.sentence import Dense, LayerNorm, Module, Normalize

CONFIG_FILE = "config.json"
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
}
# Our names of a module's parameters -> names of its tensors. A matrix of torch is [outputs, inputs].
_TENSORS = {
    "Dense": {"kernel": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"},
    "LayerNorm": {"scale": "norm.weight", "bias": "norm.bias"},
    "Normalize": {},
}


def _dense(file: Path) -> Dense:
    config = read_json(file, dict)
    _only_vectors(config, file)
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    short = {path.rpartition(".")[2]: ours for path, ours in _ACTIVATIONS.items()}
    package, _, kind = str(name).rpartition(".")
    if kind not in short or not f"{package}.".startswith("torch.nn."):
        raise ValueError(f"{file} has activation_function {name!r}; supported are torch's {', '.join(short)}")
    inputs, outputs = (positive(config.get(key), file, key) for key in ("in_features", "out_features"))
    return Dense(inputs, outputs, flag(config, "bias", file), short[kind], flag(config, "use_residual", file, False))


def _layer_norm(file: Path) -> LayerNorm:
    return LayerNorm(positive(read_json(file, dict).get("dimension"), file, "dimension"))


def _normalize(file: Path) -> Normalize:
    if file.is_file():  # older versions write none
        _only_vectors(read_json(file, dict), file)
    return Normalize()


_READERS: dict[str, Callable[[Path], Module]] = {"Dense": _dense, "LayerNorm": _layer_norm, "Normalize": _normalize}
KINDS = tuple(_READERS)


def read_module(kind: str, folder: Path, weights: bool = True) -> tuple[Module, dict[str, Any]]:
    """Read a module of one of KINDS, and its parameters by name: float32 arrays, or without weights their shapes.

    Raises:
        ValueError: an unsupported setting, or weights that do not fit the settings.
        OSError: a file is missing or cannot be read.
    """
    module = _READERS[kind](folder / CONFIG_FILE)
    shapes, names = module.shapes(), _TENSORS[kind]
    if not shapes:
        return module, {}
    if not weights:
        return module, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    tensors = open_weights(folder)
    expected = {names[name] for name in shapes}
    if set(tensors) != expected:
        raise ValueError(
            f"{folder} has the weights {', '.join(sorted(tensors)) or 'none'}, "
            f"but its {CONFIG_FILE} asks for {', '.join(sorted(expected))}"
        )
    params = {}
    for name, shape in shapes.items():
        tensor = np.asarray(tensors[names[name]])
        if tensor.shape != shape[::-1]:
            raise ValueError(
                f"{folder}: {names[name]} has the shape {list(tensor.shape)}, but {CONFIG_FILE} asks for "
                f"{list(shape[::-1])}"
            )
        params[name] = np.ascontiguousarray(tensor.T, np.float32)
    return module, params


def write_module(module: Module, params: Mapping[str, Any], folder: Path) -> None:
    """Write the files of `read_module`."""
    config = {}
    if isinstance(module, LayerNorm):
        config = {"dimension": module.inputs}
    elif isinstance(module, Dense):
        name = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == module.activation)
        config = {"in_features": module.inputs, "out_features": module.outputs, "bias": module.bias}
        # Older versions refuse a use_residual, as any unknown setting.
        config |= {"activation_function": name} | ({"use_residual": True} if module.residual else {})
    write_json(folder / CONFIG_FILE, config)
    if module.shapes():
        names = _TENSORS[type(module).__name__]
        arrays = {names[name]: np.asarray(params[name], np.float32) for name in module.shapes()}
        save_weights({name: np.ascontiguousarray(array.T) for name, array in arrays.items()}, folder)


def _only_vectors(config: Mapping[str, Any], file: Path) -> None:
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise ValueError(f"{file} has {name} {config[name]!r}; only 'sentence_embedding' is supported")


def positive(value: Any, file: Path, name: str) -> int:
    """Check for an integer of at least 1; ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name} {value!r}; an integer of at least 1 is needed")
    return value


def flag(config: Mapping[str, Any], name: str, file: Path | None, default: bool = True) -> bool:
    """The truth value under a name; ValueError for anything else."""
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file} has {name} {value!r}; true or false is needed")
    return value
