"""Low-rank adapters in the format of PEFT (https://github.com/huggingface/peft): its names and settings, both ways.

A torch matrix that holds several kernels, such as Wqkv, has one adapter there and may have several here. When written,
their matrices are concatenated along the rank, so that the rank is the sum of theirs; when read, each kernel gets the
complete "a".
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxencoder.adapters.lora import LoraConfig
from jaxencoder.families.family import Family, Settings
from jaxencoder.families.published import Published
from jaxencoder.families.tables import Weight, read_tensor, tensors_of, write_tensor
from jaxencoder.model.config import EncoderConfig
from jaxencoder.objectives.objective import Params
from jaxencoder.parameters import flatten, kernel_axes, set_path

PREFIX = "base_model.model."  # of every name
_A, _B, _SIZE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
# Settings that change the output and are not supported -> the only value that can be read.
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
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")  # the other ones change the frozen weights


class _Module(NamedTuple):
    """A torch matrix, its name without ".weight", and its kernels, each with its row in a stack."""

    weight: Weight
    name: str
    kernels: list[tuple[str, int | None]]


class _Kernels(NamedTuple):
    """The kernels of a module: their values, the shape of their common inputs, and the shape of each one's outputs."""

    values: list[np.ndarray]
    inputs: tuple[int, ...]
    outputs: list[tuple[int, ...]]


