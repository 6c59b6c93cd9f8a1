"""Folders of transformers: config.json, weights and a tokenizer, read into a checkpoint and written."""

import logging
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxencoder.checkpoints.checkpoint import Checkpoint, load_tokenizer
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.config import DataConfig, RunConfig
from jaxencoder.config_io import CONFIG_FILE
from jaxencoder.families.family import HEADS, Family, Heads, Settings
from jaxencoder.families.published import Published, family_of, parse_settings
from jaxencoder.families.tables import Params, Weight, from_tensors, parameter_shapes, renamed, to_tensors
from jaxencoder.files import read_json, write_json
from jaxencoder.model.config import EncoderConfig

log = logging.getLogger(__name__)

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "merges.txt", "*.model")
_SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep"))
_BUFFERS = re.compile(r"(position_ids|token_type_ids|inv_freq|embed_positions\.weight)$")


def open_transformers(
    folder: str | os.PathLike, weights: bool = True, max_length: int = 0, extra_heads: Collection[str] = ()
) -> Checkpoint:
    """Open a folder of config.json, weights and perhaps a tokenizer.

    Args:
        weights: read the weights; without, only their names, and `params` are ShapeDtypeStructs. A folder that lacks
            them then has the heads of the class that config.json names.
        max_length: limit on the tokens of a text; 0: the model's own.
        extra_heads: heads to read if the file has them, though the class that config.json names does not.

    Raises:
        ValueError: an unsupported family or setting, or a weight or tokenizer that does not fit.
    """
    folder = Path(folder)
    settings = read_json(folder / CONFIG_FILE, dict)
    family, config = parse_settings(settings, str(folder))
    tensors: Mapping[str, Any] | None = None
    try:
        tensors = open_weights(folder)
        tensors = tensors.renamed(renamed(tensors, family.prefix, family.aliases))
        config = family.refine(config, tensors)
    except FileNotFoundError:
        if weights:
            raise
    # The keys of HEADS whose classes config.json names, or None if it names none of the family's classes.
    keys = {key for key in HEADS if family.class_name(key) in (settings.get("architectures") or ())} or None
    tables = family.heads(config, settings)
    has_mlm_head = _has_mlm_head(family, config, "rtd_head" in tables, keys, tensors)
    tables = _heads(tables, keys, tensors, folder, extra_heads)
    heads = {name: table.config for name, table in tables.items()}
    params = parameter_shapes(config, has_mlm_head, heads)
    if weights and tensors is not None:
        rows = _rows(family, config, has_mlm_head, tables)
        params = _read_params(folder, family, config, rows, tensors, params)
    data = DataConfig(row_length=min(max_length or config.max_length, config.max_length))
    run = RunConfig(name=folder.name, model=config, data=data)
    has_tokenizer = any(any(folder.glob(name)) for name in _TOKENIZER_FILES)
    tokenizer = load_tokenizer(folder, config.vocab_size) if has_tokenizer else None
    return Checkpoint(run, params, tokenizer, Published(family, settings, heads))


def _read_params(
    folder: Path, family: Family, config: EncoderConfig, rows: list[Weight], tensors: Mapping[str, Any], shapes: Params
) -> Params:
    """The parameters of the rows; warns of tensors that are not used."""
    has_mlm_head = "mlm_head" in shapes
    if has_mlm_head and not config.tied_output:
        # The bias has two names, and files that hold equal tensors only once leave one of them out.
        biases = {row.theirs for row in rows if row.ours == ("mlm_head/bias",)}
        if biases & tensors.keys():
            rows = [row for row in rows if row.theirs not in biases or row.theirs in tensors]
    params, used = from_tensors(rows, tensors, shapes, config, str(folder))
    if has_mlm_head:
        used.add(_output_bias(family))  # with a tied table, the same numbers as the head's bias
        if config.tied_output and family.tied in tensors:
            used.add(family.tied)
            if not np.array_equal(tensors[family.tied], params["encoder"]["embeddings"]["token_embedding"]):
                differing = f"{family.tied} differs from the token table"
                raise ValueError(f"{folder}: {differing}, but config.json has tie_word_embeddings true")
    ignored = re.compile(f"{_BUFFERS.pattern}|{family.unused}")
    unused = tuple(name for name in tensors if name not in used and not ignored.search(name))
    if unused:
        log.warning("%s: %d weights are not used: %s", folder, len(unused), ", ".join(unused[:8]))
    return params


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
    content |= family.settings(config) | dict(settings or {})
    heads = {name: table for name, table in family.heads(config, content).items() if name in params}
    has_mlm_head = "mlm_head" in params
    class_key = _class_key(has_mlm_head, heads)
    content |= {"architectures": [family.class_name(class_key)], "model_type": family.model_type, "dtype": "float32"}
    parts = {name: params[name] for name in ("encoder", "mlm_head", *heads) if name in params}
    tensors = to_tensors(_rows(family, config, has_mlm_head, heads), parts, config) | dict(family.buffers(config))
    if class_key == "Model":
        tensors = {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, folder)
    write_json(folder / CONFIG_FILE, content)


