"""Folders of sentence-transformers' SparseEncoder: a masked language model whose scores become a vector (SPLADE).

Supported are a Transformer and a SpladePooling, alone or as the documents' route of a Router, whose queries have a
table of weights, a SparseStaticEmbedding. Other modules are refused by name.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.router import read_routes, write_routes
from jaxencoder.checkpoints.sentence_keys import check_keys, positive
from jaxencoder.checkpoints.sentence_settings import (
    CLASSES,
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    ModuleEntry,
    read_modules,
    read_prompts,
    start_folder,
    text_limits,
    write_modules,
)
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import Role
from jaxencoder.model.sentence import SentenceConfig
from jaxencoder.model.sparse import QUERY_TABLE, Saturation, SparseConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.text.tokenizers.tokenizer import Tokenizer

MODEL_TYPE = "SparseEncoder"
_TRANSFORMERS, _POOLING, _TABLE = ("Transformer", "MLMTransformer"), "SpladePooling", "SparseStaticEmbedding"
_SATURATIONS: dict[str, Saturation] = {"relu": "log1p", "log1p_relu": "log1p_log1p"}
_ROUTES: dict[Role, tuple[str, ...]] = {"query": (_TABLE,), "document": ("Transformer", _POOLING)}
_UNLIMITED = 1 << 30  # transformers' model_max_length of a tokenizer without a limit is greater


class SparseFolder(NamedTuple):
    """The contents of a folder with a modules.json, without the masked language model."""

    transformer: Path  # folder of the masked language model and its tokenizer
    settings: SentenceConfig
    params: Params  # the queries' table, if there is one
    max_length: int  # limit on the tokens of a text; 0: that of the tokenizer or the encoder
    lowercase: bool  # whether texts are lowercased before tokenization


def read(folder: Path, weights: bool = True) -> SparseFolder:
    """Read a folder of a SparseEncoder, all but its encoder; ValueError for what is not supported."""
    entries = read_modules(folder, (*_TRANSFORMERS, "Router"))
    settings = _settings(folder / SETTINGS_FILE)
    if entries[0].kind != "Router":
        return _with_pooling(folder / MODULES_FILE, settings, entries, {})
    if len(entries) > 1:
        raise ValueError(f"{folder / MODULES_FILE} has a module {entries[1].kind!r} after a Router; none is supported")
    routes = read_routes(entries[0].folder)
    if [entry.kind for entry in routes.query] != [_TABLE]:
        kinds = ", ".join(entry.kind for entry in routes.query)
        raise ValueError(f"{routes.file} has {kinds} for queries; only a {_TABLE} is supported there")
    table = routes.query[0].folder
    sparse, params = _with_table(settings.sparse, table, weights)
    settings = replace(settings, sparse=replace(sparse, default_role=routes.default_role))
    contents = _with_pooling(routes.file, settings, routes.document, params)
    _check_tokenizers(table, contents.transformer)
    return contents


def assembled(folder: Path, contents: SparseFolder, masked_lm: Checkpoint) -> Checkpoint:
    """The model of a folder and its opened masked language model; ValueError if they do not fit together."""
    if "mlm_head" not in masked_lm.params:
        raise ValueError(
            f"{folder} is a {MODEL_TYPE}, but {contents.transformer} has no head of a masked language model"
        )
    weight, size = contents.params.get(QUERY_TABLE, {}).get("weight"), masked_lm.config.model.vocab_size
    if weight is not None and weight.shape != (size,):
        problem = f"{folder} has a weight of shape {list(weight.shape)} for queries"
        raise ValueError(f"{problem}, but the vocabulary has {size} tokens; both must be of one model")
    return replace(masked_lm, params=masked_lm.params | contents.params, sentence=contents.settings)


def write(folder: Path, model: Checkpoint, tokenizer: Tokenizer) -> Path:
    """Write the files of `read`; return the folder in which the masked language model and its tokenizer belong.

    They are written afterwards; their config.json, which is removed here, completes the folder.
    """
    sparse, params = model.sentence.sparse, model.params
    assert sparse is not None  # the caller asks
    if "mlm_head" not in params:
        raise ValueError("the model has no head of a masked language model, which sparse vectors need")
    start_folder(folder)
    pooling = {
        "pooling_strategy": sparse.pooling,
        "activation_function": next(theirs for theirs, ours in _SATURATIONS.items() if ours == sparse.saturation),
        "embedding_dimension": model.config.model.vocab_size,
    }
    if sparse.queries == "table":
        transformer, pooling_folder = (folder / f"document_{i}_{kind}" for i, kind in enumerate(_ROUTES["document"]))
        _write_router(folder, sparse, params[QUERY_TABLE]["weight"], tokenizer)
        kinds = {"": "Router"}
    else:
        transformer, pooling_folder = folder, folder / f"1_{_POOLING}"
        kinds = {"": "Transformer", pooling_folder.name: _POOLING}
    write_json(pooling_folder / CONFIG_FILE, pooling)
    limits = {"transformer_task": "fill-mask", "max_seq_length": model.max_length, "do_lower_case": False}
    write_json(transformer / TRANSFORMER_FILE, limits)
    stored = {
        "model_type": MODEL_TYPE,
        "prompts": dict(model.sentence.prompts),
        "default_prompt_name": model.sentence.default_prompt,
        "similarity_fn_name": model.sentence.similarity,
    }
    write_json(
        folder / SETTINGS_FILE, stored | ({} if sparse.max_active is None else {"max_active_dims": sparse.max_active})
    )
    write_modules(folder, {path: CLASSES[kind] for path, kind in kinds.items()})
    return transformer


def _write_router(folder: Path, sparse: SparseConfig, weight: Any, tokenizer: Tokenizer) -> None:
    """Write the routes and the queries' table with its tokenizer."""
    classes: dict[Role, dict[str, str]] = {
        role: {f"{role}_{i}_{kind}": CLASSES[kind] for i, kind in enumerate(kinds)} for role, kinds in _ROUTES.items()
    }
    write_routes(folder, classes, sparse.default_role)
    table = folder / next(iter(classes["query"]))
    tokenizer.save(table, {"model_max_length": sparse.query_length or int(1e30)})
    write_json(table / CONFIG_FILE, {"frozen": False})
    save_weights({"weight": np.asarray(weight, np.float32)}, table)


