"""Folders of sentence-transformers: the encoder, the modules after it, prompts and lengths.

Reimers and Gurevych 2019, arXiv:1908.10084. Supported modules are a Transformer, a Pooling and, after them, Dense,
LayerNorm and Normalize, each in a folder with a config.json and perhaps weights; others are refused by name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.sentence import Dense, LayerNorm, Module, Normalize, SentenceConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.text.messages import listed

_SETTINGS_FILE = "config_sentence_transformers.json"
# Where older versions wrote the settings of the Transformer.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
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
}
# Classes of torch.nn.modules by name; in lowercase these are our names.
_ACTIVATIONS = {
    path.rpartition(".")[2]: f"torch.nn.modules.{path}"
    for path in ("linear.Identity", *(f"activation.{name}" for name in ("Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")))
}


class SentenceFolder(NamedTuple):
    """The contents of a folder, without the encoder."""

    transformer: Path  # folder of the encoder and its tokenizer
    settings: SentenceConfig  # of embeddings
    params: Params  # of the settings' modules, by number; float32 arrays, or ShapeDtypeStructs if read without weights
    hidden_size: int  # the encoder's, as the Pooling has it
    max_length: int  # limit on the tokens of a text; 0: the encoder's own
    lowercase: bool  # whether texts are lowercased before tokenization


def open_sentence_transformers(folder: Path, weights: bool = True) -> Checkpoint:
    """Open a folder of sentence-transformers; errors as of `read` and `open_transformers`."""
    contents = read(folder, weights)
    checkpoint = open_transformers(contents.transformer, weights, contents.max_length)
    size = checkpoint.config.model.hidden_size
    if size != contents.hidden_size:
        raise ValueError(f"{folder} pools vectors of size {contents.hidden_size}, but the encoder's have size {size}")
    tokenizer = checkpoint.tokenizer
    if contents.lowercase and tokenizer is not None:
        tokenizer = tokenizer.lowercased()
    params = checkpoint.params | ({"sentence": contents.params} if contents.params else {})
    config = replace(checkpoint.config, name=folder.name)
    return replace(checkpoint, config=config, params=params, tokenizer=tokenizer, sentence=contents.settings)


def encoder_folder(folder: Path) -> tuple[Path, bool]:
    """The folder of a published model's encoder, and whether texts are lowercased for it."""
    if not (folder / MODULES_FILE).is_file():
        return folder, False
    contents = read(folder, weights=False)
    return contents.transformer, contents.lowercase


def read(folder: Path, weights: bool = True) -> SentenceFolder:
    """Read a folder with a modules.json, all but its encoder; ValueError for what is not supported or does not fit."""
    kinds, folders = _kinds_and_folders(folder)
    file = folders[1] / CONFIG_FILE
    pooling = read_json(file, dict)
    size = pooling.get("embedding_dimension", pooling.get("word_embedding_dimension"))
    hidden_size = _positive(size, file, "embedding_dimension")
    settings = _prompts(folder / _SETTINGS_FILE)
    settings = replace(settings, pooling=_pooling(pooling, file), include_prompt=_flag(pooling, "include_prompt", file))
    modules, params = [], {}
    for kind, module_folder in zip(kinds[2:], folders[2:], strict=True):
        module, arrays = _read_module(kind, module_folder, weights)
        if arrays:
            params[str(len(modules))] = arrays
        modules.append(module)
        settings = replace(settings, modules=tuple(modules))
        try:
            settings.size(hidden_size)
        except ValueError as error:
            raise ValueError(f"{module_folder / CONFIG_FILE}: {error}") from None
    while modules and modules[-1] == Normalize():
        modules.pop()
        settings = replace(settings, modules=tuple(modules), normalize=True)
    return SentenceFolder(folders[0], settings, params, hidden_size, *_lengths(folders[0]))