def to_peft(
    lora: LoraConfig, adapter: Params, base: Params, family: Family, config: EncoderConfig
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapter's tensors by PEFT's names, without PREFIX, and their settings.

    Args:
        lora: the adapter's settings.
        adapter: parameters as of `init_lora`, {"encoder": ...}.
        base: the adapted parameters.
        family: names of the modules; they begin with its prefix.
        config: the encoder's.

    Raises:
        ValueError: an adapted kernel is in no torch matrix of the family's encoder.
    """
    adapters, kernels = _by_kernel(adapter), _arrays(base)
    modules = [m for m in _modules(family.encoder(config), config) if any(path in adapters for path, _ in m.kernels)]
    supported = {path for module in modules for path, _ in module.kernels}
    if unsupported := sorted(adapters.keys() - supported):
        raise ValueError(
            f"{unsupported[0]} has an adapter, which PEFT's format cannot hold; only projections of the encoder"
        )
    tensors, ranks = {}, {}
    for module in modules:
        parts = [
            {name: x if row is None else x[row] for name, x in adapters[path].items()} if path in adapters else None
            for path, row in module.kernels
        ]
        tensors |= _write_module(module, parts, _kernels(module, kernels), lora.dora, config)
        ranks[module.name.removeprefix(family.prefix)] = sum(part["a"].shape[-1] for part in parts if part)
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
        "target_modules": _target_modules(set(ranks), family, config),
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return tensors, settings


def _write_module(
    module: _Module, parts: list[Params | None], kernels: _Kernels, dora: bool, config: EncoderConfig
) -> dict[str, np.ndarray]:
    """The tensors of a module; `parts` is the adapter of each kernel or None."""
    rank = sum(part["a"].shape[-1] for part in parts if part)
    a = np.concatenate([part["a"] for part in parts if part], -1).reshape(*kernels.inputs, rank)
    b, used = [np.zeros((rank, math.prod(shape)), np.float32) for shape in kernels.outputs], 0
    for block, part in zip(b, parts, strict=True):
        if part:
            block[used : used + len(part["b"])] = part["b"]
            used += len(part["b"])
    b = [block.reshape(rank, *shape) for block, shape in zip(b, kernels.outputs, strict=True)]
    rows_a, rows_b, rows_size = _rows(module.weight)
    tensors = {_A: write_tensor([a], rows_a, config), _B: write_tensor(b, rows_b, config)}
    if dora:
        sizes = [
            _norms(value, shape) + (part["size"].reshape(shape) if part else 0)
            for value, shape, part in zip(kernels.values, kernels.outputs, parts, strict=True)
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
) -> tuple[LoraConfig, Params, set[str]]:
    """Read an adapter of the parameters `base` from PEFT's tensors and adapter_config.json.

    Args:
        tensors: by the names of `to_peft`.
        settings: content of adapter_config.json.
        base: the adapted parameters: the encoder's, and those of heads.
        published: the family of the names, and the heads in `base`.
        config: the encoder's.
        source: the folder, for messages.

    Returns:
        (settings, an adapter as of `init_lora`, names of the tensors that were read). A module's own rank or alpha is
        included in "b" as a factor, and layers without an adapter have zeros.

    Raises:
        ValueError: a setting that is not supported, or a tensor that is missing or of another shape.
    """
    lora, alphas = _read_settings(settings, source)
    kernels = _arrays(base)
    layers: dict[str, dict[int | None, Params]] = {}
    used: set[str] = set()
    for module in _modules(_adaptable(base, published, config), config):
        names = [f"{module.name}.{part}" for part in (_A, _B, *([_SIZE] if lora.dora else []))]
        if names[0] not in tensors:
            continue
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(f"{source} has no {missing[0]}; the adapter is incomplete")
        used.update(names)
        keys = (module.name, module.name.removeprefix(published.family.prefix))  # the latter in a model without heads
        alpha = next((x for pattern, x in alphas.items() if any(map(pattern.match, keys))), lora.alpha)
        arrays = {name: np.asarray(tensors[name]) for name in names}
        parts = _read_module(module, arrays, _kernels(module, kernels), lora, alpha, config, source)
        for (path, row), part in zip(module.kernels, parts, strict=True):
            layers.setdefault(path, {})[row] = part
    if not layers:
        raise ValueError(f"{source} adapts no projection of this model; it belongs to another architecture")
    tree: Params = {}
    for path, by_row in layers.items():
        set_path(tree, path, by_row[None] if None in by_row else _stack(by_row, len(kernels[path])))
    return lora, tree, used


def _read_settings(settings: Settings, source: str) -> tuple[LoraConfig, dict[re.Pattern, float]]:
    """The adapter's settings, and the alpha of modules by pattern of their names."""
    for name, value in _FIXED.items():
        if settings.get(name) not in (value, None):
            raise ValueError(f"{source} has {name} {settings[name]!r}; only {value!r} can be loaded")
    if (init := settings.get("init_lora_weights", True)) not in _INITS:
        raise ValueError(f"{source} has init_lora_weights {init!r}, which changes the base; convert it to LoRA first")
    try:
        stabilized, dora = bool(settings.get("use_rslora")), bool(settings.get("use_dora"))
        if (rank := int(settings["r"])) < 1:
            raise ValueError(f"r is {rank}, and an adapter has a rank of 1 or more")
        lora = LoraConfig(rank, float(settings["lora_alpha"]), rank_stabilized=stabilized, dora=dora)
        return lora, _alpha_patterns(settings.get("alpha_pattern") or {})
    except KeyError as error:
        raise ValueError(f"{source} has no {error.args[0]} in its adapter_config.json") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{source} has an adapter_config.json that cannot be read: {error}") from None


def _adaptable(base: Params, published: Published, config: EncoderConfig) -> list[Weight]:
    """The rows of all tables whose parameters `base` has."""
    family = published.family
    heads = family.heads(config, published.settings)
    rows = [*family.encoder(config), *(row for name in published.heads for row in heads[name].weights)]
    return rows + (family.mlm_head(config) if "mlm_head" in base else [])


def _read_module(
    module: _Module,
    tensors: dict[str, np.ndarray],
    kernels: _Kernels,
    lora: LoraConfig,
    alpha: float,
    config: EncoderConfig,
    source: str,
) -> list[Params]:
    """The adapter of each kernel of a module, from its tensors: A, B and, with DoRA, the magnitudes."""
    first, shape = next((name, x.shape) for name, x in tensors.items())
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"{source}: {first} has the shape {shape}; an adapter has one row for each of its ranks")
    rank = shape[0]
    a = np.empty((*kernels.inputs, rank), np.float32)
    b = [np.empty((rank, *shape), np.float32) for shape in kernels.outputs]
    sizes = [np.empty(shape, np.float32) for shape in kernels.outputs]
    for (name, tensor), targets, rows in zip(tensors.items(), ([a], b, sizes), _rows(module.weight), strict=False):
        read_tensor(tensor, targets, rows, config, f"{source}: {name}")
    scale = alpha / (math.sqrt(rank) if lora.rank_stabilized else rank) / lora.scale
    parts = [{"a": a.reshape(-1, rank), "b": scale * part.reshape(rank, -1)} for part in b]
    if lora.dora:
        for part, value, size in zip(parts, kernels.values, sizes, strict=True):
            part["size"] = (size - _norms(value, size.shape)).reshape(-1)
    return parts


