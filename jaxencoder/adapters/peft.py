"""Low-rank adapters as PEFT has them (https://github.com/huggingface/peft): its names and settings, both ways.

A torch matrix that holds several kernels, such as Wqkv, has one adapter there and may have several here. Written, their
matrices stand beside and below each other, so that the rank is the sum of theirs; read, each kernel has the whole "a".
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.published import Published
from jaxencoder.families.tables import Weight, read_tensor, tensors_of, write_tensor
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import matrix_axes, path_of

PREFIX = "base_model.model."  # of every name
_A, _B, _SIZE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
# What would change the output and cannot be read -> the only value that can.
_FIXED = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "use_qalora": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "target_parameters": None,
}
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the weights that stay


class _Module(NamedTuple):
    """A torch matrix, its name without ".weight", and the kernels that it holds, each with its row in a stack."""

    weight: Weight
    name: str
    kernels: list[tuple[str, int | None]]


def to_peft(
    lora: LoraConfig, adapter: Params, base: Params, family: Family, config: EncoderConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapter's tensors as PEFT names them, without PREFIX, and the settings that they need.

    Args:
        lora: the adapter's settings.
        adapter: of `init_lora`, {"encoder": ...}.
        base: the parameters that it adapts, without it.
        family: whose names the modules have; they begin with its prefix.
        config: of the encoder.

    Raises:
        ValueError: a kernel that is adapted stands in no torch matrix of the family's encoder.
    """
    adapters, kernels = _adapters(adapter), _flat(base)
    modules = [m for m in _modules(family.encoder(config), config) if any(path in adapters for path, _ in m.kernels)]
    known = {path for module in modules for path, _ in module.kernels}
    if lost := sorted(path for path in adapters if path not in known):
        raise ValueError(f"{lost[0]} has an adapter, which PEFT's format cannot hold; only projections of the encoder")
    tensors, ranks = {}, {}
    for module in modules:
        parts = [
            {name: x if row is None else x[row] for name, x in adapters[path].items()} if path in adapters else None
            for path, row in module.kernels
        ]
        values, reads, writes = _values(module, kernels)
        wide = sum(part["a"].shape[-1] for part in parts if part)
        a = np.concatenate([part["a"] for part in parts if part], -1).reshape(*reads, wide)
        b, used = [np.zeros((wide, math.prod(shape)), np.float32) for shape in writes], 0
        for slot, part in zip(b, parts, strict=True):
            if part:
                slot[used : used + len(part["b"])] = part["b"]
                used += len(part["b"])
        b = [slot.reshape(wide, *shape) for slot, shape in zip(b, writes, strict=True)]
        rows_a, rows_b, rows_size = _rows(module.weight)
        tensors[f"{module.name}.{_A}"] = write_tensor([a], rows_a, config)
        tensors[f"{module.name}.{_B}"] = write_tensor(b, rows_b, config)
        if lora.dora:
            sizes = [_norms(v, shape) + (p["size"].reshape(shape) if p else 0)
                     for v, shape, p in zip(values, writes, parts, strict=True)]  # fmt: skip
            tensors[f"{module.name}.{_SIZE}"] = write_tensor(sizes, rows_size, config)
        ranks[module.name.removeprefix(family.prefix)] = wide
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: wide for name, wide in ranks.items() if wide != rank}
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _alpha(lora, rank),
        "rank_pattern": others,
        "alpha_pattern": {name: _alpha(lora, wide) for name, wide in others.items()},
        "use_rslora": lora.rank_stabilized,
        "use_dora": lora.dora,
        "target_modules": _targets(set(ranks), family, config),
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return tensors, settings


