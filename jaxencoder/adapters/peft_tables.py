"""Low-rank adapters of embedding tables in PEFT's format: A is [rank, V], B is [D, rank]."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.adapters.peft_settings import PeftSettings
from jaxencoder.families.tables import Weight
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import flatten, is_table

_A, _B = "lora_embedding_A", "lora_embedding_B"
_TOKENS = "encoder/embeddings/token_embedding"


def table_modules(rows: Sequence[Weight]) -> Iterator[tuple[str, str]]:
    """The embedding tables that can have an adapter: name of the module, and path of the parameter."""
    for row in rows:
        if len(row.ours) == 1 and is_table(row.ours[0]) and not row.skip:
            yield row.theirs.removesuffix(".weight"), row.ours[0]


def write_table(name: str, adapter: Params) -> dict[str, np.ndarray]:
    """The tensors of the adapter of a table."""
    return {f"{name}.{end}": np.asarray(adapter[part]).T for end, part in ((_A, "a"), (_B, "b"))}


def read_tables(
    rows: Sequence[Weight],
    tensors: Mapping[str, np.ndarray],
    peft: PeftSettings,
    base: Params,
    config: EncoderConfig,
    names: Mapping[str, str],
) -> tuple[dict[str, Params], set[str]]:
    """The adapters of tables by path, and the names of the tensors that were read; arguments as of `from_peft`."""
    adapters, used, tables = {}, set(), flatten(base)
    for name, path in table_modules(rows):
        first, second = f"{name}.{_A}", f"{name}.{_B}"
        if first not in tensors:
            continue
        module = names.get(first, first).removesuffix(f".{_A}")
        peft.check(module, tensors[first].shape)
        if second not in tensors:
            raise ValueError(f"{peft.source} has no {second}; the adapter is incomplete")
        if path == _TOKENS and "mlm_head" in base and config.tied_output:
            advice = "which PEFT would leave as it is; set tie_word_embeddings to false in the base's config.json"
            raise ValueError(f"{peft.source} adapts {module}, the output table of the base too, {advice}")
        if peft.lora.dora:
            raise ValueError(f"{peft.source} has use_dora true and adapts {module}; DoRA of tables cannot be loaded")
        adapters[path] = _read(tables[path].shape, tensors[first], tensors[second], peft, module)
        used |= {first, second}
    return adapters, used


def _read(shape: tuple[int, ...], a: np.ndarray, b: np.ndarray, peft: PeftSettings, module: str) -> Params:
    rank, (rows, size) = len(a) if a.ndim else 0, shape
    if not rank or (a.shape, b.shape) != ((rank, rows), (size, rank)):
        shapes, expected = f"{list(a.shape)} and {list(b.shape)}", f"[rank, {rows}] and [{size}, rank]"
        raise ValueError(f"{peft.source} has adapters of the shapes {shapes} for {module}; {expected} are needed")
    lora: LoraConfig = peft.lora
    scale = peft.alpha(module) / (math.sqrt(rank) if lora.rank_stabilized else rank) / lora.scale
    return {"a": np.ascontiguousarray(a.T, np.float32), "b": np.ascontiguousarray(scale * b.T.astype(np.float32))}
