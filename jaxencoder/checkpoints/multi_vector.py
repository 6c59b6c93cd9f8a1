"""Folders of models that give a vector for each token: sentence-transformers' MultiVectorEncoder, PyLate's, Stanford's.

Khattab and Zaharia 2020 (ColBERT), arXiv:2004.12832. Supported modules are a Transformer and, for tokens, Dense,
Dropout, MultiVectorMask, Normalize and HierarchicalTokenPooling; others are refused by name.
"""

import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.sentence_keys import check_keys, flag, positive
from jaxencoder.checkpoints.sentence_modules import read_module, write_module
from jaxencoder.checkpoints.sentence_settings import (
    CLASSES,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    ModuleEntry,
    model_type,
    read_modules,
    read_prompts,
    start_folder,
    text_limits,
    transformer_settings,
    write_modules,
)
from jaxencoder.checkpoints.weights import open_weights
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import Role
from jaxencoder.model.multi_vector import MultiVectorConfig, QueryExpansion, TokenPooling
from jaxencoder.model.sentence import Dense, Normalize
from jaxencoder.objectives.objective import Params

MODEL_TYPES = ("MultiVectorEncoder", "ColBERT")
_STANFORD, _PROJECTION = "HF_ColBERT", "linear.weight"  # class in config.json, and the tensor of its projection
_METADATA = "artifact.metadata"  # settings of Stanford's models
_MASK, _POOLING = "MultiVectorMask", "HierarchicalTokenPooling"
_SUPPORTED = ("Dense", "Dropout", "Normalize", _MASK, _POOLING)
_EXPANDED_LENGTH = 32  # ColBERT's, where a folder has none
_PREFIXES = {"query": "query_prefix", "document": "document_prefix"}  # of PyLate


class MultiVectorFolder(NamedTuple):
    """The contents of a folder with a modules.json, without the encoder."""

    transformer: Path  # folder of the encoder and its tokenizer
    settings: MultiVectorConfig
    params: Params  # of the settings' modules, by number; float32 arrays, or ShapeDtypeStructs if read without weights
    markers: tuple[str, ...]  # prompts that may begin with a token of the vocabulary
    max_length: int  # limit on the tokens of a text; 0: that of the tokenizer or the encoder
    lowercase: bool  # whether texts are lowercased before tokenization


def read(folder: Path, weights: bool = True) -> MultiVectorFolder:
    """Read a folder of MODEL_TYPES, all but its encoder; ValueError for what is not supported or does not fit."""
    transformer, *modules = read_modules(folder)
    limits = text_limits(transformer.folder, "feature-extraction", "token Transformer")
    if model_type(folder) == "ColBERT":
        settings, markers = _pylate_settings(folder / SETTINGS_FILE)
    else:
        settings, markers = _settings(folder / SETTINGS_FILE, transformer.folder), ()
    settings, params = _with_modules(folder, settings, modules, weights)
    return MultiVectorFolder(transformer.folder, settings, params, markers, *limits)


def assembled(folder: Path, contents: MultiVectorFolder, encoder: Checkpoint) -> Checkpoint:
    """The model of a folder, of its contents and its opened encoder; ValueError if they do not fit together."""
    try:
        contents.settings.size(encoder.config.model.hidden_size)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    tokenizer = encoder.tokenizer and encoder.tokenizer.with_markers(contents.markers)
    params = encoder.params | ({"multi_vector": contents.params} if contents.params else {})
    return replace(encoder, params=params, tokenizer=tokenizer, multi_vector=contents.settings)


def token_settings(
    folder: Path, max_length: int, weights: bool = True
) -> tuple[MultiVectorConfig | None, Params, tuple[str, ...]]:
    """The settings of a published model's vectors of tokens, the parameters of their modules, and the markers.

    None and empty ones for a model without them. `max_length` is the encoder's limit on the tokens of a text.
    """
    if (folder / MODULES_FILE).is_file():
        contents = read(folder, weights) if model_type(folder) in MODEL_TYPES else None
    else:
        contents = _stanford(folder, max_length, weights)
    return (None, {}, ()) if contents is None else (contents.settings, contents.params, contents.markers)


def of_stanford(model: Checkpoint, folder: Path) -> Checkpoint:
    """A model of transformers whose config.json names Stanford's class, with its projection; else the model itself."""
    contents = _stanford(folder, model.max_length, weights=True)
    return model if contents is None else assembled(folder, contents, model)


