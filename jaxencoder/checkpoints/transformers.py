"""Folders of transformers: config.json, weights and a tokenizer, read into a checkpoint and written."""

import dataclasses
import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint, load_tokenizer
from jaxencoder.checkpoints.heads import class_key, find_heads, has_mlm_head, mlm_rows, output_bias
from jaxencoder.checkpoints.weights import Weights, open_weights, save_weights
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.families.family import Family, Heads, Settings
from jaxencoder.families.published import Published, family_of, parse_settings
from jaxencoder.families.tables import Params, Weight, from_tensors, parameter_shapes, renamed, to_tensors
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import EncoderConfig

log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "merges.txt", "*.model")
_SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep"))
_TOKEN_TABLE = ("encoder/embeddings/token_embedding",)
_BUFFERS = re.compile(r"(position_ids|token_type_ids|inv_freq|embed_positions\.weight)$")


def open_transformers(
    folder: str | os.PathLike,
    weights: bool = True,
    max_length: int = 0,
    extra_heads: Collection[str] = (),
    tokenizer_folder: Path | None = None,
) -> Checkpoint:
    """Open a folder of config.json, weights and perhaps a tokenizer.

    Args:
        weights: read the weights; without, only their names, and `params` are ShapeDtypeStructs. A folder that lacks
            them then has the heads of the class that config.json names.
        max_length: limit on the tokens of a text; 0: the smaller of the tokenizer's model_max_length and the model's
            max_position_embeddings. Learned positions always limit it.
        extra_heads: heads to read if the file has them, though the class that config.json names does not.
        tokenizer_folder: of another tokenizer; None: that of `folder`, if it has one.

    Raises:
        ValueError: an unsupported family or setting, or a weight or tokenizer that does not fit.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIG_FILE, dict)
    family, config = parse_settings(settings, str(folder))
    settings = family.current_settings(settings)
    tensors, named = None, family
    try:
        stored = open_weights(folder)
        named = family.named_as_in(stored, config)
        tensors = _standard_names(stored, named, config, settings)
    except FileNotFoundError:
        if weights:
            raise
    try:
        config = config if tensors is None else family.refine(config, tensors)
        has_head = has_mlm_head(named, config, settings, tensors)
        if has_head and tensors is not None and not _is_tied(named, config, tensors):
            config = dataclasses.replace(config, tied_output=False)
            settings = {**settings, "tie_word_embeddings": False}
        tables, settings = find_heads(family, config, settings, tensors, str(folder), extra_heads)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    heads = {name: table.config for name, table in tables.items()}
    params = parameter_shapes(config, has_head, heads)
    if weights and tensors is not None:
        rows = _rows(named, config, has_head, tables)
        params, used = from_tensors(rows, tensors, params, config, str(folder), tensors.shape)
        used |= {family.tied, output_bias(family)} if has_head else set()
        _warn_unused(folder, family, tensors.keys() - used)
    tokenizer_folder = tokenizer_folder or folder
    tokenizer = load_tokenizer(tokenizer_folder, config.vocab_size) if has_tokenizer(tokenizer_folder) else None
    length = _text_length(config, settings, max_length, tokenizer.max_length if tokenizer else 0)
    run = RunConfig(name=folder.name, model=config, data=DataConfig(row_length=length))
    return Checkpoint(run, params, tokenizer, Published(family, settings, heads))


def _text_length(config: EncoderConfig, settings: Settings, given: int, of_tokenizer: int) -> int:
    """The limit on the tokens of a text, as sentence-transformers has it; 0 for one that is not given."""
    limit = given or of_tokenizer or config.max_length
    # T5, which has biases by distance, has no such setting by itself.
    has_positions = "max_position_embeddings" in settings or not config.relative_bias_buckets
    is_limited = config.positions == "learned" or (has_positions and not given)
    return min(limit, config.max_length) if is_limited else limit


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer."""
    return any(any(folder.glob(name)) for name in _TOKENIZER_FILES)


def _standard_names(weights: Weights, family: Family, config: EncoderConfig, settings: Settings) -> Weights:
    """The weights by the names of the family's tables; of two names of one tensor a file may hold either."""
    head_rows = [row for table in family.heads(config, settings).values() for row in table.weights]
    rows = [*family.encoder(config), *mlm_rows(family, config), *head_rows]
    names = renamed(weights, family.prefix, family.aliases, {row.theirs for row in rows})
    table = next(row.theirs for row in rows if row.ours == _TOKEN_TABLE)
    if config.tied_output and table not in names and family.tied in names:
        names[table] = names[family.tied]
    # The head has its bias under a name of its own, and under that of the output table, which counts.
    for bias in {row.theirs for row in rows if row.ours == ("mlm_head/bias",)} - {output_bias(family)}:
        for name, other in ((bias, output_bias(family)), (output_bias(family), bias)):
            if other in names:
                names[name] = names[other]
    return weights.renamed(names)


def _is_tied(family: Family, config: EncoderConfig, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether config.json ties the output table to the token table, and both are not in the file with other values."""
    table = next(row.theirs for row in family.encoder(config) if row.ours == _TOKEN_TABLE)
    return config.tied_output and (
        not {table, family.tied} <= tensors.keys() or np.array_equal(tensors[table], tensors[family.tied])
    )


def _warn_unused(folder: Path, family: Family, names: Collection[str]) -> None:
    ignored = re.compile(f"{_BUFFERS.pattern}|{family.unused}")
    unused = sorted(name for name in names if not ignored.search(name))
    if unused:
        log.warning("%s: %d weights are not used: %s", folder, len(unused), ", ".join(unused[:8]))


def write_model(
    folder: str | os.PathLike,
    config: EncoderConfig,
    params: Params,
    settings: Settings | None = None,
    published: Published | None = None,
) -> None:
    """Write a folder that transformers can read. config.json comes last, so an interrupted save is not a model.

    Args:
        params: {"encoder": ...} and heads as the family computes them; heads that the family does not have are skipped.
        settings: more of config.json, such as pad_token_id, cls_token_id, id2label.
        published: where the model comes from; None: a family that can hold the architecture.

    Raises:
        ValueError: no published family has this architecture.
    """
    family = published.family if published else family_of(config, params)
    # Without a tokenizer the special ids are unknown, and a family's defaults may lie outside the vocabulary.
    content = dict.fromkeys(_SPECIAL_IDS) | (dict(published.settings) if published else {})
    if content.get("model_type", family.model_type) != family.model_type:
        content.pop("auto_map", None)  # the folder's code is of the other one
    content |= family.settings(config) | dict(settings or {})
    heads = {name: table for name, table in family.heads(config, content).items() if name in params}
    has_head = "mlm_head" in params
    kind = class_key(has_head, heads)
    content |= {"architectures": [family.class_name(kind)], "model_type": family.model_type, "dtype": "float32"}
    parts = {name: params[name] for name in ("encoder", "mlm_head", *heads) if name in params}
    tensors = to_tensors(_rows(family, config, has_head, heads), parts, config) | dict(family.buffers(config))
    if kind == "Model":
        tensors = {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, folder)
    write_json(folder / CONFIG_FILE, content)


def _rows(family: Family, config: EncoderConfig, mlm_head: bool, heads: Heads) -> list[Weight]:
    rows = [*family.encoder(config), *(mlm_rows(family, config) if mlm_head else [])]
    return rows + [row for table in heads.values() for row in table.weights]