def from_peft(
    tensors: Mapping[str, np.ndarray],
    settings: Settings,
    base: Params,
    published: Published,
    config: EncoderConfig,
    where: str,
) -> tuple[LoraConfig, Params, set[str]]:
    """An adapter of the parameters `base` from PEFT's tensors and adapter_config.json.

    Args:
        tensors: by the names of `to_peft`.
        settings: of adapter_config.json.
        base: the parameters that it adapts: the encoder's, and those of heads.
        published: of which family the names are, and which heads `base` has.
        config: of the encoder.
        where: the folder, for messages.

    Returns:
        (settings, an adapter as of `init_lora`, the names of the tensors that it was read from). The product of a module
        with a rank or an alpha of its own is scaled in "b", and a layer without an adapter has zeros.

    Raises:
        ValueError: a setting that cannot be read, or a tensor that is missing or of another shape.
    """
    for name, value in _FIXED.items():
        if settings.get(name) not in (value, None):
            raise ValueError(f"{where} has {name} {settings[name]!r}; only {value!r} can be loaded")
    if (init := settings.get("init_lora_weights", True)) not in _INITS:
        raise ValueError(f"{where} has init_lora_weights {init!r}, which changes the base; convert it to LoRA first")
    try:
        stabilized, dora = bool(settings.get("use_rslora")), bool(settings.get("use_dora"))
        if (rank := int(settings["r"])) < 1:
            raise ValueError(f"r is {rank}, and an adapter has a rank of 1 or more")
        lora = LoraConfig(rank, float(settings["lora_alpha"]), rank_stabilized=stabilized, dora=dora)
        alphas = _patterns(settings.get("alpha_pattern") or {})
    except KeyError as error:
        raise ValueError(f"{where} has no {error.args[0]} in its adapter_config.json") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{where} has an adapter_config.json that cannot be read: {error}") from None
    family, kernels = published.family, _flat(base)
    found: dict[str, dict[int | None, Params]] = {}
    used: set[str] = set()
    heads = family.heads(config, published.settings)
    rows = [*family.encoder(config), *(row for name in published.heads for row in heads[name].weights)]
    for module in _modules(rows + (family.mlm_head(config) if "mlm_head" in base else []), config):
        names = [f"{module.name}.{part}" for part in (_A, _B, *([_SIZE] if dora else []))]
        if names[0] not in tensors:
            continue
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(f"{where} has no {missing[0]}; it is not whole")
        used.update(names)
        values, reads, writes = _values(module, kernels)
        shape = np.shape(tensors[names[0]])
        if len(shape) != 2 or not shape[0]:
            raise ValueError(f"{where}: {names[0]} has the shape {shape}, and an adapter a row for each of its ranks")
        rank = shape[0]
        a = np.empty((*reads, rank), np.float32)
        b = [np.empty((rank, *shape), np.float32) for shape in writes]
        for name, slots, rows in zip(names, ([a], b), _rows(module.weight), strict=False):
            read_tensor(np.asarray(tensors[name]), slots, rows, config, f"{where}: {name}")
        known_as = (module.name, module.name.removeprefix(family.prefix))  # the second in a model without heads
        alpha = next((x for key, x in alphas.items() if any(map(key.match, known_as))), lora.alpha)
        scale = alpha / (math.sqrt(rank) if stabilized else rank) / lora.scale
        sizes = [np.empty(shape, np.float32) for shape in writes]
        if dora:
            read_tensor(np.asarray(tensors[names[2]]), sizes, _rows(module.weight)[2], config, f"{where}: {names[2]}")
        for (path, row), value, part, size in zip(module.kernels, values, b, sizes, strict=True):
            one = {"a": a.reshape(-1, rank), "b": scale * part.reshape(rank, -1)}
            if dora:
                one["size"] = (size - _norms(value, size.shape)).reshape(-1)
            found.setdefault(path, {})[row] = one
    if not found:
        raise ValueError(f"{where} adapts no projection of this model; it belongs to another architecture")
    tree: Params = {}
    for path, layers in found.items():
        *parents, name = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = layers[None] if None in layers else _stacked(layers, len(kernels[path]))
    return lora, tree, used


def _stacked(layers: dict[int, Params], count: int) -> Params:
    """The adapters of a stack's layers, with zeros where there is none or where its rank is smaller."""
    shapes = [{name: x.shape for name, x in one.items()} for one in layers.values()]
    result = {
        name: np.zeros((count, *np.max([shape[name] for shape in shapes], axis=0)), np.float32) for name in shapes[0]
    }
    for row, one in layers.items():
        for name, x in one.items():
            result[name][(row, *(slice(size) for size in x.shape))] = x
    return result


