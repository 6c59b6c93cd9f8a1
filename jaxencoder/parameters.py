"""Parameters by path: names of tree leaves, stacked layers, and the axes of kernels."""

from collections.abc import Callable
from typing import Any

import jax


def path_of(path: tuple[Any, ...]) -> str:
    """A key path of `jax.tree_util` as text: "encoder/layers/block_0/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def map_with_paths(function: Callable[..., Any], tree: Any, *trees: Any) -> Any:
    """`jax.tree.map` of a function whose first argument is the leaf's path."""
    return jax.tree.map_with_path(lambda path, *leaves: function(path_of(path), *leaves), tree, *trees)


def flatten(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by path, in the tree's order."""
    return {path_of(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of a nested dict, creating the dicts above it."""
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value


def is_stacked(path: str) -> bool:
    """Whether the parameter has layers on its leading axis."""
    return "layers" in path.split("/")


def is_table(path: str) -> bool:
    """Whether the parameter is an embedding table [rows, D]."""
    return path.endswith("_embedding")


def matrix_axes(path: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The input axes and the output axes of a kernel, or None for other parameters."""
    parts, first = path.split("/"), int(is_stacked(path))  # the layer axis is in neither
    if parts[-1] != "kernel" or ndim - first < 2:
        return None
    # Kernels [D,N,H] have one input axis and two output axes; the attention's output kernel [N,H,D] is the reverse.
    last_input = ndim - 1 if parts[-2:-1] == ["output"] else first + 1
    return tuple(range(first, last_input)), tuple(range(last_input, ndim))


def kernel_axes(path: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`matrix_axes` of a kernel; ValueError for another parameter."""
    if (axes := matrix_axes(path, ndim)) is None:
        raise ValueError(f"{path} is no kernel; only kernels can be adapted")
    return axes
