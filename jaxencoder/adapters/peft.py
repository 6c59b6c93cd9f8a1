"""Low-rank adapters in the format of PEFT (https://github.com/huggingface/peft): its names and settings, both ways.

A torch matrix that holds several kernels, such as Wqkv, has one adapter there and may have several here. When written,
their matrices are concatenated along the rank, so that the rank is the sum of theirs; when read, each kernel gets the
complete "a".
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.adapters.lora import LoraConfig, by_kernel
from jaxencoder.adapters.peft_settings import read_settings
from jaxencoder.adapters.peft_tables import read_tables, table_modules, write_table
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.published import Published
from jaxencoder.families.tables import Slot, Weight, read_tensor, tensors_of, write_tensor
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import flatten, is_table, kernel_axes, set_path
from jaxencoder.text.messages import listed

PREFIX = "base_model.model."  # of every name
_A, _B, _SIZE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


class _Module(NamedTuple):
    """A torch matrix and the kernels that it concatenates."""

    name: str  # without ".weight"
    weight: Weight
    slots: list[Slot]
    kernels: list[np.ndarray]
    inputs: tuple[int, ...]  # shape of the kernels' common inputs
    outputs: list[tuple[int, ...]]  # shape of each one's outputs


def to_peft(
    lora: LoraConfig,
    adapter: Params,
    base: Params,
    family: Family,
    config: EncoderConfig,
    heads: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapter's tensors by PEFT's names, without PREFIX, and their settings.

    Args:
        lora, adapter: settings and parameters as of `init_lora`, {"encoder": ...}.
        base: the adapted parameters.
        family, config: of the base. Names of modules begin with the family's prefix.
        heads: the family's heads that may have adapters too.

    Raises:
        ValueError: an adapted kernel is in no torch matrix of the family's encoder.
    """
    adapters = by_kernel(adapter)
    head_tables = family.heads(config, family.settings(config))
    rows = [*family.encoder(config), *(row for name in heads for row in head_tables[name].weights)]
    modules = _modules(rows, base, config)
    modules = [module for module in modules if any(path in adapters for path, _ in module.slots)]
    tables = {path: name for name, path in table_modules(rows) if path in adapters}
    supported = {path for module in modules for path, _ in module.slots} | tables.keys()
    if unsupported := sorted(adapters.keys() - supported):
        raise ValueError(f"{unsupported[0]} has an adapter, but PEFT's format holds only projections of the encoder")
    tensors, ranks = {}, {}
    for module in modules:
        parts = [
            {name: np.asarray(x)[row] for name, x in adapters[path].items()} if path in adapters else None
            for path, row in module.slots
        ]
        tensors |= _write(module, parts, lora.dora, config)
        ranks[module.name.removeprefix(family.prefix)] = sum(part["a"].shape[-1] for part in parts if part)
    for path, name in tables.items():
        tensors |= write_table(name, adapters[path])
        ranks[name.removeprefix(family.prefix)] = adapters[path]["a"].shape[-1]
    rank = Counter(ranks.values()).most_common(1)[0][0]
    rank_pattern = {name: total for name, total in ranks.items() if total != rank}
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _alpha(lora, rank),
        "rank_pattern": rank_pattern,
        "alpha_pattern": {name: _alpha(lora, total) for name, total in rank_pattern.items()},
        "use_rslora": lora.rank_stabilized,
        "use_dora": lora.dora,
        "target_modules": _target_modules(set(ranks), rows, family, config),
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return tensors, settings


def _write(module: _Module, parts: list[Params | None], dora: bool, config: EncoderConfig) -> dict[str, np.ndarray]:
    """The tensors of a module; `parts` is the adapter of each kernel or None."""
    rank = sum(part["a"].shape[-1] for part in parts if part)
    a = np.concatenate([part["a"] for part in parts if part], -1).reshape(*module.inputs, rank)
    b, used = [np.zeros((rank, math.prod(shape)), np.float32) for shape in module.outputs], 0
    for block, part in zip(b, parts, strict=True):
        if part:
            block[used : used + len(part["b"])] = part["b"]
            used += len(part["b"])
    b = [block.reshape(rank, *shape) for block, shape in zip(b, module.outputs, strict=True)]
    rows_a, rows_b, rows_size = _rows(module.weight)
    tensors = {_A: write_tensor([a], rows_a, config), _B: write_tensor(b, rows_b, config)}
    if dora:
        sizes = [
            _norms(value, shape) + (part["size"].reshape(shape) if part else 0)
            for value, shape, part in zip(module.kernels, module.outputs, parts, strict=True)
        ]
        tensors[_SIZE] = write_tensor(sizes, rows_size, config)
    return {f"{module.name}.{name}": tensor for name, tensor in tensors.items()}