def _stack(layers: Mapping[Any, Params], count: int) -> Params:
    """The adapters of a stack's layers, with zeros for layers without an adapter and for missing ranks."""
    shapes = [{name: x.shape for name, x in layer.items()} for layer in layers.values()]
    result = {
        name: np.zeros((count, *np.max([shape[name] for shape in shapes], axis=0)), np.float32) for name in shapes[0]
    }
    for row, layer in layers.items():
        for name, x in layer.items():
            result[name][(row, *(slice(size) for size in x.shape))] = x
    return result


def _modules(rows: Sequence[Weight], config: EncoderConfig) -> Iterator[_Module]:
    for weight, name, kernels in tensors_of(rows, config):
        if weight.ours[0].endswith("kernel") and not weight.ours[0].endswith("convolution/kernel"):
            yield _Module(weight, name.removesuffix(".weight"), kernels)


def _rows(weight: Weight) -> tuple[Weight, Weight, Weight]:
    """The table rows of A, which has the matrix's columns, and of B and the magnitudes, which have its rows."""
    plain = Weight(("kernel",))
    outputs = weight._replace(ours=tuple(path.removesuffix("kernel") + "bias" for path in weight.ours))
    if weight.ours[0].endswith("attention/output/kernel"):  # its inputs are the heads
        return weight, plain, outputs._replace(by_head=False, interleaved=False)
    return plain, weight, outputs


def _kernels(module: _Module, arrays: Mapping[str, np.ndarray]) -> _Kernels:
    values = [arrays[path] if row is None else arrays[path][row] for path, row in module.kernels]
    axes = [kernel_axes(path, x.ndim) for path, x in zip(module.weight.ours, values, strict=True)]  # of one layer
    inputs = tuple(values[0].shape[i] for i in axes[0][0])
    return _Kernels(values, inputs, [tuple(x.shape[i] for i in out) for x, (_, out) in zip(values, axes, strict=True)])


def _norms(kernel: np.ndarray, outputs: tuple[int, ...]) -> np.ndarray:
    """The norm of each output's weights."""
    return np.linalg.norm(kernel.reshape(-1, math.prod(outputs)), axis=0).reshape(outputs)


def _alpha(lora: LoraConfig, rank: int) -> float:
    """The alpha that gives a product of another rank the adapter's scale; an int if it is whole."""
    alpha = lora.scale * (math.sqrt(rank) if lora.rank_stabilized else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def _alpha_patterns(values: Mapping[str, float]) -> dict[re.Pattern, float]:
    """Pattern of the end of a module's name -> its alpha."""
    alphas = {}
    for key, value in values.items():
        try:
            alphas[re.compile(rf"(.*\.)?({key})$")] = float(value)
        except re.error as error:
            raise ValueError(f"alpha_pattern holds {key!r}, not a regular expression: {error.msg}") from None
        if not 0 < float(value) < math.inf:
            raise ValueError(f"alpha_pattern has {value} for {key!r}, which is no positive number")
    return alphas


def _target_modules(adapted: set[str], family: Family, config: EncoderConfig) -> list[str]:
    """The ends of names that match the adapted modules of all layers and no other module; else complete names."""
    settings = family.settings(config)
    rows = [
        *family.mlm_head(config),
        *(row for head in family.heads(config, settings).values() for row in head.weights),
    ]
    all_modules = {name.removesuffix(".weight") for _, name, _ in tensors_of([*family.encoder(config), *rows], config)}
    by_row: dict[str, list[str]] = {}
    for module in _modules(family.encoder(config), config):
        by_row.setdefault(module.weight.theirs.removesuffix(".weight"), []).append(module.name)
    targets: list[str] = []
    for row, names in by_row.items():
        adapted_names = [name for name in (name.removeprefix(family.prefix) for name in names) if name in adapted]
        parts = row.rpartition("}.")[2].removeprefix(family.prefix).split(".")
        ends = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        end = next((end for end in ends if _matching(all_modules, end) == set(names)), None)
        targets += [end] if end and len(adapted_names) == len(names) else adapted_names
    return targets


def _matching(names: Iterable[str], end: str) -> set[str]:
    """The modules that PEFT adapts for a target: those with this name or with a name that ends with it."""
    return {name for name in names if name == end or name.endswith(f".{end}")}


def _by_kernel(adapter: Params) -> dict[str, Params]:
    """Path of a kernel -> its matrices."""
    adapters: dict[str, Params] = {}
    for path, x in _arrays(adapter).items():
        kernel, _, name = path.rpartition("/")
        adapters.setdefault(kernel, {})[name] = x
    return adapters


def _arrays(tree: Params) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in flatten(tree).items()}
