"""Folders of sentence-transformers: the encoder, the modules after it, prompts and lengths.

Reimers and Gurevych 2019, arXiv:1908.10084. Supported modules are a Transformer, a Pooling and, after them, Dense,
LayerNorm, Normalize and Dropout; others are refused by name. A Router has such modules for queries, and others for
documents: two towers, which may share some.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from jaxencoder.checkpoints import cross_encoder, multi_vector, sparse
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.cross_encoder import CrossEncoderFolder
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.multi_vector import MultiVectorFolder
from jaxencoder.checkpoints.router import read_routes, write_routes
from jaxencoder.checkpoints.sentence_keys import check_keys, positive
from jaxencoder.checkpoints.sentence_modules import (
    SUPPORTED,
    pooling_modes,
    read_module,
    read_pooling,
    write_module,
    write_pooling,
)
from jaxencoder.checkpoints.sentence_settings import (
    SETTINGS_FILE,
    TRANSFORMER_FILE,
    ModuleEntry,
    model_type,
    read_modules,
    read_prompts,
    start_folder,
    tasks_of,
    text_limits,
    write_modules,
)
from jaxencoder.checkpoints.sparse import SparseFolder
from jaxencoder.checkpoints.transformers import open_transformers
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import Role
from jaxencoder.model.sentence import MODULES, QUERY_TOWER, Normalize, SentenceConfig, Similarity
from jaxencoder.objectives.objective import Params
from jaxencoder.text.messages import listed

log = logging.getLogger(__name__)

_SIZES = ("hidden_size", "max_position_embeddings")


class SentenceFolder(NamedTuple):
    """The contents of a folder, without the encoder."""

    transformer: Path  # folder of the encoder and its tokenizer
    settings: SentenceConfig  # of embeddings
    params: Params  # of the settings' modules, by number; float32 arrays, or ShapeDtypeStructs if read without weights
    hidden_size: int  # the encoder's, as the Pooling has it
    max_length: int  # limit on the tokens of a text; 0: that of the tokenizer or the encoder
    lowercase: bool  # whether texts are lowercased before tokenization
    queries: "SentenceFolder | None" = None  # the tower for queries, if there is one; this one is that for documents


Folder = SentenceFolder | SparseFolder | CrossEncoderFolder | MultiVectorFolder


def read_folder(folder: Path, weights: bool = True) -> Folder:
    """Read a folder with a modules.json, all but its encoder; ValueError for what is not supported or does not fit."""
    kind = model_type(folder)
    if kind in multi_vector.MODEL_TYPES:
        return multi_vector.read(folder, weights)
    if kind == sparse.MODEL_TYPE:
        return sparse.read(folder, weights)
    return cross_encoder.read(folder) if kind == "CrossEncoder" else read(folder, weights)


def assembled(folder: Path, contents: Folder, encoder: Checkpoint) -> Checkpoint:
    """The model of a folder, of its contents and its opened encoder; ValueError if they do not fit together."""
    config = replace(encoder.config, name=folder.name)
    tokenizer = encoder.tokenizer
    if contents.lowercase and tokenizer is not None:
        tokenizer = tokenizer.lowercased()
    encoder = replace(encoder, config=config, tokenizer=tokenizer)
    if isinstance(contents, CrossEncoderFolder):
        return cross_encoder.assembled(folder, contents, encoder)
    if isinstance(contents, MultiVectorFolder):
        return multi_vector.assembled(folder, contents, encoder)
    if isinstance(contents, SparseFolder):
        return sparse.assembled(folder, contents, encoder)
    size = config.model.hidden_size
    if size != contents.hidden_size:
        raise ValueError(f"{folder} pools vectors of size {contents.hidden_size}, but the encoder's have size {size}")
    params = encoder.params | ({MODULES: contents.params} if contents.params else {})
    return replace(encoder, params=params, sentence=contents.settings)


def encoder_folder(folder: Path) -> tuple[Path, bool]:
    """The folder of a published model's encoder, and whether texts are lowercased for it."""
    if not (folder / MODULES_FILE).is_file():
        return folder, False
    contents = read_folder(folder, weights=False)
    return contents.transformer, contents.lowercase


def embedding_settings(folder: Path) -> SentenceConfig:
    """The settings of embeddings in a folder of any published model; the default ones where it has none."""
    if not (folder / MODULES_FILE).is_file():
        return SentenceConfig()
    contents = read_folder(folder, weights=False)
    return contents.settings if isinstance(contents, SentenceFolder | SparseFolder) else SentenceConfig()


def embedding_params(folder: Path) -> Params:
    """Parameters of embeddings, beside the encoder's, in a folder of any published model; empty if there are none.

    They are those of modules after pooling, {"sentence": ...}, or of a sparse model's queries, {QUERY_TABLE: ...}.
    """
    if not (folder / MODULES_FILE).is_file():
        return {}
    contents = read_folder(folder)
    if isinstance(contents, SentenceFolder):
        return {MODULES: contents.params} if contents.params else {}
    return contents.params if isinstance(contents, SparseFolder) else {}