def write(folder: Path, settings: SentenceConfig, params: Params, hidden_size: int, max_length: int) -> None:
    """Write the files of `read`, modules.json last; ValueError for a pooling that sentence-transformers does not have.

    The encoder and its tokenizer go into the same folder afterwards. Their config.json, which is removed here, comes
    last and completes the folder: an interrupted save must not look like a folder of transformers, which would give
    other vectors. The arguments are those of `SentenceFolder`.
    """
    names = {ours: theirs for theirs, ours in _POOLINGS.items()}
    if unknown := [name for name in settings.pooling if name not in names]:
        raise ValueError(f"sentence-transformers has no pooling {unknown[0]!r}; give {', '.join(names)}")
    settings.size(hidden_size)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG_FILE, MODULES_FILE):
        (folder / name).unlink(missing_ok=True)
    kinds, paths = ["Transformer", "Pooling"], ["", "1_Pooling"]
    modes = [names[name] for name in settings.pooling]
    pooling = {"word_embedding_dimension": hidden_size, "include_prompt": settings.include_prompt}
    pooling |= {name: mode in modes for name, mode in _FLAGS.items()}  # read by every version
    if modes != [mode for mode in _FLAGS.values() if mode in modes]:  # flags cannot express another order
        pooling["pooling_mode"] = modes
    write_json(folder / paths[1] / CONFIG_FILE, pooling)
    for number, module in enumerate((*settings.modules, *[Normalize()] * settings.normalize)):
        kinds.append(type(module).__name__)
        paths.append(f"{number + 2}_{kinds[-1]}")
        _write_module(module, params.get(str(number), {}), folder / paths[-1])
    write_json(folder / _TRANSFORMER_FILES[0], {"max_seq_length": max_length, "do_lower_case": False})
    stored = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt,
        "similarity_fn_name": settings.similarity,
    }
    write_json(folder / _SETTINGS_FILE, stored | ({"truncate_dim": d} if (d := settings.dimensions) else {}))
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / MODULES_FILE, entries)


def _kinds_and_folders(folder: Path) -> tuple[list[str], list[Path]]:
    """The kinds and folders of the modules. The first two are a Transformer and a Pooling."""
    file = folder / MODULES_FILE
    kinds, folders = [], []
    for number, module in enumerate(read_json(file, list)):
        if not isinstance(module, dict) or not isinstance(module.get("path", ""), str):
            raise ValueError(f"{file} has {module!r} for a module; check the file")
        name, path = str(module.get("type", "")), module.get("path", "")
        package, _, kind = name.rpartition(".")
        supported = (("Transformer",), ("Pooling",))[number] if number < 2 else tuple(_TENSORS)
        if kind not in supported or package.partition(".")[0] != "sentence_transformers":
            raise ValueError(f"{file} has a module {kind!r} ({name}); only {' or '.join(supported)} is supported there")
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{file} has a module in {path!r}, which is outside the folder")
        kinds.append(kind)
        folders.append(folder / path)
    if len(kinds) < 2:
        raise ValueError(f"{file} has the modules {listed(kinds)}; a Transformer and a Pooling are needed")
    return kinds, folders


def _read_module(kind: str, folder: Path, weights: bool) -> tuple[Module, Params]:
    """A module and its parameters by name: float32 arrays, or without weights their shapes."""
    module = _module_of_config(kind, folder / CONFIG_FILE)
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


def _module_of_config(kind: str, file: Path) -> Module:
    """The module that a config.json describes."""
    config = read_json(file, dict) if kind != "Normalize" or file.is_file() else {}  # older versions write none
    if kind == "LayerNorm":
        return LayerNorm(_positive(config.get("dimension"), file, "dimension"))
    for name in ("module_input_name", "module_output_name"):
        if config.get(name) not in (None, "sentence_embedding"):
            raise ValueError(f"{file} has {name} {config[name]!r}; only 'sentence_embedding' is supported")
    if kind == "Normalize":
        return Normalize()
    name = config.get("activation_function", _ACTIVATIONS["Tanh"])
    package, _, activation = str(name).rpartition(".")
    if activation not in _ACTIVATIONS or not f"{package}.".startswith("torch.nn."):
        raise ValueError(f"{file} has activation_function {name!r}; supported are torch's {', '.join(_ACTIVATIONS)}")
    inputs, outputs = (_positive(config.get(key), file, key) for key in ("in_features", "out_features"))
    residual = _flag(config, "use_residual", file, False)
    return Dense(inputs, outputs, _flag(config, "bias", file), activation.lower(), residual)


