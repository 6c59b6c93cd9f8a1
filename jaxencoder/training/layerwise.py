"""Which parameters learn, and how fast each layer does: freezing, and learning rates that fall towards the input.

Layer-wise decay: Howard and Ruder 2018 (ULMFiT), arXiv:1801.06146; Clark et al. 2020 (ELECTRA), arXiv:2003.10555.
Biases alone: Ben Zaken et al. 2022 (BitFit), arXiv:2106.10199.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params
from jaxencoder.parameters import path_of

_BLOCK = re.compile(r"^(?P<encoder>(?:.*/)?encoder)/(?P<group>layers|last)/block_(?P<number>\d+)/")
_BELOW = re.compile(r"^(?P<encoder>(?:.*/)?encoder)/(embeddings|relative_bias|distance_embedding|convolution)/")


def trainable_mask(patterns: Sequence[str]) -> Callable[[Params], Params]:
    """A function from parameters to the tree of bools that says which ones learn.

    Args:
        patterns: regular expressions, searched in a parameter's path.

    Raises:
        ValueError: (the function) no parameter matches one of them, or none of a low-rank adapter matches any.
    """

    def mask(params: Params) -> Params:
        paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(params)]
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(
                    f"optimizer.trainable holds {pattern!r}, which is in no parameter's path, such as {paths[0]}"
                )
        found = jax.tree.map_with_path(lambda path, _: any(re.search(p, path_of(path)) for p in patterns), params)
        if LORA in params and not any(jax.tree.leaves(found[LORA])):
            raise ValueError(
                f"optimizer.trainable {list(patterns)} leaves the adapter out, which would learn nothing; add "
                f'"^{LORA}/", or set adapter.rank to 0'
            )
        return found

    return mask


def layer_scales(params: Params, decay: float, frozen: int) -> Params:
    """What each update is multiplied by: arrays that broadcast against the parameters.

    With n layers, what stands above them (heads, poolers, a last norm) has 1, the top layer `decay`, the layer below
    it `decay` ** 2, and the embeddings `decay` ** (n + 1). Layers that share their parameters count once. A low-rank
    adapter has the place of its kernel.

    Args:
        params: arrays or shapes.
        decay: in (0, 1].
        frozen: so many layers from below, and with them the embeddings, have 0.

    Raises:
        ValueError: an encoder has fewer layers than are to be frozen.
    """
    height, layers = layer_heights(params)

    def scale(path: tuple[Any, ...], x: jax.Array) -> np.ndarray:
        encoder, above = height(path, x)
        if encoder is None:
            return np.float32(1)
        if frozen > layers[encoder]:
            raise ValueError(
                f"optimizer.frozen_layers is {frozen}, but {encoder} has {layers[encoder]} layers of its own"
            )
        stays = (layers[encoder] + 1 - above <= frozen) & (frozen > 0)
        return np.where(stays, 0, decay**above).astype(np.float32)

    return jax.tree.map_with_path(scale, params)


def layer_heights(params: Params) -> tuple[Callable[[tuple[Any, ...], jax.Array], tuple[str | None, Any]], dict]:
    """Where the layers of the encoders among parameters stand, counted from the top.

    Args:
        params: arrays or shapes.

    Returns:
        A function from a leaf's path and the leaf to its encoder's name, such as "encoder", and its height: 1.0 for the
        top layer, n for the lowest of n, n + 1 for the embeddings; of a stack float64 [L, 1, ...], which broadcasts
        against the leaf; (None, 0.0) for what stands above the layers. And of each encoder its number of layers, those
        that share their parameters counting once.
    """
    counts: dict[str, int] = {}
    widths: dict[str, int] = {}
    for path, x in jax.tree.leaves_with_path(params):
        if block := _BLOCK.match(path_of(path)):
            name, number = _whose(block), int(block["number"])
            if block["group"] == "layers":
                widths[name] = max(widths.get(name, 0), number + 1)
                counts[f"{name}/layers"] = x.shape[0]
            else:
                counts[f"{name}/last"] = max(counts.get(f"{name}/last", 0), number + 1)

    names = {name.rpartition("/")[0] for name in counts}
    stacked = {name: counts.get(f"{name}/layers", 0) * widths.get(name, 0) for name in names}
    layers = {name: stacked[name] + counts.get(f"{name}/last", 0) for name in names}

    def height(path: tuple[Any, ...], x: jax.Array) -> tuple[str | None, Any]:
        text = path_of(path)
        place = _BLOCK.match(text) or _BELOW.match(text)
        if place is None:
            return None, 0.0
        encoder = _whose(place)
        if "group" not in place.groupdict():
            depth = np.zeros(())
        elif place["group"] == "layers":
            depth = 1.0 + int(place["number"]) + widths[encoder] * np.arange(x.shape[0])
            depth = depth.reshape(-1, *[1] * (x.ndim - 1))
        else:
            depth = np.array(1.0 + stacked[encoder] + int(place["number"]))
        return encoder, layers[encoder] + 1 - depth

    return height, layers


def _whose(place: re.Match[str]) -> str:
    """The encoder of a parameter, or of the kernel that a low-rank adapter stands beside."""
    return place["encoder"].removeprefix(f"{LORA}/")


def scale_by_layer(decay: float, frozen: int) -> optax.GradientTransformation:
    """Multiplies updates by `layer_scales`."""

    def scale(updates: Params, params: Params) -> Params:
        return jax.tree.map(lambda x, s: x * s, updates, layer_scales(updates, decay, frozen))

    return optax.stateless(scale)


def only(mask: Callable[[Params], Params], optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser of the parameters that learn, with no state for the others, which stay as they are."""

    def labels(params: Params) -> Params:
        return jax.tree.map(lambda learns: "learns" if learns else "stays", mask(params))

    return optax.partition({"learns": optimizer, "stays": optax.set_to_zero()}, labels)


def stop_frozen_gradients(objective: Objective, mask: Callable[[Params], Params]) -> Objective:
    """An objective whose loss has no gradient by the parameters that stay, so that none is computed."""

    def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
        stop = lambda x, learns: x if learns else jax.lax.stop_gradient(x)  # noqa: E731
        return objective.loss(jax.tree.map(stop, params, mask(params)), batch, key, train)

    return objective._replace(loss=loss)
