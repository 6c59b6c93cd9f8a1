"""Tables of weight names, read in both directions: a checkpoint's tensors to our parameters and back.

A row pairs the name of a tensor with the path of a parameter; shapes follow from the parameter alone. A torch matrix is
[out, in], a kernel has its inputs first and may name several axes on either side: [D, N, H] for a query.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxencoder.model.config import EncoderConfig
from jaxencoder.parameters import path_of

Params = dict[str, Any]
LAYER, ROW, BLOCK = "{layer}", "{row}", "{block}"


class Weight(NamedTuple):
    """One row: a tensor and the parameters that it holds.

    Attributes:
        theirs: name of the tensor; {layer} stands for the number of the layer, {row} and {block} for its place in the
            stacked parameters.
        ours: paths of parameters; several stand one after the other in the tensor's rows. `encoder/layer/...` is a
            parameter of each layer.
        skip: rows at the start of the tensor that no parameter holds (zeros when written).
        first_layer: the first layer that has this tensor; those before keep ones, which nothing reads.
        by_head: the parts of `ours` stand one after the other within each head.
        interleaved: the tensor's rotary pairs are neighbours (2 i, 2 i + 1); ours are (i, i + H / 2).
    """

    theirs: str
    ours: tuple[str, ...]
    skip: int = 0
    first_layer: int = 0
    by_head: bool = False
    interleaved: bool = False


def table(theirs: str, ours: str, skip: int = 0) -> list[Weight]:
    """The row of an embedding table."""
    return [Weight(f"{theirs}.weight", (ours,), skip)]


def linear(theirs: str, *ours: str, bias: bool, by_head: bool = False, interleaved: bool = False) -> list[Weight]:
    """The rows of a projection, or of several that one torch matrix holds."""
    leaves = (("weight", "kernel"), ("bias", "bias")) if bias else (("weight", "kernel"),)
    return [
        Weight(f"{theirs}.{leaf}", tuple(f"{path}/{name}" for path in ours), by_head=by_head, interleaved=interleaved)
        for leaf, name in leaves
    ]


def norm(theirs: str, ours: str, bias: bool, first_layer: int = 0) -> list[Weight]:
    """The rows of a norm."""
    leaves = (("weight", "scale"), ("bias", "bias")) if bias else (("weight", "scale"),)
    return [Weight(f"{theirs}.{leaf}", (f"{ours}/{name}",), 0, first_layer) for leaf, name in leaves]


def moved(weights: Sequence[Weight], old: str, new: str) -> list[Weight]:
    """The same rows in another family: names that start with `old` start with `new`."""
    return [w._replace(theirs=new + w.theirs.removeprefix(old)) if w.theirs.startswith(old) else w for w in weights]


def from_tensors(
    weights: Sequence[Weight], tensors: Mapping[str, np.ndarray], shapes: Params, config: EncoderConfig, where: str
) -> tuple[Params, set[str]]:
    """Parameters from a checkpoint, each tensor read once and straight into its place in the stacked layers.

    Args:
        weights: the rows of every parameter in `shapes`.
        tensors: name -> array of any float dtype.
        shapes: tree of the parameters' shapes.
        config: says which layer stands where.
        where: the checkpoint, for messages.

    Returns:
        (parameters float32, names of the tensors that they were read from).

    Raises:
        ValueError: a tensor is missing or has another shape, or a parameter has no row.
    """
    found = {path_of(path): np.empty(leaf.shape, np.float32) for path, leaf in jax.tree.leaves_with_path(shapes)}
    filled, used = set(), set()
    for weight in weights:
        for layer in _layers(weight, 0, config):
            places = [_place(path, layer, config) for path in weight.ours]
            for path, row in places:
                if path not in found:
                    raise ValueError(f"the table names {path}, which this model does not have")
                filled.add((path, row))
            slots = [found[path] if row is None else found[path][row] for path, row in places]
            if layer is not None and layer < weight.first_layer:
                for slot in slots:
                    slot[...] = 1
                continue
            name = _name(weight, layer, config)
            if name not in tensors:
                raise ValueError(f"{where} has no weight {name}; it is not whole, or of another architecture")
            used.add(name)
            read_tensor(np.asarray(tensors[name]), slots, weight, config, f"{where}: {name}")
    for path, leaf in found.items():
        rows = range(leaf.shape[0]) if "/layers/" in path else (None,)
        if missing := [row for row in rows if (path, row) not in filled]:
            raise ValueError(f"the table has no row for {path} {missing}")
    tree = jax.tree.structure(shapes)
    return jax.tree.unflatten(tree, [found[path_of(path)] for path, _ in jax.tree.leaves_with_path(shapes)]), used


def to_tensors(weights: Sequence[Weight], params: Params, config: EncoderConfig) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, float32, from parameters: what `from_tensors` reads back to equal ones."""
    found = {path_of(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    return {
        name: write_tensor([found[path] if row is None else found[path][row] for path, row in places], weight, config)
        for weight, name, places in tensors_of(weights, config)
    }


def tensors_of(
    weights: Sequence[Weight], config: EncoderConfig
) -> Iterator[tuple[Weight, str, list[tuple[str, int | None]]]]:
    """Every tensor of a checkpoint: its row, its name, and for each parameter that it holds path and row in a stack."""
    for weight in weights:
        for layer in _layers(weight, weight.first_layer, config):
            yield weight, _name(weight, layer, config), [_place(path, layer, config) for path in weight.ours]


def write_tensor(values: Sequence[np.ndarray], weight: Weight, config: EncoderConfig) -> np.ndarray:
    """A tensor, float32, of the parameters of one layer that it holds: what `read_tensor` reads."""
    parts = []
    for path, value in zip(weight.ours, values, strict=True):
        if weight.interleaved:
            value = np.take(value, np.argsort(_pairs(config.head_size)), _head_axis(path))
        if path.endswith("kernel"):
            value = (value if _is_convolution(path) else value.reshape(_inputs(path, value.shape), -1)).T
        elif len(weight.ours) > 1 or (value.ndim > 1 and path.endswith("bias")):
            value = value.reshape(-1)
        parts.append(value)
    whole = np.concatenate(parts)
    if weight.by_head:
        whole = _swapped(whole, len(parts), config.num_heads)
    if weight.skip:
        whole = np.concatenate([np.zeros((weight.skip, *whole.shape[1:]), whole.dtype), whole])
    return np.ascontiguousarray(whole, np.float32)


def read_tensor(
    tensor: np.ndarray, slots: Sequence[np.ndarray], weight: Weight, config: EncoderConfig, where: str
) -> None:
    """Fill the parameters of one layer that a tensor holds; ValueError, naming `where`, for one of another shape."""
    paths, skip, kernel = weight.ours, weight.skip, weight.ours[0].endswith("kernel")
    rows = [_rows(path, slot.shape) for path, slot in zip(paths, slots, strict=True)]
    expected = (skip + sum(rows), *_columns(paths[0], slots[0].shape))
    if tensor.shape != expected:
        raise ValueError(f"{where} has the shape {list(tensor.shape)}, but config.json asks for {list(expected)}")
    if weight.by_head:
        tensor = _swapped(tensor, config.num_heads, len(slots))
    start = skip
    for path, slot, count in zip(paths, slots, rows, strict=True):
        part = tensor[start : start + count]
        part = (part.T if kernel else part).reshape(slot.shape)
        slot[...] = np.take(part, _pairs(config.head_size), _head_axis(path)) if weight.interleaved else part
        start += count


def renamed(tensors: Iterable[str], prefix: str, aliases: Mapping[str, str]) -> dict[str, str]:
    """Names as the tables write them -> names as the file has them.

    Checkpoints of the encoder alone leave the prefix out, the oldest ones call a norm's weights gamma and beta, and
    `aliases` are a family's own other names, by their beginnings.
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


def _place(path: str, layer: int | None, config: EncoderConfig) -> tuple[str, int | None]:
    """Where a layer's parameter stands: its path, and its row in a stack (None outside one)."""
    if layer is None:
        return path, None
    repeat, block = divmod(layer, len(config.windows))
    stack = "layers" if repeat < config.repeats else "last"
    return path.replace("/layer/", f"/{stack}/block_{block}/"), repeat if stack == "layers" else None


def _layers(weight: Weight, first: int, config: EncoderConfig) -> Sequence[int | None]:
    """The numbers of the layers that have a tensor of their own, or None for a weight outside them."""
    inside = any(letter in weight.theirs for letter in (LAYER, ROW, BLOCK))
    return range(first, config.stack * len(config.windows) + len(config.remainder)) if inside else (None,)


def _name(weight: Weight, layer: int | None, config: EncoderConfig) -> str:
    if layer is None:
        return weight.theirs
    row, block = divmod(layer, len(config.windows))
    return weight.theirs.format(layer=layer, row=row, block=block)


def _swapped(tensor: np.ndarray, outer: int, inner: int) -> np.ndarray:
    """Rows that stand in `outer` groups of `inner` parts, as `inner` groups of `outer` parts."""
    parts = tensor.reshape(outer, inner, -1, *tensor.shape[1:])
    return np.swapaxes(parts, 0, 1).reshape(tensor.shape)


def _pairs(size: int) -> np.ndarray:
    """Where the first halves of neighbouring pairs stand, then where the second halves do."""
    return np.r_[0:size:2, 1:size:2]


def _head_axis(path: str) -> int:
    """The axis of a head's dimensions in a parameter of attention."""
    return -2 if path.endswith("output/kernel") else -1


def _is_convolution(path: str) -> bool:
    """Whether a kernel is [taps, inputs, outputs], which torch has the other way round."""
    return path.endswith("convolution/kernel")


def _inputs(path: str, shape: tuple[int, ...]) -> int:
    """The size of a kernel's inputs: two axes, heads and head size, in attention's output, one elsewhere."""
    two = path.endswith("attention/output/kernel") or _is_convolution(path)
    return math.prod(shape[:2]) if two else shape[0]


def _rows(path: str, shape: tuple[int, ...]) -> int:
    if path.endswith("kernel"):
        return math.prod(shape) // _inputs(path, shape)
    return math.prod(shape) if path.endswith("bias") else shape[0]


def _columns(path: str, shape: tuple[int, ...]) -> Iterator[int] | tuple[int, ...]:
    if _is_convolution(path):
        return shape[1::-1]
    if path.endswith("kernel"):
        return (_inputs(path, shape),)
    return () if path.endswith("bias") else shape[1:]
