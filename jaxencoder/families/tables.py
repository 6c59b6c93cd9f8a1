"""Tables of weights, read in both directions: a checkpoint's tensors to our parameters and back.

A family names modules. `rows` makes a row of each tensor, which pairs its name with the path of a parameter. Shapes
follow from the parameter alone. A torch matrix is [out, in]. A kernel has its inputs first and may have several axes on
either side: [D, N, H] for a query.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.model.config import EncoderConfig
from jaxencoder.parameters import path_of

QKV = ("encoder/layer/attention/query", "encoder/layer/attention/key", "encoder/layer/attention/value")
Params = dict[str, Any]
LAYER, ROW, BLOCK = "{layer}", "{row}", "{block}"


class Weight(NamedTuple):
    """One row: a tensor and the parameters that it holds.

    Attributes:
        theirs: name of the tensor. {layer} stands for the number of the layer, {row} and {block} for its indices in
            the stacked parameters.
        ours: paths of parameters, whose rows the tensor concatenates. `encoder/layer/...` is a parameter of each layer.
        skip: unused rows at the start of the tensor (zeros when written).
        first_layer: the first layer that has this tensor. Earlier layers keep ones, which the model never reads.
        by_head: the tensor concatenates `ours` within each head.
        interleaved: the tensor's rotary pairs are neighbors (2 i, 2 i + 1); ours are (i, i + H / 2).
    """

    theirs: str
    ours: tuple[str, ...]
    skip: int = 0
    first_layer: int = 0
    by_head: bool = False
    interleaved: bool = False


class Module(NamedTuple):
    """A module of the checkpoint with unusual tensors: one or several of ours, and options as in Weight."""

    ours: str | tuple[str, ...]
    skip: int = 0
    first_layer: int = 0
    by_head: bool = False
    interleaved: bool = False


# Module in the checkpoint -> ours: an embedding table, norm, projection, several projections, or a lone bias.
Ours = str | tuple[str, ...] | Module
Names = Mapping[str, Ours]


def rows(names: Names, shapes: Params, prefix: str) -> list[Weight]:
    """The rows of the modules whose parameters a model has.

    Args:
        names: table of modules. An option such as a bias needs no row: it has one if the model has the parameter.
        shapes: the model's parameters below `prefix`, such as "encoder".
    """
    paths = {f"{prefix}/{path_of(path)}" for path, _ in jax.tree.leaves_with_path(shapes)}
    paths = {re.sub(r"/(layers|last)/block_\d+/", "/layer/", path) for path in paths}
    weights = []
    for theirs, module in names.items():
        module = module if isinstance(module, Module) else Module(module)
        for leaf, end in (("", ""), ("/kernel", ".weight"), ("/scale", ".weight"), ("/bias", ".bias")):
            ours = tuple(path + leaf for path in ((module.ours,) if isinstance(module.ours, str) else module.ours))
            if not paths.issuperset(ours):
                continue
            end = end if leaf or ours[0].endswith("/bias") else ".weight"  # of an embedding table
            # Rotary pairs reorder the inputs of attention's output, and its bias belongs to the outputs.
            interleaved = module.interleaved and not ours[0].endswith("output/bias")
            weights.append(Weight(theirs + end, ours, module.skip, module.first_layer, module.by_head, interleaved))
    return weights


def mlm_head(dense: str, norm: str, bias: str) -> Names:
    """The table of BERT's masked-language-model head."""
    return {dense: "mlm_head/dense", norm: "mlm_head/norm", bias: "mlm_head/bias"}


def with_prefix(names: Names, old: str, new: str) -> dict[str, Ours]:
    """The table of another family: module names that start with `old` start with `new` instead."""
    return {new + name.removeprefix(old) if name.startswith(old) else name: ours for name, ours in names.items()}


