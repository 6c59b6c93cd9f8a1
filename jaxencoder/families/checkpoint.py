"""Folders as transformers writes them: config.json and weights, to an architecture and parameters and back."""

import dataclasses
import json
import logging
import os
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.checkpoints.json_files import write_json
from jaxencoder.checkpoints.weights import open_weights, save_weights
from jaxencoder.families.albert import ALBERT
from jaxencoder.families.bert import BERT
from jaxencoder.families.deberta import DEBERTA
from jaxencoder.families.deberta_v2 import DEBERTA_V2
from jaxencoder.families.distilbert import DISTILBERT
from jaxencoder.families.electra import ELECTRA
from jaxencoder.families.eurobert import EUROBERT
from jaxencoder.families.family import HEADS, Family, Heads, Settings
from jaxencoder.families.longformer import LONGFORMER
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.mpnet import MPNET
from jaxencoder.families.neobert import NEOBERT
from jaxencoder.families.nomic_bert import NOMIC_BERT
from jaxencoder.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from jaxencoder.families.roformer import ROFORMER
from jaxencoder.families.tables import Params, Weight, from_tensors, renamed, to_tensors
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Head, HeadConfig, MlmHead

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
# In the order in which `save` tries them.
FAMILIES = (
    BERT,
    DISTILBERT,
    MODERNBERT,
    ROBERTA,
    XLM_ROBERTA,
    CAMEMBERT,
    ELECTRA,
    ALBERT,
    MPNET,
    NOMIC_BERT,
    EUROBERT,
    ROFORMER,
    DEBERTA,
    DEBERTA_V2,
    NEOBERT,
    LONGFORMER,
)
_FIXED = {"is_decoder": False, "add_cross_attention": False, "quantization_config": None}
_TIED = "tie_word_embeddings"
_SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep"))
_BUFFERS = re.compile(r"(position_ids|token_type_ids|inv_freq|embed_positions\.weight)$")


class Published(NamedTuple):
    """Where a model comes from, and what of that its architecture does not say.

    Attributes:
        family: by config.json's model_type.
        settings: all of config.json.
        heads: those that it has besides the masked-language-model head, by their names among the parameters.
    """

    family: Family
    settings: Settings
    heads: Mapping[str, HeadConfig]


class Checkpoint(NamedTuple):
    """What a folder holds.

    Attributes:
        published: family, config.json and heads.
        config: the architecture.
        params: {"encoder": ..., "mlm_head": ..., ...}, the heads that the folder has; float32.
        left_out: names of the weights that nothing here uses.
    """

    published: Published
    config: EncoderConfig
    params: Params
    left_out: tuple[str, ...]


def read_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """A folder's config.json; ValueError if it is no JSON object, FileNotFoundError if there is none."""
    path = Path(folder) / CONFIG_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {CONFIG_FILE}; give the folder of a model") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON in UTF-8: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds no JSON object; check the file")
    return settings


class Outline(NamedTuple):
    """What `load` would find in a folder, without its weights.

    Attributes:
        published, config: as in Checkpoint.
        shapes: of the parameters.
        weights: whether the folder has them: if not, its heads are those of the class that config.json names.
    """

    published: Published
    config: EncoderConfig
    shapes: Params
    weights: bool


def outline(folder: str | os.PathLike) -> Outline:
    """Read a folder's settings and, where it has weights, their names.

    Raises:
        ValueError, OSError: as `load`, but for what only the weights can tell.
    """
    family, settings, config = _settings(folder)
    try:
        names = set(renamed(open_weights(folder), family.prefix, family.aliases))
    except FileNotFoundError:
        names = None
    has_mlm_head = _has_mlm_head(family, config, settings, names)
    tables = _heads(family, config, settings, names, str(folder))
    heads = {name: table.config for name, table in tables.items()}
    shapes = parameter_shapes(config, has_mlm_head, heads)
    return Outline(Published(family, settings, heads), config, shapes, names is not None)


def _settings(folder: str | os.PathLike) -> tuple[Family, Settings, EncoderConfig]:
    settings = read_settings(folder)
    kind = settings.get("model_type")
    family = next((family for family in FAMILIES if family.model_type == kind), None)
    if family is None:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ValueError(f"{folder} holds a model of type {kind!r}, which cannot be loaded; those that can: {known}")
    return family, settings, _config(family, settings, str(folder))


