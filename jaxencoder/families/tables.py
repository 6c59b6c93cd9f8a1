"""Tables of weights, read in both directions: a checkpoint's tensors to our parameters and back.

A family names modules. `rows` makes a row of each tensor, which pairs its name with the path of a parameter. Shapes
follow from the parameter alone. A torch matrix is [out, in]. A kernel has its inputs first and may have several axes on
either side: [D, N, H] for a query.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import EllipsisType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import joblib
import numpy as np

from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.encoder import Encoder
from jaxencoder.model.heads import Head, HeadConfig, MlmHead
from jaxencoder.parameters import flatten, map_with_paths

QKV = ("encoder/layer/attention/query", "encoder/layer/attention/key", "encoder/layer/attention/value")
_LONE = ("/bias", "/expert_up", "/expert_down")  # parameters that a table names without the end of the tensor's name
_TILE = 128, 512
Params = dict[str, Any]
Slot = tuple[str, int | EllipsisType]  # path of a parameter, and the layer's index in its stack (... outside one)


class Weight(NamedTuple):
    """One row: a tensor and the parameters that it holds. In a family's table: a module of such tensors."""

    # Paths of parameters, whose rows the tensor concatenates. `encoder/layer/...` is a parameter of each layer.
    ours: tuple[str, ...]
    # Name of the tensor; the key in a family's table. {layer} stands for the number of the layer, {row} and {block} for
    # its indices in the stacked parameters.
    theirs: str = ""
    skip: int = 0  # unused rows at the start of the tensor (zeros when written)
    first_layer: int = 0  # that has this tensor. Earlier layers keep ones, which the model never reads.
    by_head: bool = False  # the tensor concatenates `ours` within each head
    interleaved: bool = False  # the tensor's rotary pairs are neighbors (2 i, 2 i + 1); ours are (i, i + H / 2)


# Module in the checkpoint -> ours: an embedding table, norm, projection, several projections, or a lone bias.
Names = Mapping[str, str | Weight]


def parameter_shapes(config: EncoderConfig, mlm_head: bool, heads: Mapping[str, HeadConfig] | None = None) -> Params:
    """The shapes of the parameters of an encoder and its heads, as a tree of ShapeDtypeStructs."""
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
    token = jnp.ones((1, 1), jnp.int32)
    return jax.eval_shape(Encoder(config).init, jax.random.key(0), token, token, token)["params"]


@cache
def _mlp_paths(config: EncoderConfig) -> frozenset[str]:
    return frozenset(path for path in flatten({"encoder": _encoder_shapes(config)}) if "/mlp/" in path)


def rows(names: Names, shapes: Params, prefix: str) -> list[Weight]:
    """The rows of the modules whose parameters a model has.

    Args:
        names: table of modules. An option such as a bias needs no row: it has one if the model has the parameter.
        shapes: the model's parameters below `prefix`, such as "encoder".
    """
    paths = {_of_any_layer(f"{prefix}/{path}") for path in flatten(shapes)}
    weights = []
    for theirs, module in names.items():
        module = module if isinstance(module, Weight) else Weight((module,))
        for leaf, end in (("", ""), ("/kernel", ".weight"), ("/scale", ".weight"), ("/bias", ".bias")):
            ours = tuple(path + leaf for path in module.ours)
            if not paths.issuperset(ours):
                continue
            end = end if leaf or ours[0].endswith(_LONE) else ".weight"  # of an embedding table
            # Rotary pairs reorder the inputs of attention's output, and its bias belongs to the outputs.
            interleaved = module.interleaved and not ours[0].endswith("output/bias")
            weights.append(module._replace(ours=ours, theirs=theirs + end, interleaved=interleaved))
    return weights


def mlm_head(dense: str, norm: str, bias: str) -> Names:
    """The table of BERT's masked-language-model head."""
    return {dense: "mlm_head/dense", norm: "mlm_head/norm", bias: "mlm_head/bias"}


def with_prefix(names: Names, old: str, new: str, without: str = "") -> dict[str, str | Weight]:
    """The table of another family: `old` at the start of names becomes `new`; names with `without` are left out."""
    kept = {name: ours for name, ours in names.items() if not without or without not in name}
    return {new + name.removeprefix(old) if name.startswith(old) else name: ours for name, ours in kept.items()}


