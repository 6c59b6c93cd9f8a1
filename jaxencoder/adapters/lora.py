"""Low-rank adaptation: instead of a kernel, two small matrices are trained whose product is added to it.

Hu et al. 2021 (LoRA), arXiv:2106.09685; scaled by the root of the rank: Kalajdzievski 2023, arXiv:2312.03732; with a
magnitude of its own for each output: Liu et al. 2024 (DoRA), arXiv:2402.09353.
"""

import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params
from jaxencoder.parameters import is_stacked, matrix_axes, path_of

NAME = "lora"  # of the adapter among the parameters
TRAINABLE = (r"^(?!encoder/)",)  # what learns beside a frozen encoder: the adapter and the heads


@dataclass(frozen=True)
class LoraConfig:
    """Settings of low-rank adaptation.

    Raises:
        ValueError: a setting lies outside its range.
    """

    rank: int = 0
    """Of the product; 0: no adapter. With one, the encoder itself stays, unless optimizer.trainable says otherwise."""
    alpha: float = 16.0
    """The product is scaled by alpha / rank."""
    targets: tuple[str, ...] = (r"^encoder/.*attention/(query|value)/kernel$",)
    """Regular expressions, searched in a parameter's path, of the kernels that are adapted."""
    rank_stabilized: bool = False
    """Scale by alpha / sqrt(rank) instead, so that a larger rank does not learn more slowly."""
    dora: bool = False
    """Learn the size of each output's weights apart from their direction."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"adapter.rank is {self.rank}; give 0 or a positive rank.")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"adapter.alpha is {self.alpha}; give a positive number.")
        if self.rank and not self.targets:
            raise ValueError(
                f"adapter.rank is {self.rank}, but adapter.targets is empty; name kernels, or set it to 0."
            )
        for pattern in self.targets:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"adapter.targets holds {pattern!r}, not a regular expression: {error}.") from None

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


def with_lora(lora: LoraConfig, objective: Objective) -> Objective:
    """The objective with an adapter beside its parameters, under "lora"; it starts as if there were none.

    Its loss, scores and models take parameters with an adapter or without.
    """
    if not lora.rank:
        return objective

    def init(key: jax.Array) -> Params:
        params = objective.init(key)
        return params | {NAME: init_lora(lora, params, jax.random.fold_in(key, 1))}

    def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
        return objective.loss(merge_lora(lora, params), batch, key, train)

    def scores(params: Params, batch: Batch, key: jax.Array, train: bool) -> jax.Array:
        return objective.scores(merge_lora(lora, params), batch, key, train)

    def models(params: Params) -> dict[str, Params]:
        return objective.models(merge_lora(lora, params))

    return Objective(init, loss, objective.scores and scores, objective.models and models)


def init_lora(lora: LoraConfig, params: Params, key: jax.Array) -> Params:
    """An adapter that changes nothing yet: {path of the kernel: {"a", "b"}}, nested as the kernels are.

    With I numbers read and O written by a kernel, "a" is [I, rank], uniform in +-1 / sqrt(I), and "b" [rank, O], zero;
    with `dora` there is "size" [O], zero, what is added to the size of each output's weights. Stacked kernels have them
    for each layer, [L, ...].

    Raises:
        ValueError: a pattern of the targets finds no kernel, or something that is none.
    """
    flat = {path_of(path): x for path, x in jax.tree.leaves_with_path(params)}
    found: dict[str, Params] = {}
    for pattern in lora.targets:
        paths = [path for path in flat if re.search(pattern, path)]
        if not paths:
            kernels = [path for path, x in flat.items() if matrix_axes(path, x.ndim)]
            raise ValueError(f"adapter.targets holds {pattern!r}, which is in no path, such as {kernels[0]}")
        for path in paths:
            if matrix_axes(path, flat[path].ndim) is None:
                raise ValueError(f"adapter.targets holds {pattern!r}, which finds {path}; only kernels can be adapted")
            found[path] = flat[path]
    tree: Params = {}
    for number, (path, kernel) in enumerate(sorted(found.items())):
        *layers, size_in, size_out = _matrix(path, kernel).shape
        bound = 1 / math.sqrt(size_in)
        a = jax.random.uniform(
            jax.random.fold_in(key, number), (*layers, size_in, lora.rank), minval=-bound, maxval=bound
        )
        adapter = {"a": a, "b": jnp.zeros((*layers, lora.rank, size_out))}
        if lora.dora:
            adapter["size"] = jnp.zeros((*layers, size_out))
        _put(tree, path, adapter)
    return tree


def merge_lora(lora: LoraConfig, params: Params) -> Params:
    """Parameters without an adapter that compute what these do with theirs; others as they are."""
    if NAME not in params:
        return params
    base = {name: part for name, part in params.items() if name != NAME}
    return _merged(lora, base, params[NAME], "")


def _merged(lora: LoraConfig, params: Params, adapter: Params, prefix: str) -> Params:
    result = dict(params)
    for name, part in adapter.items():
        path = f"{prefix}{name}"
        if "a" in part and not isinstance(part["a"], dict):
            result[name] = _kernel(lora, path, params[name], part)
        else:
            result[name] = _merged(lora, params[name], part, f"{path}/")
    return result


def _kernel(lora: LoraConfig, path: str, kernel: jax.Array, adapter: Params) -> jax.Array:
    weights = _matrix(path, kernel)
    changed = weights + lora.scale * (adapter["a"] @ adapter["b"])
    if "size" in adapter:
        size = jnp.linalg.norm(weights, axis=-2) + adapter["size"]
        # The paper's section 4.3: the norm is taken for a constant, which saves memory and changes little.
        norm = jax.lax.stop_gradient(jnp.linalg.norm(changed, axis=-2))
        changed *= (size / jnp.where(norm > 0, norm, 1))[..., None, :]
    return changed.reshape(kernel.shape).astype(kernel.dtype)


def _matrix(path: str, kernel: jax.Array) -> jax.Array:
    """A kernel as [I, O], or as [L, I, O] where layers are stacked."""
    read, write = matrix_axes(path, kernel.ndim)
    layers = kernel.shape[: int(is_stacked(path))]
    return kernel.reshape(*layers, math.prod(kernel.shape[i] for i in read), math.prod(kernel.shape[i] for i in write))


def _put(tree: Params, path: str, value: Params) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value