def load(folder: str | os.PathLike, also: Collection[str] = ()) -> Checkpoint:
    """Read a folder that transformers can read.

    Args:
        folder: with config.json and weights.
        also: heads that are read wherever the file has them, though the class that config.json names does not.

    Raises:
        ValueError: a family or a setting that cannot be loaded, a weight that is missing or of another shape.
        OSError: a file is missing or cannot be read.
    """
    family, settings, config = _settings(folder)
    tensors = open_weights(folder)
    names = renamed(tensors, family.prefix, family.aliases)
    view = {standard: tensors[name] for standard, name in names.items()}
    has_mlm_head = _has_mlm_head(family, config, settings, view)
    heads = _heads(family, config, settings, view, str(folder), also)
    rows = _rows(family, config, has_mlm_head, heads)
    if has_mlm_head and not config.tied_output:
        biases = {row.theirs for row in rows if row.ours == ("mlm_head/bias",)}
        if biases & view.keys():  # files that hold equal tensors once leave one of them out
            rows = [row for row in rows if row.theirs not in biases or row.theirs in view]
    shapes = parameter_shapes(config, has_mlm_head, {name: table.config for name, table in heads.items()})
    params, used = from_tensors(rows, view, shapes, config, str(folder))
    if family.tied in view and has_mlm_head and config.tied_output:
        used.add(family.tied)
        if not np.array_equal(view[family.tied], params["encoder"]["embeddings"]["token_embedding"]):
            raise ValueError(
                f"{folder}: {family.tied} differs from the token table, but config.json ties them ({_TIED})"
            )
    if has_mlm_head:
        used.add(_own_bias(family))  # where the table is tied, the same numbers as the head's
    left_out = tuple(name for name in view if name not in used and not _BUFFERS.search(name))
    if left_out:
        log.warning("%s: %d weights are not used: %s", folder, len(left_out), ", ".join(left_out[:8]))
    published = Published(family, settings, {name: table.config for name, table in heads.items()})
    return Checkpoint(published, config, params, left_out)


def save(
    folder: str | os.PathLike,
    config: EncoderConfig,
    params: Params,
    more: Settings | None = None,
    published: Published | None = None,
) -> None:
    """Write a folder that transformers can read; config.json, last, makes it whole.

    Args:
        folder: created when missing.
        config: the architecture.
        params: {"encoder": ...} and the heads that are there, as the family computes them; one that it does not know is
            left out.
        more: of config.json, such as pad_token_id, cls_token_id, id2label.
        published: where the model comes from; None takes a family that can say all of the architecture.

    Raises:
        ValueError: no published family has this architecture.
        OSError: the folder cannot be written.
    """
    check_publishable(config)
    family = published.family if published else family_of(config, params)
    # Without a tokenizer nobody knows the special ids, and a family's defaults may lie outside the vocabulary.
    settings = dict.fromkeys(_SPECIAL_IDS) | (dict(published.settings) if published else {})
    settings |= {_TIED: config.tied_output} | family.settings(config) | dict(more or {})
    known = family.heads(config, settings)
    heads = {name: table for name, table in known.items() if name in params}
    has_mlm_head = "mlm_head" in params
    kind = _kind(has_mlm_head, heads)
    settings |= {"architectures": [family.class_name(kind)], "model_type": family.model_type, "dtype": "float32"}
    rows = _rows(family, config, has_mlm_head, heads)
    parts = {name: params[name] for name in ("encoder", "mlm_head", *heads) if name in params}
    tensors = to_tensors(rows, parts, config)
    if kind == "Model":
        tensors = {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, folder)
    write_json(folder / CONFIG_FILE, settings)


def check_publishable(config: EncoderConfig) -> None:
    """ValueError for what no published family can hold, whatever the rest of the architecture."""
    if config.bottleneck:
        raise ValueError(
            f"model.bottleneck is {config.bottleneck}, and no published family has bottleneck adapters; such a model "
            "can be written as a run, or its adapters alone"
        )


def family_of(config: EncoderConfig, parts: Iterable[str] = ()) -> Family:
    """The first family whose config.json says all of an architecture, and that has most of these heads.

    Args:
        parts: names among the parameters; those that are no head's do not matter.

    Raises:
        ValueError: no family can say it.
    """
    best: tuple[int, Family] | None = None
    for family in FAMILIES:
        if not can_say(family, config):
            continue
        known = len(family.heads(config, family.settings(config)).keys() & set(parts))
        if best is None or known > best[0]:
            best = known, family
    if best is None:
        raise ValueError(f"no published family has this architecture: {config}")
    return best[1]


def can_say(family: Family, config: EncoderConfig) -> bool:
    """Whether a family's config.json can say all of an architecture."""
    try:
        return _architecture_of(family, {_TIED: config.tied_output} | family.settings(config)) == config
    except ValueError:
        return False


def parameter_shapes(config: EncoderConfig, mlm_head: bool, heads: Mapping[str, HeadConfig] | None = None) -> Params:
    """The shapes of the parameters of the encoder and, if asked, of the masked-language-model head and of others."""
    key = jax.random.key(0)
    hidden = jax.ShapeDtypeStruct((1, 1, config.hidden_size), jnp.float32)
    shapes = {"encoder": _encoder_shapes(config)}
    if mlm_head:
        shapes["mlm_head"] = jax.eval_shape(MlmHead(config).init, key, hidden).get("params", {})
    for name, head in (heads or {}).items():
        shapes[name] = jax.eval_shape(Head(config, head).init, key, hidden)["params"]
    return shapes