def from_tensors(
    weights: Sequence[Weight],
    tensors: Mapping[str, np.ndarray],
    shapes: Params,
    config: EncoderConfig,
    source: str,
    shape_of: Callable[[str], tuple[int, ...]] | None = None,
) -> tuple[Params, set[str]]:
    """Read parameters, float32, from a checkpoint, each tensor once and straight into the stacked layers.

    Args:
        weights: the rows of all parameters in `shapes`.
        tensors: name -> array of any float dtype.
        config: decides which layer is where in the stacks.
        source: name of the checkpoint for error messages.
        shape_of: name -> shape, where that needs no array; all are checked before the first tensor is read.

    Returns:
        (parameters, names of the tensors that were read).

    Raises:
        ValueError: a tensor is missing or has another shape, or a parameter has no row.
    """
    # Ones stay in the layers before the first one that has a tensor.
    later = {path for weight in weights if weight.first_layer for path in weight.ours}
    arrays = {path: _empty(leaf.shape) for path, leaf in flatten(shapes).items()}
    for path, array in arrays.items():
        if _of_any_layer(path) in later:
            array[...] = 1
    table = {path for weight in weights for path in weight.ours}
    if missing := [path for path in arrays if _of_any_layer(path) not in table]:
        raise ValueError(f"the table has no row for {missing[0]}")
    tensors_to_read = list(tensors_of(weights, config))
    if missing := [name for _, name, _ in tensors_to_read if name not in tensors]:
        raise ValueError(f"{source} has no weight {missing[0]}; it is incomplete, or of another architecture")
    targets = {name: [arrays[path][index] for path, index in slots] for _, name, slots in tensors_to_read}
    if shape_of:
        for weight, name, _ in tensors_to_read:
            _check_shape(shape_of(name), targets[name], weight, f"{source}: {name}")

    def read(row: tuple[Weight, str, list[Slot]]) -> None:
        weight, name, _ = row
        read_tensor(np.asarray(tensors[name]), targets[name], weight, config, f"{source}: {name}")

    with ThreadPoolExecutor(joblib.cpu_count()) as threads:  # numpy copies without the lock of the interpreter
        list(threads.map(read, tensors_to_read))
    for array in arrays.values():
        array.flags.writeable = False
    return map_with_paths(lambda path, _: arrays[path], shapes), {name for _, name, _ in tensors_to_read}


def to_tensors(weights: Sequence[Weight], params: Params, config: EncoderConfig) -> dict[str, np.ndarray]:
    """A checkpoint's tensors, float32, from parameters: the inverse of `from_tensors`."""
    arrays = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    return {
        name: write_tensor([arrays[path][row] for path, row in slots], weight, config)
        for weight, name, slots in tensors_of(weights, config)
    }


def tensors_of(weights: Sequence[Weight], config: EncoderConfig) -> Iterator[tuple[Weight, str, list[Slot]]]:
    """The tensors of a checkpoint: row of the table, name, and the parameters in it."""
    layers = config.stack * len(config.windows) + len(config.remainder)
    for weight in weights:
        if "{" not in weight.theirs:
            yield weight, weight.theirs, [(path, ...) for path in weight.ours]
            continue
        for layer in range(weight.first_layer, layers):
            repeat, block = divmod(layer, len(config.windows))
            stack, row = ("layers", repeat) if repeat < config.repeats else ("last", ...)
            paths = [path.replace("/layer/", f"/{stack}/block_{block}/") for path in weight.ours]
            if "/mlp/" in paths[0] and (paths[0] not in _mlp_paths(config)):  # of the layers' other kind of MLP
                continue
            name = weight.theirs.format(layer=layer, row=repeat, block=block)
            yield weight, name, [(path, row) for path in paths]


def write_tensor(values: Sequence[np.ndarray], weight: Weight, config: EncoderConfig) -> np.ndarray:
    """The tensor, float32, of the parameters of one layer: the inverse of `read_tensor`."""
    parts = []
    for path, value in zip(weight.ours, values, strict=True):
        if weight.interleaved:
            value = np.take(value, np.argsort(_pairs_first(config.head_size)), _head_axis(path))
        shape = _tensor_shape(path, value.shape)
        if path.endswith("expert_up"):
            value = np.swapaxes(value, 1, 2)
        parts.append(value.reshape(shape[::-1]).T if path.endswith("kernel") else value.reshape(shape))
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
    shapes = _check_shape(tensor.shape, targets, weight, source)
    if weight.by_head:
        tensor = _swap_groups(tensor, config.num_heads, len(targets))
    start = weight.skip
    for path, target, shape in zip(weight.ours, targets, shapes, strict=True):
        part = tensor[start : start + shape[0]]
        if weight.interleaved:
            part = (part.T if path.endswith("kernel") else part).reshape(target.shape)
            target[...] = np.take(part, _pairs_first(config.head_size), _head_axis(path))
        elif path.endswith("kernel"):
            _copy_transposed(part, target.reshape(part.shape[::-1]))
        elif path.endswith("expert_up"):
            for kernel, rows in zip(target, np.split(part, len(target)), strict=True):
                _copy_transposed(rows, kernel)
        else:
            target[...] = part.reshape(target.shape)
        start += shape[0]