def query_tower(folder: Path, documents: Checkpoint) -> Params:
    """The parameters of a tower for queries in a folder of any published model, {QUERY_TOWER: ...}; empty if none.

    `documents` is the opened encoder of the tower for documents. ValueError if the towers are not alike.
    """
    contents = read_folder(folder) if (folder / MODULES_FILE).is_file() else None
    if not isinstance(contents, SentenceFolder) or (queries := contents.queries) is None:
        return {}
    encoder = documents
    if queries.transformer != contents.transformer:
        encoder = open_transformers(queries.transformer)
        if encoder.config.model != documents.config.model:
            raise ValueError(f"{folder} has another encoder for queries than for documents, which cannot be trained")
        fingerprints = [model.tokenizer and model.tokenizer.fingerprint for model in (encoder, documents)]
        if fingerprints[0] != fingerprints[1] or queries.lowercase != contents.lowercase:
            raise ValueError(f"{folder} has another tokenizer for queries than for documents, which cannot be trained")
    if queries.settings != contents.settings:
        raise ValueError(f"{folder} has other modules after the encoder of queries, which cannot be trained")
    lengths = [part.max_length or x.max_length for part, x in ((queries, encoder), (contents, documents))]
    if lengths[0] != lengths[1]:
        text = "%s reads %d tokens of queries and %d of documents, but a run as many of both; see data.text_length"
        log.warning(text, folder, *lengths)
    modules = {MODULES: queries.params} if queries.params else {}
    return {QUERY_TOWER: {"encoder": encoder.params["encoder"]} | modules}


def read(folder: Path, weights: bool = True) -> SentenceFolder:
    """Read a folder of a SentenceTransformer, all but its encoder; errors as of `read_folder`."""
    file, entries = folder / MODULES_FILE, read_modules(folder, ("Transformer", "Router"))
    settings = _settings(folder / SETTINGS_FILE)
    if entries[0].kind == "Router":
        return _routed(entries, settings, weights)
    return _pooled_by_code(entries, settings) or _contents(file, entries, settings, weights)


def _routed(entries: Sequence[ModuleEntry], settings: SentenceConfig, weights: bool) -> SentenceFolder:
    """The contents of a folder with a Router, which modules for texts of both roles may follow."""
    routes = read_routes(entries[0].folder)
    # Both roles have a prompt, at least an empty one, whose name tells them apart.
    prompts = dict.fromkeys(get_args(Role), "") | dict(settings.prompts)
    settings = replace(settings, prompts=tuple(prompts.items()), default_role=routes.default_role)
    queries, documents = (
        _contents(routes.file, [*route, *entries[1:]], settings, weights) for route in (routes.query, routes.document)
    )
    sizes = [tower.settings.size(tower.hidden_size) for tower in (queries, documents)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"{routes.file} has vectors of size {sizes[0]} for queries, but {sizes[1]} for documents")
    return documents._replace(queries=queries)


def _contents(file: Path, entries: Sequence[ModuleEntry], settings: SentenceConfig, weights: bool) -> SentenceFolder:
    """The contents of a folder of these modules, which `file` lists."""
    transformer, pooling, *entries = _checked(file, entries)
    hidden_size, poolings, include_prompt = read_pooling(pooling.folder)
    settings = replace(settings, pooling=poolings, include_prompt=include_prompt)
    modules, params = [], {}
    for kind, _, module_folder in entries:
        module, arrays = read_module(kind, module_folder, weights)
        assert module is not None  # only modules of tokens are left out
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
    limits = text_limits(transformer.folder, "feature-extraction")
    return SentenceFolder(transformer.folder, settings, params, hidden_size, *limits)


def write(folder: Path, model: Checkpoint) -> list[tuple[Checkpoint, Path]]:
    """Write the files of `read`; return each encoder with the folder in which it and its tokenizer belong.

    They are written afterwards. Their config.json, which is removed here, comes last and completes the folder: an
    interrupted save must not look like a folder of transformers, which would give other vectors. ValueError for
    settings that sentence-transformers does not have.
    """
    towers: dict[Role, Checkpoint] = {} if model.queries is None else {"query": model.queries, "document": model}
    for tower in towers.values() or (model,):
        _check_writable(tower)
    start_folder(folder)
    settings = model.sentence
    stored = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt,
        "similarity_fn_name": settings.similarity,
    }
    write_json(folder / SETTINGS_FILE, stored | ({"truncate_dim": d} if (d := settings.dimensions) else {}))
    if towers:
        return _write_towers(folder, towers, settings.default_role or "document")
    write_modules(folder, _write_contents(folder, model))
    return [(model, folder)]