@cache
def _encoder_shapes(config: EncoderConfig) -> Params:
    one = jnp.ones((1, 1), jnp.int32)
    return jax.eval_shape(Encoder(config).init, jax.random.key(0), one, one, one)["params"]


def _own_bias(family: Family) -> str:
    """The name of the output table's bias."""
    return family.tied.removesuffix("weight") + "bias"


def _rows(family: Family, config: EncoderConfig, mlm_head: bool, heads: Heads) -> list[Weight]:
    rows = list(family.encoder(config))
    if mlm_head:
        head = family.mlm_head(config)
        if not config.tied_output:
            # The table's own bias counts, and the head's is written only because transformers looks for it.
            head += [row._replace(theirs=_own_bias(family)) for row in head if row.ours == ("mlm_head/bias",)]
            head.append(Weight(family.tied, ("mlm_head/table",)))
        rows += head
    return rows + [row for table in heads.values() for row in table.weights]


def _has_mlm_head(family: Family, config: EncoderConfig, settings: Settings, tensors: Collection[str] | None) -> bool:
    kinds = _kinds(family, settings)
    if tensors is None:  # one that tells replaced tokens leaves its generator's head out
        names = {"ForMaskedLM"} if "rtd_head" in family.heads(config, settings) else {"ForMaskedLM", "ForPreTraining"}
        return bool(kinds and kinds & names)
    if kinds is not None and not kinds & {"ForMaskedLM", "ForPreTraining"}:
        return False
    rows = _rows(family, config, True, {})[len(family.encoder(config)) :]
    names = [row.theirs for row in rows] or [family.tied]
    # transformers leaves a tied table out of its files: a head of nothing else is there when its class is named.
    return any(name in tensors for name in names) or (not rows and kinds is not None and "ForMaskedLM" in kinds)


def _heads(
    family: Family,
    config: EncoderConfig,
    settings: Settings,
    tensors: Collection[str] | None,
    where: str,
    also: Collection[str] = (),
) -> Heads:
    """The heads that config.json's architecture has, as far as the file, if there is one, holds a weight of them."""
    kinds, known = _kinds(family, settings), family.heads(config, settings)
    if kinds is None:
        kinds = {"ForPreTraining"} if tensors is not None else set()
    wanted = {name for kind in kinds for name in HEADS[kind]}
    heads = {}
    for name, table in known.items():
        if name not in wanted and name not in also:
            continue
        if tensors is None or any(row.theirs in tensors for row in table.weights):
            heads[name] = table
        elif name in wanted and (name != "pooler" or _uses_pooler(known, wanted)):
            log.warning("%s has no weights of its %s, which is left out", where, name.replace("_", " "))
    if "pooler" not in heads:
        return {name: table for name, table in heads.items() if table.config.inputs != "pooled"}
    return {"pooler": heads["pooler"], **heads}  # first: others use what it gives


def _uses_pooler(heads: Heads, names: Collection[str]) -> bool:
    return any(table.config.inputs == "pooled" for name, table in heads.items() if name in names)


def _kinds(family: Family, settings: Settings) -> set[str] | None:
    """The keys of HEADS whose classes config.json names, or None if it names none of the family's."""
    names = settings.get("architectures") or ()
    return {kind for kind in HEADS if family.class_name(kind) in names} or None


def _kind(mlm_head: bool, heads: Heads) -> str:
    """The key of HEADS that has just these heads (and perhaps more)."""
    own = next((name for name in heads if name.endswith("_head") and name != "nsp_head"), None)
    if mlm_head:
        return "ForPreTraining" if heads.keys() & {"nsp_head", "rtd_head"} else "ForMaskedLM"
    if own is None:
        return "ForNextSentencePrediction" if "nsp_head" in heads else "Model"
    return next(kind for kind, names in reversed(HEADS.items()) if own in names)


def _architecture_of(family: Family, settings: Settings) -> EncoderConfig:
    config = family.encoder_config(settings)
    return dataclasses.replace(config, tied_output=settings.get(_TIED, config.tied_output))


def _config(family: Family, settings: Settings, where: str) -> EncoderConfig:
    for name, value in (_FIXED | dict(family.fixed)).items():
        if settings.get(name, value) != value:
            raise ValueError(f"{where} has {name} {settings[name]!r} in its config.json; only {value!r} can be loaded")
    try:
        config = _architecture_of(family, settings)
        family.heads(config, settings)
        return config
    except KeyError as error:
        raise ValueError(f"{where} has no {error.args[0]} in its config.json") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