def _stanford(folder: Path, max_length: int, weights: bool) -> MultiVectorFolder | None:
    """The contents of a folder of Stanford's class, whose artifact.metadata is read as by sentence-transformers."""
    architectures = read_json(folder / CONFIG_FILE, dict).get("architectures")
    if not isinstance(architectures, list) or _STANFORD not in architectures:
        return None
    file = folder / _METADATA
    metadata = read_json(file, dict) if file.is_file() else {}
    if (similarity := metadata.get("similarity", "cosine")) != "cosine":
        raise ValueError(f"{file} has similarity {similarity!r}; only 'cosine' is supported")
    tensors = open_weights(folder)
    if _PROJECTION not in tensors:
        raise ValueError(f"{folder} is of class {_STANFORD}, but has no tensor {_PROJECTION}; save the model again")
    outputs, inputs = tensors.shape(_PROJECTION)
    tokens = (("query_token_id", "[unused0]"), ("doc_token_id", "[unused1]"))
    prompts = tuple(f"{metadata.get(key) or token} " for key, token in tokens)
    expanded = positive(metadata.get("query_maxlen") or _EXPANDED_LENGTH, file, "query_maxlen")
    settings = MultiVectorConfig(
        modules=(Dense(inputs, outputs, bias=False, activation="identity"),),
        prompts=tuple(zip(get_args(Role), prompts, strict=True)),
        document_length=positive(metadata.get("doc_maxlen") or max_length, file, "doc_maxlen"),
        expansion=QueryExpansion(expanded, is_attended=flag(metadata, "attend_to_mask_tokens", file, False)),
        skipped_words=tuple(string.punctuation) if flag(metadata, "mask_punctuation", file) else (),
    )
    kernel: Any = jax.ShapeDtypeStruct((inputs, outputs), np.float32)
    if weights:
        kernel = np.ascontiguousarray(np.asarray(tensors[_PROJECTION]).T, np.float32)
    return MultiVectorFolder(folder, settings, {"0": {"kernel": kernel}}, prompts, 0, False)


def _settings(file: Path, transformer: Path) -> MultiVectorConfig:
    """The settings of a MultiVectorEncoder, without its modules."""
    config = read_json(file, dict)
    check_keys(config, "MultiVectorEncoder", file)
    prompts, _ = read_prompts(config, file, implied=get_args(Role))
    file, limits = transformer_settings(transformer)
    return MultiVectorConfig(
        prompts=prompts,
        query_length=_length(limits, "query_length", file),
        document_length=_length(limits, "document_length", file),
        expansion=_expansion(limits.get("query_expansion"), file),
        mean=config.get("similarity_fn_name") == "meanmaxsim",
        normalize=False,
    )


def _expansion(config: Any, file: Path) -> QueryExpansion | None:
    if config is None:
        return None
    if not isinstance(config, dict) or config.get("strategy") not in ("fixed", "min"):
        raise ValueError(f"{file} has query_expansion {config!r}; an object with strategy 'fixed' or 'min' is needed")
    check_keys(config, "query_expansion", f"query_expansion in {file}")
    length = positive(config.get("length"), file, "length of query_expansion")
    token = config.get("token") or ""
    return QueryExpansion(length, config["strategy"] == "fixed", flag(config, "attend", file, False), str(token))


def _pylate_settings(file: Path) -> tuple[MultiVectorConfig, tuple[str, ...]]:
    """The settings of PyLate's ColBERT, and its prefixes, which precede the prompts."""
    config = read_json(file, dict)
    check_keys(config, "ColBERT", file)
    stored = dict(read_prompts(config, file, implied=get_args(Role))[0])
    prefixes = {role: config[key] or "" for role, key in _PREFIXES.items() if key in config}
    for role, prefix in prefixes.items():
        stored[role] = prefix + stored.get(role, "").removeprefix(prefix)
    query_length, expansion = _length(config, "query_length", file), None
    if flag(config, "do_query_expansion", file):
        attended = flag(config, "attend_to_expansion_tokens", file, False)
        query_length, expansion = 0, QueryExpansion(query_length or _EXPANDED_LENGTH, is_attended=attended)
    words = config.get("skiplist_words")
    settings = MultiVectorConfig(
        prompts=tuple(stored.items()),
        query_length=query_length,
        document_length=_length(config, "document_length", file),
        expansion=expansion,
        skipped_words=tuple(string.punctuation) if words is None else _words(words, file),
    )
    return settings, tuple(prefixes.values())


def _with_modules(
    folder: Path, settings: MultiVectorConfig, entries: list[ModuleEntry], weights: bool
) -> tuple[MultiVectorConfig, Params]:
    """The settings with the modules of a folder, and their parameters."""
    modules, params = [], {}
    for kind, path, module_folder in entries:
        if kind not in _SUPPORTED:
            file, names = folder / MODULES_FILE, " or ".join(_SUPPORTED)
            raise ValueError(f"{file} has a module {kind!r} ({path}); only {names} is supported there")
        if settings.pooling is not None:
            raise ValueError(f"{folder / MODULES_FILE} has a module {kind!r} after {_POOLING}, which must be the last")
        if kind == _MASK:
            settings = _with_mask(settings, module_folder / CONFIG_FILE)
        elif kind == _POOLING:
            settings = replace(settings, pooling=_pooling(module_folder / CONFIG_FILE))
        else:
            module, arrays = read_module(kind, module_folder, weights, of_tokens=True)
            if arrays:
                params[str(len(modules))] = arrays
            modules += [] if module is None else [module]
    while modules and modules[-1] == Normalize():
        modules.pop()
        settings = replace(settings, normalize=True)
    return replace(settings, modules=tuple(modules)), params