def from_peft(
    tensors: Mapping[str, np.ndarray],
    settings: Settings,
    base: Params,
    published: Published,
    config: EncoderConfig,
    source: str,
    names: Mapping[str, str] | None = None,
) -> tuple[LoraConfig, Params, set[str]]:
    """Read an adapter from PEFT's tensors and adapter_config.json.

    Args:
        tensors: by the names of `to_peft`.
        settings: content of adapter_config.json.
        base, published, config: the adapted parameters, their family and heads, and their encoder.
        source: the folder, for messages.
        names: names in `tensors` -> those in the file, by which PEFT finds the settings of a module; None: equal.

    Returns:
        (settings, an adapter as of `init_lora`, names of the tensors that were read). A module's own rank or alpha is
        included in "b" as a factor, and layers without an adapter have zeros.

    Raises:
        ValueError: a setting that is not supported, or a tensor that is missing or of another shape.
    """
    peft = read_settings(settings, source)
    lora = peft.lora
    family, heads = published.family, published.family.heads(config, published.settings)
    rows = [*family.encoder(config), *(row for name in published.heads for row in heads[name].weights)]
    rows += family.mlm_head(config) if "mlm_head" in base else []
    layers: dict[str, dict[int | EllipsisType, Params]] = {}
    used: set[str] = set()
    for module in _modules(rows, base, config):
        parts = [f"{module.name}.{part}" for part in (_A, _B, *([_SIZE] if lora.dora else []))]
        if parts[0] not in tensors:
            continue
        if missing := [name for name in parts if name not in tensors]:
            raise ValueError(f"{source} has no {missing[0]}; the adapter is incomplete")
        used.update(parts)
        path = (names or {}).get(parts[0], parts[0]).removesuffix(f".{_A}")
        peft.check(path, tensors[parts[0]].shape)
        arrays = {name: np.asarray(tensors[name]) for name in parts}
        parts = _read(module, arrays, lora, peft.alpha(path), config, source)
        for (path, row), part in zip(module.slots, parts, strict=True):
            layers.setdefault(path, {})[row] = part
    tables, table_names = read_tables(rows, tensors, peft, base, config, names or {})
    used |= table_names
    if not layers and not tables:
        adapted = sorted({(names or {}).get(x, x).partition(".lora_")[0] for x in tensors if ".lora_" in x})
        targets = f"target_modules {settings.get('target_modules')!r}, weights of {listed(adapted)}"
        raise ValueError(f"{source} adapts no projection of this model ({targets}); it belongs to another architecture")
    tree, kernels = {}, flatten(base)
    for path, part in tables.items():
        set_path(tree, path, part)
    for path, by_row in layers.items():
        # ... is the key outside a stack, as in Slot.
        set_path(tree, path, by_row[...] if ... in by_row else _stack(by_row, len(kernels[path])))
    return lora, tree, used


def _read(
    module: _Module, tensors: dict[str, np.ndarray], lora: LoraConfig, alpha: float, config: EncoderConfig, source: str
) -> list[Params]:
    """The adapter of each kernel of a module, from its tensors: A, B and, with DoRA, the magnitudes."""
    first, shape = next((name, x.shape) for name, x in tensors.items())
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"{source}: {first} has the shape {shape}; an adapter has one row for each of its ranks")
    rank = shape[0]
    a = np.empty((*module.inputs, rank), np.float32)
    b = [np.empty((rank, *shape), np.float32) for shape in module.outputs]
    sizes = [np.empty(shape, np.float32) for shape in module.outputs]
    for (name, tensor), targets, rows in zip(tensors.items(), ([a], b, sizes), _rows(module.weight), strict=False):
        read_tensor(tensor, targets, rows, config, f"{source}: {name}")
    scale = alpha / (math.sqrt(rank) if lora.rank_stabilized else rank) / lora.scale
    parts = [{"a": a.reshape(-1, rank), "b": scale * part.reshape(rank, -1)} for part in b]
    if lora.dora:
        for part, kernel, size in zip(parts, module.kernels, sizes, strict=True):
            part["size"] = (size - _norms(kernel, size.shape)).reshape(-1)
    return parts