def _settings(file: Path) -> SentenceConfig:
    config = read_json(file, dict)
    check_keys(config, MODEL_TYPE, file)
    prompts, default_prompt = read_prompts(config, file, implied=("query", "document"))
    limit = config.get("max_active_dims")
    sparse = SparseConfig(max_active=None if limit is None else positive(limit, file, "max_active_dims"))
    similarity = config.get("similarity_fn_name") or "dot"
    return SentenceConfig(prompts=prompts, default_prompt=default_prompt, similarity=similarity, sparse=sparse)


def _with_pooling(file: Path, settings: SentenceConfig, entries: list[ModuleEntry], params: Params) -> SparseFolder:
    """The contents of a folder of a Transformer and a SpladePooling; `file` lists them."""
    kinds = [entry.kind for entry in entries]
    if len(kinds) != 2 or kinds[0] not in _TRANSFORMERS or kinds[1] != _POOLING:
        unsupported = [entry for entry in entries if entry.kind not in (*_TRANSFORMERS, _POOLING)] or entries
        problem = f"{file} has a module {unsupported[-1].kind!r} ({unsupported[-1].path})"
        raise ValueError(f"{problem}; only a Transformer with a {_POOLING} is supported in a {MODEL_TYPE}")
    transformer, pooling = entries
    config_file = pooling.folder / CONFIG_FILE
    config = read_json(config_file, dict)
    check_keys(config, _POOLING, config_file)
    sparse = replace(
        settings.sparse or SparseConfig(),
        pooling=config.get("pooling_strategy", "max"),
        saturation=_SATURATIONS[config.get("activation_function", "relu")],
    )
    default = "fill-mask" if transformer.kind == "MLMTransformer" else "feature-extraction"
    limits = text_limits(transformer.folder, "fill-mask", default=default)
    return SparseFolder(transformer.folder, replace(settings, sparse=sparse), params, *limits)


def _with_table(sparse: SparseConfig | None, folder: Path, weights: bool) -> tuple[SparseConfig, Params]:
    """The settings with the table of queries in a folder, and its weights."""
    config_file = folder / CONFIG_FILE
    check_keys(read_json(config_file, dict), _TABLE, config_file)
    tensors = open_weights(folder)
    if list(tensors) != ["weight"] or len(tensors.shape("weight")) != 1:
        raise ValueError(f"{folder} has the weights {', '.join(tensors)}; a {_TABLE} has one, weight, of each token")
    shape = tensors.shape("weight")
    weight = np.asarray(tensors["weight"], np.float32) if weights else jax.ShapeDtypeStruct(shape, np.float32)
    limit = Tokenizer.load(folder).max_length
    length = limit if 0 < limit < _UNLIMITED else None
    return replace(sparse or SparseConfig(), queries="table", query_length=length), {QUERY_TABLE: {"weight": weight}}


def _check_tokenizers(queries: Path, documents: Path) -> None:
    if Tokenizer.load(queries).fingerprint != Tokenizer.load(documents).fingerprint:
        raise ValueError(f"{queries} and {documents} have different tokenizers; one vocabulary is supported")
