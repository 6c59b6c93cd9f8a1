"""Folders as transformers writes them: config.json and weights, to an architecture and parameters and back."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxencoder.families.bert import BERT
from jaxencoder.families.distilbert import DISTILBERT
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.modernbert import MODERNBERT
from jaxencoder.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from jaxencoder.families.tables import Params, from_tensors, renamed, to_tensors
from jaxencoder.families.weights import open_weights, save_weights
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import MlmHead

log = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
# In the order in which `save` tries them.
FAMILIES = (BERT, DISTILBERT, MODERNBERT, ROBERTA, XLM_ROBERTA, CAMEMBERT)
_FIXED = {"is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True, "quantization_config": None}
_SPECIAL_IDS = tuple(f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep"))
_BUFFERS = re.compile(r"(position_ids|token_type_ids|inv_freq)$")


class Checkpoint(NamedTuple):
    """What a folder holds.

    Attributes:
        family: by config.json's model_type.
        config: the architecture.
        params: {"encoder": ..., "mlm_head": ...}, the head where the folder has one; float32.
        left_out: names of the weights that belong to neither, such as a pooler.
    """

    family: Family
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


def load(folder: str | os.PathLike) -> Checkpoint:
    """Read a folder that transformers can read.

    Raises:
        ValueError: a family or a setting that cannot be loaded, a weight that is missing or of another shape.
        OSError: a file is missing or cannot be read.
    """
    settings = read_settings(folder)
    kind = settings.get("model_type")
    family = next((family for family in FAMILIES if family.model_type == kind), None)
    if family is None:
        known = ", ".join(family.model_type for family in FAMILIES)
        raise ValueError(f"{folder} holds a model of type {kind!r}, which cannot be loaded; those that can: {known}")
    config = _config(family, settings, str(folder))
    tensors = open_weights(folder)
    names = renamed(tensors, family.prefix)
    view = {standard: tensors[name] for standard, name in names.items()}
    rows, head = family.encoder(config), family.mlm_head(config)
    has_head = head[0].theirs in view
    params, used = from_tensors(
        [*rows, *head] if has_head else rows, view, parameter_shapes(config, has_head), config, str(folder)
    )
    if family.tied in view and has_head:
        used.add(family.tied)
        if not np.array_equal(view[family.tied], view[rows[0].theirs]):
            raise ValueError(f"{folder}: {family.tied} differs from the token table; such a head cannot be loaded")
        used.add(family.tied.removesuffix("weight") + "bias")
    left_out = tuple(name for name in view if name not in used and not _BUFFERS.search(name))
    if left_out:
        log.warning("%s: %d weights are not used: %s", folder, len(left_out), ", ".join(left_out[:8]))
    return Checkpoint(family, config, params, left_out)


def save(
    folder: str | os.PathLike,
    config: EncoderConfig,
    params: Params,
    special_ids: Mapping[str, int] | None = None,
    family: Family | None = None,
) -> None:
    """Write a folder that transformers can read; config.json, last, makes it whole.

    Args:
        folder: created when missing.
        config: the architecture.
        params: {"encoder": ...} and, if it is there, "mlm_head".
        special_ids: pad_token_id, cls_token_id, ... for config.json.
        family: None takes the first one that can say all of the architecture.

    Raises:
        ValueError: no published family has this architecture.
        OSError: the folder cannot be written.
    """
    family = family or family_of(config)
    has_head = "mlm_head" in params
    rows = [*family.encoder(config), *(family.mlm_head(config) if has_head else ())]
    parts = {name: params[name] for name in ("encoder", "mlm_head") if name in params}
    tensors = to_tensors(rows, parts, config)
    if not has_head:
        tensors = {name.removeprefix(family.prefix): tensor for name, tensor in tensors.items()}
    architecture = family.masked_lm if has_head else family.masked_lm.replace("ForMaskedLM", "Model")
    settings = {"architectures": [architecture], "model_type": family.model_type, "dtype": "float32"}
    # Without a tokenizer nobody knows the special ids, and a family's defaults may lie outside the vocabulary.
    settings |= {"tie_word_embeddings": True} | dict.fromkeys(_SPECIAL_IDS) | family.settings(config)
    settings |= special_ids or {}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(tensors, folder)
    part = folder / f".{CONFIG_FILE}.{os.getpid()}"
    try:
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        os.replace(part, folder / CONFIG_FILE)
    finally:
        part.unlink(missing_ok=True)


def family_of(config: EncoderConfig) -> Family:
    """The first family whose config.json says all of an architecture; ValueError if there is none."""
    for family in FAMILIES:
        try:
            if family.encoder_config(family.settings(config)) == config:
                return family
        except ValueError:
            continue
    raise ValueError(f"no published family has this architecture: {config}")


def parameter_shapes(config: EncoderConfig, mlm_head: bool) -> Params:
    """The shapes of the encoder's parameters and, if asked, of the masked-language-model head's."""
    one, key = jnp.ones((1, 1), jnp.int32), jax.random.key(0)
    shapes = {"encoder": jax.eval_shape(Encoder(config).init, key, one, one, one)["params"]}
    if mlm_head:
        hidden = jax.ShapeDtypeStruct((1, 1, config.hidden_size), jnp.float32)
        shapes["mlm_head"] = jax.eval_shape(MlmHead(config).init, key, hidden)["params"]
    return shapes


def _config(family: Family, settings: Settings, where: str) -> EncoderConfig:
    for name, value in (_FIXED | dict(family.fixed)).items():
        if settings.get(name, value) != value:
            raise ValueError(f"{where} has {name} {settings[name]!r} in its config.json; only {value!r} can be loaded")
    try:
        return family.encoder_config(settings)
    except KeyError as error:
        raise ValueError(f"{where} has no {error.args[0]} in its config.json") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None
