"""Folders of sentence-transformers: which pooling, normalisation and length make a checkpoint's vectors.

Reimers and Gurevych 2019, arXiv:1908.10084.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

MODULES_FILE = "modules.json"
# Its names of poolings -> ours.
_POOLINGS = {"cls": "cls", "mean": "mean", "max": "max"}
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class SentenceSettings(NamedTuple):
    """How a folder's vectors are made: the folder of the encoder, and what comes after it."""

    transformer: Path
    pooling: str
    normalize: bool
    max_length: int  # tokens; 0: as many as the encoder reads


def read(folder: Path) -> SentenceSettings:
    """The settings of a folder with a modules.json.

    Raises:
        ValueError: a module or a pooling that cannot be loaded, by name, or a file that is not JSON.
        OSError: a file is missing or cannot be read.
    """
    modules = _json(folder / MODULES_FILE, list)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    for kind, accepted in zip(kinds, ("Transformer", "Pooling", "Normalize"), strict=False):
        if kind != accepted:
            raise ValueError(f"{folder / MODULES_FILE} has a module {kind!r} where only {accepted} can be loaded")
    if len(kinds) not in (2, 3):
        raise ValueError(f"{folder / MODULES_FILE} has the modules {', '.join(kinds)}; two or three can be loaded")
    transformer = folder / modules[0].get("path", "")
    file = transformer / "sentence_bert_config.json"
    length = (_json(file, dict).get("max_seq_length") or 0) if file.is_file() else 0
    pooling = _pooling(folder / modules[1].get("path", "1_Pooling") / "config.json")
    return SentenceSettings(transformer, pooling, len(kinds) == 3, length)


def _pooling(file: Path) -> str:
    settings = _json(file, dict)
    modes = settings.get("pooling_mode")
    names = [modes] if isinstance(modes, str) else list(modes or (_FLAGS[k] for k in _FLAGS if settings.get(k)))
    if len(names) != 1 or names[0] not in _POOLINGS:
        raise ValueError(
            f"{file} pools by {' and '.join(names) or 'nothing'}; one of {', '.join(_POOLINGS)} can be used"
        )
    if not settings.get("include_prompt", True):
        raise ValueError(f"{file} leaves prompts out of the pooling, which cannot be done yet")
    return _POOLINGS[names[0]]


def _json(file: Path, kind: type) -> Any:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON in UTF-8: {error}") from None
    if not isinstance(content, kind):
        raise ValueError(f"{file} holds no JSON {'list' if kind is list else 'object'}; check the file")
    return content