def from_tensors(
    weights: Sequence[Weight], tensors: Mapping[str, np.ndarray], shapes: Params, config: EncoderConfig, source: str
) -> tuple[Params, set[str]]:
    """Read parameters from a checkpoint, each tensor once and straight into the stacked layers.

    Args:
        weights: the rows of all parameters in `shapes`.
        tensors: name -> array of any float dtype.
        shapes: tree of the parameters' shapes.
        config: decides which layer is where in the stacks.
        source: name of the checkpoint for error messages.

    Returns:
        (parameters float32, names of the tensors that were read).

    Raises:
        ValueError: a tensor is missing or has another shape, or a parameter has no row.
    """
    arrays = {path_of(path): np.empty(leaf.shape, np.float32) for path, leaf in jax.tree.leaves_with_path(shapes)}
    filled, used = set(), set()
    for weight in weights:
        for layer in _layers(weight, 0, config):
            slots = [_slot(path, layer, config) for path in weight.ours]
            for path, row in slots:
                if path not in arrays:
                    raise ValueError(f"the table names {path}, which this model does not have")
                filled.add((path, row))
            targets = [arrays[path] if row is None else arrays[path][row] for path, row in slots]
            if layer is not None and layer < weight.first_layer:
                for target in targets:
                    target[...] = 1
                continue
            name = _name(weight, layer, config)
            if name not in tensors:
                raise ValueError(f"{source} has no weight {name}; it is incomplete, or of another architecture")
            used.add(name)
            read_tensor(np.asarray(tensors[name]), targets, weight, config, f"{source}: {name}")
    for path, array in arrays.items():
        stack_rows = range(array.shape[0]) if "/layers/" in path else (None,)
        if missing := [row for row in stack_rows if (path, row) not in filled]:
            raise ValueError(f"the table has no row for {path} {missing}")
    return jax.tree.map_with_path(lambda path, _: arrays[path_of(path)], shapes), used


def to_tensors(weights: Sequence[Weight], params: Params, config: EncoderConfig) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, float32, from parameters: the inverse of `from_tensors`."""
    arrays = {path_of(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    return {
        name: write_tensor([arrays[path] if row is None else arrays[path][row] for path, row in slots], weight, config)
        for weight, name, slots in tensors_of(weights, config)
    }


def tensors_of(
    weights: Sequence[Weight], config: EncoderConfig
) -> Iterator[tuple[Weight, str, list[tuple[str, int | None]]]]:
    """The tensors of a checkpoint: row of the table, name, and (path, row in its stack) of each parameter in it."""
    for weight in weights:
        for layer in _layers(weight, weight.first_layer, config):
            yield weight, _name(weight, layer, config), [_slot(path, layer, config) for path in weight.ours]


def write_tensor(values: Sequence[np.ndarray], weight: Weight, config: EncoderConfig) -> np.ndarray:
    """The tensor, float32, of the parameters of one layer: the inverse of `read_tensor`."""
    parts = []
    for path, value in zip(weight.ours, values, strict=True):
        if weight.interleaved:
            value = np.take(value, np.argsort(_pairs_first(config.head_size)), _head_axis(path))
        if path.endswith("kernel"):
            value = (value if _is_convolution(path) else value.reshape(_inputs(path, value.shape), -1)).T
        elif len(weight.ours) > 1 or (value.ndim > 1 and path.endswith("bias")):
            value = value.reshape(-1)
        parts.append(value)
    tensor = np.concatenate(parts)
    if weight.by_head:
        tensor = _swap_groups(tensor, len(parts), config.num_heads)
    if weight.skip:
        tensor = np.concatenate([np.zeros((weight.skip, *tensor.shape[1:]), tensor.dtype), tensor])
    return np.ascontiguousarray(tensor, np.float32)


def read_tensor(
    tensor: np.ndarray, targets: Sequence[np.ndarray], weight: Weight, config: EncoderConfig, source: str
) -> None:
    """Fill the parameters of one layer from a tensor; ValueError, naming `source`, if its shape is wrong."""
    paths, skip, kernel = weight.ours, weight.skip, weight.ours[0].endswith("kernel")
    counts = [_rows(path, target.shape) for path, target in zip(paths, targets, strict=True)]
    expected = (skip + sum(counts), *_columns(paths[0], targets[0].shape))
    if tensor.shape != expected:
        raise ValueError(f"{source} has the shape {list(tensor.shape)}, but config.json asks for {list(expected)}")
    if weight.by_head:
        tensor = _swap_groups(tensor, config.num_heads, len(targets))
    start = skip
    for path, target, count in zip(paths, targets, counts, strict=True):
        part = tensor[start : start + count]
        part = (part.T if kernel else part).reshape(target.shape)
        target[...] = np.take(part, _pairs_first(config.head_size), _head_axis(path)) if weight.interleaved else part
        start += count


def renamed(tensors: Iterable[str], prefix: str, aliases: Mapping[str, str]) -> dict[str, str]:
    """Names in the tables -> names in the file.

    Checkpoints of the encoder alone leave out the prefix, the oldest ones call a norm's weights gamma and beta, and
    `aliases` maps a family's other prefixes to those in its tables.
    """
    bare = not any(name.startswith(prefix) for name in tensors)
    names = {}
    for name in tensors:
        standard = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", name)
        standard = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", standard)
        if alias := next((old for old in aliases if name.startswith(old)), None):
            standard = aliases[alias] + standard.removeprefix(alias)
        names[prefix + standard if bare else standard] = name
    return names


def _slot(path: str, layer: int | None, config: EncoderConfig) -> tuple[str, int | None]:
    """A layer's parameter in the tree: its path, and its row in a stack (None outside one)."""
    if layer is None:
        return path, None
    repeat, block = divmod(layer, len(config.windows))
    stack = "layers" if repeat < config.repeats else "last"
    return path.replace("/layer/", f"/{stack}/block_{block}/"), repeat if stack == "layers" else None


