"""Folders of sentence-transformers: the encoder, the modules after it, prompts and lengths.

Reimers and Gurevych 2019, arXiv:1908.10084. Supported modules are a Transformer, a Pooling and, after them, Dense,
LayerNorm, Normalize and Dropout; others are refused by name.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from jaxencoder.checkpoints import cross_encoder, multi_vector, sparse
from jaxencoder.checkpoints.checkpoint import Checkpoint
from jaxencoder.checkpoints.cross_encoder import CrossEncoderFolder
from jaxencoder.checkpoints.kind import MODULES_FILE
from jaxencoder.checkpoints.multi_vector import MultiVectorFolder
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
    model_type,
    read_modules,
    read_prompts,
    start_folder,
    tasks_of,
    text_limits,
    write_modules,
)
from jaxencoder.checkpoints.sparse import SparseFolder
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.files import read_json, write_json
from jaxencoder.model.sentence import Normalize, SentenceConfig, Similarity
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
    params = encoder.params | ({"sentence": contents.params} if contents.params else {})
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
        return {"sentence": contents.params} if contents.params else {}
    return contents.params if isinstance(contents, SparseFolder) else {}


def read(folder: Path, weights: bool = True) -> SentenceFolder:
    """Read a folder of a SentenceTransformer, all but its encoder; errors as of `read_folder`."""
    if pooled := _pooled_by_code(folder):
        return pooled
    transformer, pooling, *entries = _modules(folder)
    hidden_size, poolings, include_prompt = read_pooling(pooling)
    settings = replace(_settings(folder / SETTINGS_FILE), pooling=poolings, include_prompt=include_prompt)
    modules, params = [], {}
    for kind, module_folder in entries:
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
    limits = text_limits(transformer, "feature-extraction")
    return SentenceFolder(transformer, settings, params, hidden_size, *limits)


def write(folder: Path, settings: SentenceConfig, params: Params, hidden_size: int, max_length: int) -> None:
    """Write the files of `read`, modules.json last; ValueError for settings that sentence-transformers does not have.

    The encoder and its tokenizer go into the same folder afterwards. Their config.json, which is removed here, comes
    last and completes the folder: an interrupted save must not look like a folder of transformers, which would give
    other vectors. The arguments are those of `SentenceFolder`.
    """
    modes = pooling_modes(settings.pooling)
    if settings.renormalize:
        problem = f"sentence-transformers stores no normalization after truncation to {settings.dimensions} dimensions"
        raise ValueError(f"{problem}; leave normalize out, and ask for it where texts are embedded")
    settings.size(hidden_size)
    start_folder(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    write_pooling(folder / "1_Pooling", hidden_size, modes, settings.include_prompt)
    for number, module in enumerate((*settings.modules, *[Normalize()] * settings.normalize)):
        kind = type(module).__name__
        path = f"{number + 2}_{kind}"
        kinds[path] = kind
        write_module(module, params.get(str(number), {}), folder / path)
    write_json(folder / TRANSFORMER_FILE, {"max_seq_length": max_length, "do_lower_case": False})
    stored = {
        "model_type": "SentenceTransformer",
        "prompts": dict(settings.prompts),
        "default_prompt_name": settings.default_prompt,
        "similarity_fn_name": settings.similarity,
    }
    write_json(folder / SETTINGS_FILE, stored | ({"truncate_dim": d} if (d := settings.dimensions) else {}))
    # Older names of the classes, which all versions read
    write_modules(folder, {path: f"sentence_transformers.models.{kind}" for path, kind in kinds.items()})


def _pooled_by_code(folder: Path) -> SentenceFolder | None:
    """The contents of a folder whose only module is code of its own that pools the last token; None for others."""
    entries = read_modules(folder)
    tasks = tasks_of(entries[0].folder)
    if len(entries) > 1 or tasks is None or not tasks.pools_last:
        return None
    file = entries[0].folder / CONFIG_FILE
    settings = replace(_settings(folder / SETTINGS_FILE), pooling=("lasttoken",), normalize=True)
    size, length = (positive(read_json(file, dict).get(name), file, name) for name in _SIZES)
    return SentenceFolder(entries[0].folder, settings, {}, size, length, lowercase=False)


def _modules(folder: Path) -> tuple[Path, Path, *tuple[tuple[str, Path], ...]]:
    """The folders of the Transformer and of the Pooling, and the kinds and folders of the modules after them."""
    file, entries = folder / MODULES_FILE, read_modules(folder)
    if len(entries) < 2:
        kinds = listed(entry.kind for entry in entries)
        advice = f"or, for a cross-encoder, model_type 'CrossEncoder' in {SETTINGS_FILE}"
        raise ValueError(f"{file} has the modules {kinds}; a Transformer and a Pooling are needed, {advice}")
    for number, (kind, path, _) in enumerate(entries[1:]):
        supported = SUPPORTED if number else ("Pooling",)
        if kind not in supported:
            raise ValueError(f"{file} has a module {kind!r} ({path}); only {' or '.join(supported)} is supported there")
    modules = ((entry.kind, entry.folder) for entry in entries[2:])
    return entries[0].folder, entries[1].folder, *modules


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
