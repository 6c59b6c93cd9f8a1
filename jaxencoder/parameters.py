"""What the path of a parameter says of it: whether layers are stacked in it, and which axes its matrices have."""

from typing import Any

import jax


def path_of(path: tuple[Any, ...]) -> str:
    """A key path of `jax.tree_util` as text: "encoder/layers/block_0/mlp/up/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_stacked(path: str) -> bool:
    """Whether the parameter at this path has the layers on its leading axis."""
    return "layers" in path.split("/")


def matrix_axes(path: str, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes that a kernel reads from and writes to, or None for what is no matrix; stacks keep axis 0 aside."""
    parts = path.split("/")
    first = int(is_stacked(path))
    if parts[-1] != "kernel" or ndim - first < 2:
        return None
    # Kernels [D,N,H] read one axis and write two; the attention's output kernel [N,H,D] is the other way round.
    last_read = ndim - 1 if parts[-2:-1] == ["output"] else first + 1
    return tuple(range(first, last_read)), tuple(range(last_read, ndim))