def _write_module(module: Module, params: Mapping[str, Any], folder: Path) -> None:
    config = {}
    if isinstance(module, LayerNorm):
        config = {"dimension": module.inputs}
    elif isinstance(module, Dense):
        name = next(path for name, path in _ACTIVATIONS.items() if name.lower() == module.activation)
        config = {"in_features": module.inputs, "out_features": module.outputs, "bias": module.bias}
        # Older versions refuse a use_residual, as any unknown setting.
        config |= {"activation_function": name} | ({"use_residual": True} if module.residual else {})
    write_json(folder / CONFIG_FILE, config)
    if module.shapes():
        names = _TENSORS[type(module).__name__]
        arrays = {names[name]: np.asarray(params[name], np.float32) for name in module.shapes()}
        save_weights({name: np.ascontiguousarray(array.T) for name, array in arrays.items()}, folder)


def _pooling(config: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _FLAGS.items() if config.get(name)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in _POOLINGS for mode in map(str, modes)):
        raise ValueError(f"{file} has pooling_mode {modes!r}; supported are: {', '.join(_POOLINGS)}")
    return tuple(_POOLINGS[mode] for mode in modes)


def _prompts(file: Path) -> SentenceConfig:
    """The settings in config_sentence_transformers.json, which may be missing."""
    config = read_json(file, dict) if file.is_file() else {}
    if (kind := config.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise ValueError(f"{file} is of a {kind}; only SentenceTransformer is supported")
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ValueError(f"{file} has prompts {prompts!r}; names and texts are needed")
    if default is not None and default not in prompts:
        raise ValueError(f"{file} has default_prompt_name {default!r}, but its prompts are {listed(prompts)}")
    dimensions, similarity = config.get("truncate_dim"), config.get("similarity_fn_name")
    if not isinstance(similarity, str | None):
        raise ValueError(f"{file} has similarity_fn_name {similarity!r}; a name is needed")
    return SentenceConfig(
        prompts=tuple((name, text or "") for name, text in prompts.items()),
        default_prompt=default,
        similarity=similarity,
        dimensions=None if dimensions is None else _positive(dimensions, file, "truncate_dim"),
    )


def _lengths(folder: Path) -> tuple[int, bool]:
    """The limit on the tokens of a text (0: none is given), and whether texts are lowercased."""
    file = next((folder / name for name in _TRANSFORMER_FILES if (folder / name).is_file()), None)
    config = read_json(file, dict) if file is not None else {}
    for name, value in (("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")):
        if config.get(name, value) != value:
            raise ValueError(f"{file} has {name} {config[name]!r}; only {value!r} is supported")
    if config.get("processing_kwargs"):
        raise ValueError(f"{file} has processing_kwargs, which are not supported: {config['processing_kwargs']!r}")
    length, source = config.get("max_seq_length"), file or folder
    if length is None:  # sentence-transformers 6 keeps it in the tokenizer's settings
        source = folder / "tokenizer_config.json"
        length = read_json(source, dict).get("model_max_length") if source.is_file() else None
        if length is None or (isinstance(length, int | float) and length > 1e9):  # transformers writes 1e30 for none
            length = 0
    if length != 0 and _positive(length, source, "a maximal length of") < 3:
        raise ValueError(f"{source} has a maximal length of {length}; at least 3 tokens are needed: [CLS], one, [SEP]")
    return int(length), _flag(config, "do_lower_case", file, False)


def _positive(value: Any, file: Path, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{file} has {name} {value!r}; an integer of at least 1 is needed")
    return value


def _flag(config: Mapping[str, Any], name: str, file: Path | None, default: bool = True) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{file} has {name} {value!r}; true or false is needed")
    return value