def _write_towers(folder: Path, towers: Mapping[Role, Checkpoint], default_role: Role) -> list[tuple[Checkpoint, Path]]:
    """Write a Router and all modules of its routes but their encoders, which are returned with their folders."""
    is_shared = towers["query"].params["encoder"] is towers["document"].params["encoder"]
    names: dict[Role, str] = {role: f"{'query' if is_shared else role}_0_Transformer" for role in towers}
    classes: dict[Role, dict[str, str]] = {
        role: _write_contents(folder, tower, names[role], f"{role}_") for role, tower in towers.items()
    }
    write_routes(folder, classes, default_role)
    write_modules(folder, {"": _class_of("Router")})
    return list({names[role]: (tower, folder / names[role]) for role, tower in towers.items()}.values())


def _check_writable(model: Checkpoint) -> None:
    pooling_modes(model.sentence.pooling)
    if model.sentence.renormalize:
        dimensions = model.sentence.dimensions
        problem = f"sentence-transformers stores no normalization after truncation to {dimensions} dimensions"
        raise ValueError(f"{problem}; leave normalize out, and ask for it where texts are embedded")
    model.sentence.size(model.config.model.hidden_size)


def _write_contents(folder: Path, model: Checkpoint, transformer: str = "", prefix: str = "") -> dict[str, str]:
    """Write the files of an encoder's folder and of all modules after it; return their classes by folder.

    Names of the modules' folders begin with `prefix`; that of the encoder is `transformer`.
    """
    settings, params, pooling = model.sentence, model.params.get(MODULES, {}), f"{prefix}1_Pooling"
    paths = {transformer: "Transformer", pooling: "Pooling"}
    write_json(folder / transformer / TRANSFORMER_FILE, {"max_seq_length": model.max_length, "do_lower_case": False})
    modes = pooling_modes(settings.pooling)
    write_pooling(folder / pooling, model.config.model.hidden_size, modes, settings.include_prompt)
    for number, module in enumerate((*settings.modules, *[Normalize()] * settings.normalize)):
        kind = type(module).__name__
        path = f"{prefix}{number + 2}_{kind}"
        paths[path] = kind
        write_module(module, params.get(str(number), {}), folder / path)
    return {path: _class_of(kind) for path, kind in paths.items()}


def _class_of(kind: str) -> str:
    """The older name of a module's class, which all versions read."""
    return f"sentence_transformers.models.{kind}"


def _pooled_by_code(entries: Sequence[ModuleEntry], settings: SentenceConfig) -> SentenceFolder | None:
    """The contents of a folder whose only module is code of its own that pools the last token; None for others."""
    tasks = tasks_of(entries[0].folder)
    if len(entries) > 1 or tasks is None or not tasks.pools_last:
        return None
    file = entries[0].folder / CONFIG_FILE
    settings = replace(settings, pooling=("lasttoken",), normalize=True)
    size, length = (positive(read_json(file, dict).get(name), file, name) for name in _SIZES)
    return SentenceFolder(entries[0].folder, settings, {}, size, length, lowercase=False)


def _checked(file: Path, entries: Sequence[ModuleEntry]) -> Sequence[ModuleEntry]:
    """The entries themselves; ValueError unless they are a Transformer, a Pooling and supported modules after it."""
    if len(entries) < 2 and entries[0].kind == "Transformer":
        kinds = listed(entry.kind for entry in entries)
        advice = f"or, for a cross-encoder, model_type 'CrossEncoder' in {SETTINGS_FILE}"
        raise ValueError(f"{file} has the modules {kinds}; a Transformer and a Pooling are needed, {advice}")
    for number, (kind, path, _) in enumerate(entries):
        supported = (("Transformer",), ("Pooling",), SUPPORTED)[min(number, 2)]
        if kind not in supported:
            raise ValueError(f"{file} has a module {kind!r} ({path}); only {' or '.join(supported)} is supported there")
    return entries


def _settings(file: Path) -> SentenceConfig:
    """The settings in config_sentence_transformers.json, which may be missing."""
    config = read_json(file, dict) if file.is_file() else {}
    check_keys(config, "SentenceTransformer", file)
    # sentence-transformers gives every model a prompt for queries and one for documents, at least empty ones.
    prompts, default_prompt = read_prompts(config, file, implied=("query", "document"))
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in get_args(Similarity):
        note = "%s has similarity_fn_name %r, which is ignored, as in sentence-transformers: cosine compares vectors"
        log.warning(note, file, similarity)
        similarity = "cosine"
    dimensions = config.get("truncate_dim")
    return SentenceConfig(
        prompts=prompts,
        default_prompt=default_prompt,
        similarity=similarity,
        dimensions=None if dimensions is None else positive(dimensions, file, "truncate_dim"),
    )