def _check_shape(
    shape: tuple[int, ...], targets: Sequence[np.ndarray], weight: Weight, source: str
) -> list[tuple[int, ...]]:
    """The shape of each parameter's part of a tensor; ValueError if that of the tensor is another one."""
    parts = [_tensor_shape(path, target.shape) for path, target in zip(weight.ours, targets, strict=True)]
    expected = (weight.skip + sum(part[0] for part in parts), *parts[0][1:])
    if shape != expected:
        raise ValueError(f"{source} has the shape {list(shape)}, but config.json asks for {list(expected)}")
    return parts


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array, float32, that jax uses on CPUs as it is, without a copy: it begins at a multiple of 64 bytes."""
    size = 4 * math.prod(shape)
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(np.float32).reshape(shape)


def _copy_transposed(source: np.ndarray, target: np.ndarray) -> None:
    """Copy a tensor with its axes in reverse order, in tiles that fit a core's cache: about three times as fast."""
    if source.ndim != 2:
        target[...] = source.T
        return
    rows, columns = _TILE
    for i in range(0, source.shape[0], rows):
        for j in range(0, source.shape[1], columns):
            target[j : j + columns, i : i + rows] = source[i : i + rows, j : j + columns].T


def renamed(
    tensors: Iterable[str], prefix: str, aliases: Mapping[str, str], table_names: Collection[str] = ()
) -> dict[str, str]:
    """Names in the tables -> names in the file.

    Checkpoints of the encoder alone leave out the prefix, those of a model that holds this one have another prefix
    before it, the oldest ones call a norm's weights gamma and beta, torch calls a parametrized weight original, and
    `aliases` maps a family's other prefixes to those in its tables.

    Args:
        table_names: of the family's tensors; those of heads have no prefix.
    """
    names = {}
    for name in tensors:
        standard = re.sub(r"\.parametrizations\.(\w+)\.original$", r".\1", name)
        standard = re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", standard)
        standard = re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", standard)
        if alias := next((old for old in aliases if name.startswith(old)), None):
            standard = aliases[alias] + standard.removeprefix(alias)
        names[standard] = name
    if any(name.startswith(prefix) for name in names):
        return names
    outer = _outer_prefix(names, prefix, table_names)
    names = {name.removeprefix(outer): other for name, other in names.items()}
    if any(name.startswith(prefix) for name in names):
        return names
    return {name if name in table_names else prefix + name: other for name, other in names.items()}


def _outer_prefix(names: Collection[str], prefix: str, table_names: Collection[str]) -> str:
    """The prefix before the encoder's names, such as `model.` or, instead of `bert.`, `encoder.`; perhaps empty."""
    ends = {name.removeprefix(prefix) for name in table_names if name.startswith(f"{prefix}embeddings.")}
    outer = {name.removesuffix(end).removesuffix(prefix) for name in names for end in ends if name.endswith(f".{end}")}
    return outer.pop() if len(outer) == 1 and not ends & set(names) else ""


def _of_any_layer(path: str) -> str:
    return re.sub(r"/(layers|last)/block_\d+/", "/layer/", path)


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


def _tensor_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a parameter's tensor: [outputs, inputs] for a kernel, one axis for a bias."""
    if path.endswith("expert_up"):
        return shape[0] * shape[2], shape[1]  # [E F, D], as also of expert_down; ours are [E, D, F] and [E, F, D]
    if path.endswith("expert_down"):
        return shape[0] * shape[1], shape[2]
    if path.endswith("convolution/kernel"):
        return shape[::-1]  # ours is [taps, inputs, outputs]
    if path.endswith("kernel"):
        inputs = math.prod(shape[:2]) if path.endswith("attention/output/kernel") else shape[0]  # [N, H, D]: two axes
        return math.prod(shape) // inputs, inputs
    return (math.prod(shape),) if path.endswith("bias") else shape