def _stack(layers: Mapping[Any, Params], count: int) -> Params:
    """The adapters of a stack's layers, with zeros for layers without an adapter and for missing ranks."""
    shapes = [{name: x.shape for name, x in layer.items()} for layer in layers.values()]
    largest = {name: np.max([shape[name] for shape in shapes], axis=0) for name in shapes[0]}
    result = {name: np.zeros((count, *shape), np.float32) for name, shape in largest.items()}
    for row, layer in layers.items():
        for name, x in layer.items():
            result[name][(row, *(slice(size) for size in x.shape))] = x
    return result


def _modules(rows: Sequence[Weight], base: Params, config: EncoderConfig) -> Iterator[_Module]:
    """The matrices of the rows, which can have an adapter."""
    arrays = {path: np.asarray(x) for path, x in flatten(base).items()}
    for weight, name, slots in tensors_of([row for row in rows if _is_matrix(row)], config):
        if not all(path in arrays for path, _ in slots):
            continue  # of a head that the model computes in another way
        kernels = [arrays[path][row] for path, row in slots]
        axes = [kernel_axes(path, x.ndim) for path, x in zip(weight.ours, kernels, strict=True)]  # of one layer
        inputs = tuple(kernels[0].shape[i] for i in axes[0][0])
        outputs = [tuple(x.shape[i] for i in out) for x, (_, out) in zip(kernels, axes, strict=True)]
        yield _Module(name.removesuffix(".weight"), weight, slots, kernels, inputs, outputs)


def _is_matrix(row: Weight) -> bool:
    return row.ours[0].endswith("kernel") and not row.ours[0].endswith("convolution/kernel")


def _rows(weight: Weight) -> tuple[Weight, Weight, Weight]:
    """The table rows of A, which has the matrix's columns, and of B and the magnitudes, which have its rows."""
    plain = Weight(("kernel",))
    outputs = weight._replace(ours=tuple(path.removesuffix("kernel") + "bias" for path in weight.ours))
    if weight.ours[0].endswith("attention/output/kernel"):  # its inputs are the heads
        return weight, plain, outputs._replace(by_head=False, interleaved=False)
    return plain, weight, outputs


def _norms(kernel: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """The norm of each output's weights."""
    return np.linalg.norm(kernel.reshape(-1, math.prod(outputs)), axis=0).reshape(outputs)


def _alpha(lora: LoraConfig, rank: int) -> float:
    """The alpha that gives a product of another rank the adapter's scale; an int if it is whole."""
    alpha = lora.scale * (math.sqrt(rank) if lora.rank_stabilized else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _target_modules(adapted: set[str], rows: Sequence[Weight], family: Family, config: EncoderConfig) -> list[str]:
    """The ends of names that match the adapted modules of all layers and no other module; else complete names.

    Args:
        rows: those that may be adapted.
    """
    heads = family.heads(config, family.settings(config))
    all_rows = [*family.encoder(config), *family.mlm_head(config)]
    all_rows += [row for head in heads.values() for row in head.weights]
    all_modules = {name.removesuffix(".weight") for _, name, _ in tensors_of(all_rows, config)}
    targets: list[str] = []
    for row in (row for row in rows if _is_matrix(row) or is_table(row.ours[0])):
        names = [name.removesuffix(".weight") for _, name, _ in tensors_of([row], config)]
        adapted_names = [name for name in (name.removeprefix(family.prefix) for name in names) if name in adapted]
        parts = row.theirs.removesuffix(".weight").rpartition("}.")[2].removeprefix(family.prefix).split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        # PEFT adapts the modules with the name of a target, or with a name that ends with it.
        matches = [{name for name in all_modules if f".{name}".endswith(f".{end}")} for end in ends]
        is_complete = len(adapted_names) == len(names) and set(names) in matches
        targets += [ends[matches.index(set(names))]] if is_complete else adapted_names
    return targets