def _output_bias(family: Family) -> str:
    """The name of the output table's bias."""
    return family.tied.removesuffix("weight") + "bias"


def _rows(family: Family, config: EncoderConfig, mlm_head: bool, heads: Heads) -> list[Weight]:
    rows = list(family.encoder(config))
    if mlm_head:
        head = family.mlm_head(config)
        if not config.tied_output:
            # The table's bias counts; the head's is written only because transformers looks for it.
            head += [row._replace(theirs=_output_bias(family)) for row in head if row.ours == ("mlm_head/bias",)]
            head.append(Weight(("mlm_head/table",), family.tied))
        rows += head
    return rows + [row for table in heads.values() for row in table.weights]


def _has_mlm_head(
    family: Family, config: EncoderConfig, has_detector: bool, keys: set[str] | None, tensors: Collection[str] | None
) -> bool:
    if tensors is None:
        # In ELECTRA and DeBERTa, ForPreTraining detects replaced tokens and lacks the generator's head.
        return bool(keys and keys & ({"ForMaskedLM"} if has_detector else {"ForMaskedLM", "ForPreTraining"}))
    if keys is not None and not keys & {"ForMaskedLM", "ForPreTraining"}:
        return False
    rows = _rows(family, config, True, {})[len(family.encoder(config)) :]
    names = [row.theirs for row in rows] or [family.tied]
    # transformers leaves a tied table out of its files: a head of nothing else exists if its class is named.
    return any(name in tensors for name in names) or (not rows and keys is not None and "ForMaskedLM" in keys)


def _heads(
    tables: Heads, keys: set[str] | None, tensors: Collection[str] | None, folder: Path, extra: Collection[str]
) -> Heads:
    """The heads of the named classes and those in `extra` that the file has; without a file, those of the classes."""
    if keys is None:
        keys = {"ForPreTraining"} if tensors is not None else set()
    expected = {name for key in keys for name in HEADS[key]}
    needs_pooler = any(table.config.inputs == "pooled" for name, table in tables.items() if name in expected)
    heads = {}
    for name, table in tables.items():
        if name not in expected and name not in extra:
            continue
        if tensors is None or any(row.theirs in tensors for row in table.weights):
            heads[name] = table
        elif name in expected and (name != "pooler" or needs_pooler):
            log.warning("%s has no weights of its %s, which is left out", folder, name.replace("_", " "))
    if "pooler" not in heads:
        return {name: table for name, table in heads.items() if table.config.inputs != "pooled"}
    return {"pooler": heads["pooler"], **heads}  # first: other heads use its output


def _class_key(mlm_head: bool, heads: Heads) -> str:
    """The key of HEADS for a model with these heads."""
    if mlm_head:
        return "ForPreTraining" if heads.keys() & {"nsp_head", "rtd_head"} else "ForMaskedLM"
    task_head = next((name for name in heads if name.endswith("_head") and name != "nsp_head"), None)
    if task_head is None:
        return "ForNextSentencePrediction" if "nsp_head" in heads else "Model"
    return next(key for key, names in reversed(HEADS.items()) if task_head in names)
