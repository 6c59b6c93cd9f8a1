"""Low-rank adaptation: for each kernel, train two small matrices whose product is added to it.

Hu et al. 2021 (LoRA), arXiv:2106.09685; scaled by the root of the rank: Kalajdzievski 2023, arXiv:2312.03732; with a
trained magnitude for each output: Liu et al. 2024 (DoRA), arXiv:2402.09353.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params
from jaxencoder.parameters import flatten, is_stacked, is_table, kernel_axes, map_with_paths, matrix_axes, set_path

NAME = "lora"  # of the adapter among the parameters
TRAINABLE = (r"^(?!encoder/)",)  # the adapter and the heads; the encoder is frozen


@dataclass(frozen=True)
class LoraConfig:
    """Settings of low-rank adaptation."""

    rank: int = 0
    """Rank of the product. 0: no adapter. With an adapter the encoder is frozen, unless optimizer.trainable is set."""
    alpha: float = 16.0
    """The product is scaled by alpha / rank."""
    targets: tuple[str, ...] = (r"^encoder/.*attention/(query|value)/kernel$",)
    """Regular expressions, searched in parameter paths, of the kernels to adapt."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead, so that larger ranks do not train more slowly."""
    dora: bool = False
    """Train the magnitude of each output's weights separately from their direction."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"adapter.rank is {self.rank}; give 0 or a positive rank.")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"adapter.alpha is {self.alpha}; give a positive number.")
        if self.rank and not self.targets:
            raise ValueError(f"adapter.rank is {self.rank}, but adapter.targets is empty; name kernels or set it to 0.")
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter.targets holds {pattern!r}, not a regular expression: {error}.") from None

    @property
    def scale(self) -> float:
        """The factor of the product of the two matrices."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


class TaskAdapter(NamedTuple):
    """A low-rank adapter for a task of an embedder."""

    task: str
    lora: LoraConfig
    params: Params  # as of `init_lora`


def with_lora(lora: LoraConfig, objective: Objective) -> Objective:
    """The objective with an adapter among its parameters, under "lora"; unchanged if the rank is 0.

    A new adapter does not change the loss. Loss, scores and models take parameters with or without an adapter.
    """
    if not lora.rank:
        return objective

    def init(key: jax.Array) -> Params:
        params = objective.init(key)
        return params | {NAME: init_lora(lora, params, jax.random.fold_in(key, 1))}

    def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
        return objective.loss(merge_lora(lora, params), batch, key, train)

    def merged(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
        return function and (lambda params, *inputs: function(merge_lora(lora, params), *inputs))

    return objective._replace(init=init, loss=loss, scores=merged(objective.scores), models=merged(objective.models))


def init_lora(lora: LoraConfig, params: Params, key: jax.Array) -> Params:
    """A new adapter that does not change the model: {path of the kernel: {"a", "b"}}, nested as the kernels are.

    For a kernel of I inputs and O outputs, "a" is [I, rank], uniform in +-1 / sqrt(I), and "b" [rank, O], zero; with
    `dora` also "size" [O], zero, which is added to the norm of each output's weights. Stacked kernels have a leading
    axis of layers, [L, ...]. ValueError for a target pattern that matches no kernel, or another parameter.
    """
    leaves = flatten(params)
    targets: dict[str, jax.Array] = {}
    for pattern in lora.targets:
        paths = [path for path in leaves if re.search(pattern, path)]
        if not paths:
            kernels = [path for path, x in leaves.items() if matrix_axes(path, x.ndim)]
            raise ValueError(f"adapter.targets holds {pattern!r}, which matches no path, such as {kernels[0]}")
        for path in paths:
            if matrix_axes(path, leaves[path].ndim) is None:
                raise ValueError(f"adapter.targets holds {pattern!r}, which matches {path}; give kernels only")
            targets[path] = leaves[path]
    tree: Params = {}
    for number, (path, kernel) in enumerate(sorted(targets.items())):
        *layers, inputs, outputs = _as_matrix(path, kernel).shape
        bound = 1 / math.sqrt(inputs)
        shape = (*layers, inputs, lora.rank)
        a = jax.random.uniform(jax.random.fold_in(key, number), shape, minval=-bound, maxval=bound)
        adapter = {"a": a, "b": jnp.zeros((*layers, lora.rank, outputs))}
        if lora.dora:
            adapter["size"] = jnp.zeros((*layers, outputs))
        set_path(tree, path, adapter)
    return tree


def merge_lora(lora: LoraConfig, params: Params) -> Params:
    """Equivalent parameters without an adapter; parameters without one are returned unchanged."""
    if NAME not in params:
        return params
    base = {name: part for name, part in params.items() if name != NAME}
    adapters = by_kernel(params[NAME])
    if unknown := sorted(adapters.keys() - flatten(base).keys()):
        raise ValueError(f"the adapter is of {unknown[0]}, which the model does not have; it belongs to another model")
    return map_with_paths(lambda path, x: _merge_kernel(lora, path, x, adapters[path]) if path in adapters else x, base)


def by_kernel(adapter: Params) -> dict[str, Params]:
    """The matrices of an adapter, by path of the kernel."""
    adapters: dict[str, Params] = {}
    for path, x in flatten(adapter).items():
        kernel, _, name = path.rpartition("/")
        adapters.setdefault(kernel, {})[name] = x
    return adapters


def _merge_kernel(lora: LoraConfig, path: str, kernel: jax.Array, adapter: Params) -> jax.Array:
    weights = _as_matrix(path, kernel)
    merged = weights + lora.scale * (adapter["a"] @ adapter["b"])
    if "size" in adapter:
        size = jnp.linalg.norm(weights, axis=-2) + adapter["size"]
        # The paper's section 4.3: no gradient through the norm saves memory and changes little.
        norm = jax.lax.stop_gradient(jnp.linalg.norm(merged, axis=-2))
        merged *= (size / jnp.where(norm > 0, norm, 1))[..., None, :]
    return merged.reshape(kernel.shape).astype(kernel.dtype)


def _as_matrix(path: str, kernel: jax.Array) -> jax.Array:
    """A kernel as [I, O], or as [L, I, O] if layers are stacked; a table [V, D] as it is."""
    if is_table(path):
        return kernel
    layers = kernel.shape[: int(is_stacked(path))]
    inputs, outputs = (math.prod(kernel.shape[i] for i in axes) for axes in kernel_axes(path, kernel.ndim))
    return kernel.reshape(*layers, inputs, outputs)