def _with_mask(settings: MultiVectorConfig, file: Path) -> MultiVectorConfig:
    config = read_json(file, dict)
    check_keys(config, _MASK, file)
    roles = _roles(config.get("skiplist_tasks"), file, "skiplist_tasks")
    return replace(settings, skipped_words=_words(config.get("skiplist_words") or [], file), skipped_roles=roles)


def _pooling(file: Path) -> TokenPooling | None:
    config = read_json(file, dict)
    check_keys(config, _POOLING, file)
    factor, protected = config.get("pool_factor", 1.0), config.get("num_protected_tokens", 1)
    if not isinstance(factor, int | float) or not factor >= 1:
        raise ValueError(f"{file} has pool_factor {factor!r}; a number of at least 1 is needed")
    if not isinstance(protected, int) or protected < 0:
        raise ValueError(f"{file} has num_protected_tokens {protected!r}; an integer of at least 0 is needed")
    normalize = flag(config, "normalize_embeddings", file, False)
    return TokenPooling(float(factor), protected, normalize, _roles(config.get("tasks"), file, "tasks"))


def _roles(value: Any, file: Path, key: str) -> tuple[Role, ...]:
    names = ["document"] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not set(names) <= set(get_args(Role)):
        raise ValueError(f"{file} has {key} {value!r}; only {' and '.join(get_args(Role))} are supported")
    return tuple(role for role in get_args(Role) if role in names)


def _words(value: Any, file: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{file} has skiplist_words {value!r:.80}; a list of tokens is needed")
    return tuple(value)


def _length(config: Mapping[str, Any], key: str, file: Path) -> int:
    return 0 if (value := config.get(key)) is None else positive(value, file, key)


def write(folder: Path, settings: MultiVectorConfig, params: Params, max_length: int) -> None:
    """Write a MultiVectorEncoder, all but its encoder and tokenizer; see `sentence_transformers.write`."""
    if settings.skips_first:
        raise ValueError(
            "sentence-transformers has no MultiVectorEncoder without the vector of [CLS]; keep this format"
        )
    start_folder(folder)
    classes = {"": CLASSES["Transformer"]}

    def add(kind: str) -> Path:
        path = f"{len(classes)}_{kind}"
        classes[path] = CLASSES[kind]
        return folder / path

    for number, module in enumerate(settings.modules):
        kind = type(module).__name__
        if kind not in _SUPPORTED:
            raise ValueError(f"sentence-transformers has no {kind} of tokens; leave it out")
        write_module(module, params.get(str(number), {}), add(kind), of_tokens=True)
    mask = {"skiplist_words": list(settings.skipped_words), "skiplist_tasks": list(settings.skipped_roles)}
    write_json(add(_MASK) / CONFIG_FILE, mask | {"keep_only_token_ids": None})
    if settings.normalize:
        write_module(Normalize(), {}, add("Normalize"), of_tokens=True)
    if pooling := settings.pooling:
        content = {"pool_factor": pooling.factor, "num_protected_tokens": pooling.protected}
        content |= {"normalize_embeddings": pooling.normalize, "tasks": list(pooling.roles)}
        write_json(add(_POOLING) / CONFIG_FILE, content)
    write_json(folder / TRANSFORMER_FILE, _transformer(settings, max_length))
    stored = {
        "model_type": "MultiVectorEncoder",
        "prompts": dict(settings.prompts),
        "default_prompt_name": None,
        "similarity_fn_name": "meanmaxsim" if settings.mean else "maxsim",
    }
    write_json(folder / SETTINGS_FILE, stored)
    write_modules(folder, classes)


def _transformer(settings: MultiVectorConfig, max_length: int) -> dict[str, Any]:
    """The Transformer's settings."""
    content: dict[str, Any] = {"max_seq_length": max_length, "do_lower_case": False}
    lengths = {"query_length": settings.query_length, "document_length": settings.document_length}
    content |= {name: length for name, length in lengths.items() if length}
    if expansion := settings.expansion:
        strategy, token = "fixed" if expansion.truncates else "min", expansion.token or None
        attend = {"attend": expansion.is_attended, "token": token, "length": expansion.length}
        content["query_expansion"] = {"strategy": strategy} | attend
    return content