def _modules(rows: Sequence[Weight], config: EncoderConfig) -> Iterator[_Module]:
    for weight, name, places in tensors_of(rows, config):
        if weight.ours[0].endswith("kernel") and not weight.ours[0].endswith("convolution/kernel"):
            yield _Module(weight, name.removesuffix(".weight"), places)


def _rows(weight: Weight) -> tuple[Weight, Weight, Weight]:
    """The rows of what stands beside a matrix: A, which has its columns, B and the magnitudes, which have its rows."""
    plain = Weight(weight.theirs, ("kernel",))
    outputs = weight._replace(ours=tuple(path.removesuffix("kernel") + "bias" for path in weight.ours))
    if weight.ours[0].endswith("attention/output/kernel"):  # heads are what it reads
        return weight, plain, outputs._replace(by_head=False, interleaved=False)
    return plain, weight, outputs


def _values(
    module: _Module, kernels: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], tuple[int, ...], list[tuple[int, ...]]]:
    """A module's kernels, the sizes of what they all read, and of what each writes."""
    values = [kernels[path] if row is None else kernels[path][row] for path, row in module.kernels]
    axes = [matrix_axes(path, x.ndim) for path, x in zip(module.weight.ours, values, strict=True)]  # of one layer
    reads = tuple(values[0].shape[i] for i in axes[0][0])
    return values, reads, [tuple(x.shape[i] for i in write) for x, (_, write) in zip(values, axes, strict=True)]


def _norms(kernel: np.ndarray, writes: tuple[int, ...]) -> np.ndarray:
    """The size of each output's weights."""
    return np.linalg.norm(kernel.reshape(-1, math.prod(writes)), axis=0).reshape(writes)


def _alpha(lora: LoraConfig, rank: int) -> float:
    """The alpha that gives a product of another rank the adapter's own scale; whole where it is."""
    alpha = lora.scale * (math.sqrt(rank) if lora.rank_stabilized else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _patterns(values: Mapping[str, float]) -> dict[re.Pattern, float]:
    """What ends a module's name -> its alpha; ValueError for no regular expression or no positive number."""
    found = {}
    for key, value in values.items():
        try:
            found[re.compile(rf"(.*\.)?({key})$")] = float(value)
        except re.error as error:
            raise ValueError(f"alpha_pattern holds {key!r}, not a regular expression: {error.msg}") from None
        if not 0 < float(value) < math.inf:
            raise ValueError(f"alpha_pattern has {value} for {key!r}, which is no positive number")
    return found


def _targets(adapted: set[str], family: Family, config: EncoderConfig) -> list[str]:
    """The ends of names that name the adapted modules of all layers and no other; else names in full."""
    settings = family.settings(config)
    rows = [
        *family.mlm_head(config),
        *(row for head in family.heads(config, settings).values() for row in head.weights),
    ]
    everything = {name.removesuffix(".weight") for _, name, _ in tensors_of([*family.encoder(config), *rows], config)}
    targets: list[str] = []
    by_row: dict[str, list[str]] = {}
    for module in _modules(family.encoder(config), config):
        by_row.setdefault(module.weight.theirs.removesuffix(".weight"), []).append(module.name)
    for row, names in by_row.items():
        own = [name for name in (name.removeprefix(family.prefix) for name in names) if name in adapted]
        parts = row.rpartition("}.")[2].removeprefix(family.prefix).split(".")
        ends = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        end = next((end for end in ends if _ending(everything, end) == set(names)), None)
        targets += [end] if end and len(own) == len(names) else own
    return targets


def _ending(names: Iterable[str], end: str) -> set[str]:
    """The modules that PEFT takes `end` for: of that name, or of one that ends with it."""
    return {name for name in names if name == end or name.endswith(f".{end}")}


def _adapters(tree: Params) -> dict[str, Params]:
    """Path of a kernel -> its matrices."""
    found: dict[str, Params] = {}
    for path, x in _flat(tree).items():
        kernel, _, name = path.rpartition("/")
        found.setdefault(kernel, {})[name] = x
    return found


def _flat(tree: Params) -> dict[str, np.ndarray]:
    return {path_of(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}
