"""The modules of sentence-transformers that follow the Transformer: a Pooling and those that change its vector.

Each is a folder with a config.json and perhaps weights.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from jaxencoder.checkpoints.sentence_keys import check_keys, flag, positive
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import Pooling
from jaxencoder.model.sentence import Dense, Dropout, LayerNorm, Module, Normalize
from jaxencoder.objectives.objective import Params
from jaxencoder.text.messages import listed

# Flags of older versions -> their names of poolings, in the order in which several are concatenated.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = {name: name.removesuffix("_tokens") for name in _FLAGS.values()}  # their names -> ours
# Our names of a module's parameters -> names of its tensors. A matrix of torch is [outputs, inputs].
_TENSORS = {
    "Dense": {"kernel": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"},
    "LayerNorm": {"scale": "norm.weight", "bias": "norm.bias"},
    "Normalize": {},
    "Dropout": {},
}
SUPPORTED = tuple(_TENSORS)
_DROPOUT = 0.2  # their default
# Classes of torch.nn.modules by name; in lowercase these are our names.
_ACTIVATIONS = {
    path.rpartition(".")[2]: f"torch.nn.modules.{path}"
    for path in ("linear.Identity", *(f"activation.{name}" for name in ("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")))
}


def read_pooling(folder: Path) -> tuple[int, tuple[Pooling, ...], bool]:
    """The size of the encoder's vectors, the poolings, and whether a prompt's tokens are pooled."""
    file = folder / CONFIG_FILE
    config = read_json(file, dict)
    check_keys(config, "Pooling", file)
    sizes = {name: config[name] for name in ("embedding_dimension", "word_embedding_dimension") if name in config}
    if len(set(map(str, sizes.values()))) > 1:
        raise ValueError(f"{file} has {' and '.join(f'{name} {value!r}' for name, value in sizes.items())}; keep one")
    size = positive(next(iter(sizes.values()), None), file, "embedding_dimension")
    flags = [mode for name, mode in _FLAGS.items() if flag(config, name, file, False)]
    modes = config.get("pooling_mode", flags or ["mean"])
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in _POOLINGS for mode in map(str, modes)):
        raise ValueError(f"{file} has pooling_mode {modes!r}; supported are: {', '.join(_POOLINGS)}")
    poolings = cast(tuple[Pooling, ...], tuple(_POOLINGS[mode] for mode in modes))
    return size, poolings, flag(config, "include_prompt", file)


def pooling_modes(poolings: Sequence[Pooling]) -> list[str]:
    """The names of poolings in sentence-transformers; ValueError for one that it does not have."""
    names = {ours: theirs for theirs, ours in _POOLINGS.items()}
    if unknown := [name for name in poolings if name not in names]:
        raise ValueError(f"sentence-transformers has no pooling {unknown[0]!r}; give {', '.join(names)}")
    return [names[name] for name in poolings]


def write_pooling(folder: Path, size: int, modes: list[str], include_prompt: bool) -> None:
    """Write the folder of `read_pooling`, with the names of `pooling_modes`."""
    config = {"word_embedding_dimension": size, "include_prompt": include_prompt}
    config |= {name: mode in modes for name, mode in _FLAGS.items()}  # read by every version
    if modes != [mode for mode in _FLAGS.values() if mode in modes]:  # flags cannot express another order
        config["pooling_mode"] = modes
    write_json(folder / CONFIG_FILE, config)


def read_module(kind: str, folder: Path, weights: bool, of_tokens: bool = False) -> tuple[Module | None, Params]:
    """A module and its parameters by name: float32 arrays, or without weights their shapes.

    It changes the vector of a text, or with `of_tokens` those of its tokens, where it is None for a Dropout.
    """
    module = _module_of_config(kind, folder / CONFIG_FILE, of_tokens)
    if module is None:
        return None, {}
    shapes, names = module.shapes(), _TENSORS[kind]
    if not weights or not shapes:
        return module, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    tensors, expected = open_weights(folder), {names[name] for name in shapes}
    if set(tensors) != expected:
        present, required = listed(sorted(tensors)), listed(sorted(expected))
        raise ValueError(f"{folder} has the weights {present}, but its {CONFIG_FILE} asks for {required}")
    params = {}
    for name, shape in shapes.items():
        tensor = np.asarray(tensors[names[name]])
        if tensor.shape != shape[::-1]:
            mismatch = f"has the shape {list(tensor.shape)}, but {CONFIG_FILE} asks for {list(shape[::-1])}"
            raise ValueError(f"{folder}: {names[name]} {mismatch}")
        params[name] = np.ascontiguousarray(tensor.T, np.float32)
    return module, params


def write_module(module: Module, params: Mapping[str, Any], folder: Path, of_tokens: bool = False) -> None:
    """Write a module of `read_module`."""
    config = {}
    if isinstance(module, LayerNorm):
        config = {"dimension": module.inputs}
    elif isinstance(module, Dense):
        config = {"in_features": module.inputs, "out_features": module.outputs, "bias": module.bias}
        config["activation_function"] = activation_path(module.activation)
        # Older versions refuse a use_residual, as any unknown setting.
        config |= {"use_residual": True} if module.residual else {}
    elif isinstance(module, Dropout):
        config = {"dropout": module.rate}
    if of_tokens:
        config |= dict.fromkeys(("module_input_name", "module_output_name"), "token_embeddings")
    write_json(folder / CONFIG_FILE, config)
    if module.shapes():
        names = _TENSORS[type(module).__name__]
        arrays = {names[name]: np.asarray(params[name], np.float32) for name in module.shapes()}
        save_weights({name: np.ascontiguousarray(array.T) for name, array in arrays.items()}, folder)


def activation_name(path: Any, file: Path, key: str) -> str:
    """Our name of an activation by the path of its class in torch.nn; ValueError for others, which names the key."""
    package, _, activation = str(path).rpartition(".")
    if activation not in _ACTIVATIONS or not f"{package}.".startswith("torch.nn."):
        raise ValueError(f"{file} has {key} {path!r}; supported are torch's {', '.join(_ACTIVATIONS)}")
    return activation.lower()


def activation_path(name: str) -> str:
    """The path of the class in torch.nn for our name of an activation."""
    return next(path for activation, path in _ACTIVATIONS.items() if activation.lower() == name)


def _module_of_config(kind: str, file: Path, of_tokens: bool) -> Module | None:
    """The module that a config.json describes; None for a Dropout of tokens, whose training has none."""
    config = read_json(file, dict) if kind != "Normalize" or file.is_file() else {}  # older versions write none
    check_keys(config, f"token {kind}" if of_tokens else kind, file)
    if of_tokens and kind == "Normalize" and "module_input_name" not in config:
        raise ValueError(f"{file} has no module_input_name; late interaction needs 'token_embeddings'")
    match kind:
        case "Dropout":
            return None if of_tokens else Dropout(_rate(config.get("dropout", _DROPOUT), file))
        case "Normalize":
            return Normalize()
        case "LayerNorm":
            return LayerNorm(positive(config.get("dimension"), file, "dimension"))
    path = config.get("activation_function", activation_path("tanh"))
    activation = activation_name(path, file, "activation_function")
    inputs, outputs = (positive(config.get(key), file, key) for key in ("in_features", "out_features"))
    residual = flag(config, "use_residual", file, False)
    return Dense(inputs, outputs, flag(config, "bias", file), activation, residual)


def _rate(value: Any, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{file} has dropout {value!r}; a number from 0 to less than 1 is needed")
    return float(value)