def _layers(weight: Weight, first: int, config: EncoderConfig) -> Sequence[int | None]:
    """The layers, from `first` on, with a tensor each; [None] for a weight outside the layers."""
    inside = any(letter in weight.theirs for letter in (LAYER, ROW, BLOCK))
    return range(first, config.stack * len(config.windows) + len(config.remainder)) if inside else (None,)


def _name(weight: Weight, layer: int | None, config: EncoderConfig) -> str:
    if layer is None:
        return weight.theirs
    row, block = divmod(layer, len(config.windows))
    return weight.theirs.format(layer=layer, row=row, block=block)


def _swap_groups(tensor: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Reorder rows in `outer` groups of `inner` parts to `inner` groups of `outer` parts."""
    parts = tensor.reshape(outer, inner, -1, *tensor.shape[1:])
    return np.swapaxes(parts, 0, 1).reshape(tensor.shape)


def _pairs_first(size: int) -> np.ndarray:
    """Indices of the first halves of neighboring pairs, then of the second halves."""
    return np.r_[0:size:2, 1:size:2]


def _head_axis(path: str) -> int:
    """The axis H of a parameter of attention."""
    return -2 if path.endswith("output/kernel") else -1


def _is_convolution(path: str) -> bool:
    # Such a kernel is [taps, inputs, outputs]; torch has the axes in reverse.
    return path.endswith("convolution/kernel")


def _inputs(path: str, shape: tuple[int, ...]) -> int:
    """The size of a kernel's inputs: of two axes (N, H) in attention's output, else of one."""
    two_axes = path.endswith("attention/output/kernel") or _is_convolution(path)
    return math.prod(shape[:2]) if two_axes else shape[0]


def _rows(path: str, shape: tuple[int, ...]) -> int:
    if path.endswith("kernel"):
        return math.prod(shape) // _inputs(path, shape)
    return math.prod(shape) if path.endswith("bias") else shape[0]


def _columns(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if _is_convolution(path):
        return shape[1::-1]
    if path.endswith("kernel"):
        return (_inputs(path, shape),)
    return () if path.endswith("bias") else shape[1:]
