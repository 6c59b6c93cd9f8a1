"""Placement of arrays: the mesh, one table from parameter names to mesh axes, and constraints on activations.

Modules carry no sharding. XLA's SPMD partitioner (Xu et al. 2021, arXiv:2105.04663) derives the rest from the specs.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxencoder.parameters import is_stacked, path_of

P = PartitionSpec
ROWS = ("data", "fsdp")  # the axes that split a batch's rows

# First match wins. Specs are aligned to the trailing axes, so that stacked layers need no separate rows.
PARAMETER_TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(token_embedding|mlm_head/table)$", P("tensor", "fsdp")),
    (r"((position|token_type|task_type)_embedding|distance_embedding/table)$", P(None, "fsdp")),
    (r"convolution/kernel$", P(None, "fsdp", "tensor")),
    (r"(query|key|value)/kernel$", P("fsdp", "tensor", None)),
    (r"(query|key|value)/bias$", P("tensor", None)),
    (r"output/kernel$", P("tensor", None, "fsdp")),
    (r"bottleneck/down/kernel$", P("fsdp", None)),  # too narrow to split over tensor: that would cost a sum
    (r"bottleneck/up/kernel$", P(None, "fsdp")),
    (r"bottleneck/.*/bias$", P()),
    (r"(up|gate)/kernel$", P("fsdp", "tensor")),
    (r"(up|gate)/bias$", P("tensor")),
    (r"down/kernel$", P("tensor", "fsdp")),
    (r"expert_(up|gate)$", P("fsdp", "tensor")),  # every device has a part of each expert
    (r"expert_down$", P("tensor", "fsdp")),
    (r"dense/kernel$", P("fsdp", None)),
    (r"mlm_head/bias$", P("tensor")),
    (r"", P()),
)


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; the product must be the number of devices."""

    data: int = -1
    """Copies of the model, each with different rows; -1 takes the remaining devices."""
    fsdp: int = 1
    """Devices that split rows *and* every parameter with its optimizer state."""
    tensor: int = 1
    """Devices that split a layer's heads, MLP and vocabulary."""
    context: int = 1
    """Devices that split the length of a row."""

    def __post_init__(self) -> None:
        sizes = astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise ValueError(f"Mesh axes must be positive, at most one of them -1, got {self}.")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The device mesh with the axes data, fsdp, tensor and context; ValueError if it does not fit the devices."""
    devices = jax.devices() if devices is None else devices
    fixed = math.prod(size for size in astuple(config) if size != -1)
    sizes = {name: len(devices) // fixed if size == -1 else size for name, size in asdict(config).items()}
    if math.prod(sizes.values()) != len(devices):
        axes = ", ".join(f"{name} {size}" for name, size in asdict(config).items())
        raise ValueError(
            f"A mesh of {axes} does not fit {len(devices)} device(s); make the axes multiply to {len(devices)}."
        )
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes), devices=devices)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """A mesh without devices, to compute shardings for other machines; an axis of -1 has size 1."""
    sizes = {name: max(size, 1) for name, size in asdict(config).items()}
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """NamedShardings by `PARAMETER_TABLE` for a tree of parameters or optimizer state (arrays or their shapes)."""

    def sharding(path: tuple, leaf: jax.Array) -> NamedSharding:
        name = path_of(path)
        spec = next(spec for pattern, spec in PARAMETER_TABLE if re.search(pattern, name))
        # A factored statistic has fewer axes than its parameter and is small enough to replicate.
        if len(spec) > leaf.ndim - is_stacked(name):
            return NamedSharding(mesh, P())
        axes = (None,) * (leaf.ndim - len(spec)) + tuple(spec)
        # A dimension that its mesh axis does not divide is replicated.
        fits = (a if a and size % mesh.shape[a] == 0 else None for a, size in zip(axes, leaf.shape, strict=True))
        return NamedSharding(mesh, P(*fits))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def batch_sharding(mesh: Mesh, ndim: int) -> NamedSharding:
    """Sharding of a batch's arrays [B, T], ndim 2: rows over data and fsdp, tokens over context; labels are ndim 1."""
    return NamedSharding(mesh, P(ROWS, "context") if ndim == 2 else P(ROWS))


def row_shards() -> int:
    """Parts into which the mesh in use (`jax.set_mesh`) splits a batch's rows; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in ROWS)


def length_shards() -> int:
    """Parts into which the mesh in use splits the length of a row; 1 without a mesh."""
    return jax.sharding.get_abstract_mesh().shape.get("context", 1)


def replicate_rows(table: jax.Array) -> jax.Array:
    """Gather an embedding table [V, D] for a lookup, so that its result is split over the batch's rows instead."""
    if jax.sharding.get_abstract_mesh().empty:
        return table
    return jax.lax.with_sharding_constraint(table, P(None, None))


def constrain(x: jax.Array) -> jax.Array:
    """Keep activations [B, T, D] split over rows and tokens; the identity without a mesh (`jax.set_mesh`).

    A dimension that its mesh axis does not divide is not constrained.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    rows, context = splitting_axes(mesh, x.shape[0], ROWS), splitting_axes(mesh, x.shape[1], ("context",))
    return jax.lax.with_sharding_constraint(x, P(rows or None, context or None, None))


def splitting_axes(mesh: Mesh | AbstractMesh, size: int, axes: tuple[str, ...]) -> tuple[str, ...]:
    """The given axes that the mesh has with a size above 1; none of them if they do not divide the dimension's size."""
    axes = tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)
    return axes if size % math.prod(mesh.shape[axis] for axis in axes) == 0 else ()
