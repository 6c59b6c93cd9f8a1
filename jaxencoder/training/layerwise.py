"""Frozen parameters, and learning rates that decrease from layer to layer towards the input.

Layer-wise decay: Howard and Ruder 2018 (ULMFiT), arXiv:1801.06146; Clark et al. 2020 (ELECTRA), arXiv:2003.10555.
Biases only: Ben Zaken et al. 2022 (BitFit), arXiv:2106.10199.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxencoder.adapters.lora import NAME as LORA
from jaxencoder.objectives.objective import Batch, Metrics, Objective, Params
from jaxencoder.parameters import flatten, map_with_paths, path_of

_BLOCK = re.compile(r"^(?P<encoder>(?:.*/)?encoder)/(?P<group>layers|last)/block_(?P<number>\d+)/")
_BELOW = re.compile(r"^(?P<encoder>(?:.*/)?encoder)/(embeddings|relative_bias|distance_embedding|convolution)/")


def trainable_mask(patterns: Sequence[str]) -> Callable[[Params], Params]:
    """A function from parameters to the tree of bools that is true where a pattern is found in a parameter's path.

    It raises ValueError if no parameter matches a pattern, or no parameter of a low-rank adapter matches any.
    """

    def mask(params: Params) -> Params:
        paths = list(flatten(params))
        for pattern in patterns:
            if not any(re.search(pattern, path) for path in paths):
                raise ValueError(
                    f"optimizer.trainable holds {pattern!r}, which matches no parameter's path, such as {paths[0]}"
                )
        trainable = map_with_paths(lambda path, _: any(re.search(pattern, path) for pattern in patterns), params)
        if LORA in params and not any(jax.tree.leaves(trainable[LORA])):
            raise ValueError(
                f"optimizer.trainable {list(patterns)} excludes the adapter, which would not be trained; add "
                f'"^{LORA}/", or set adapter.rank to 0'
            )
        return trainable

    return mask


def layer_scales(params: Params, decay: float, frozen: int) -> Params:
    """The factor of each update: arrays that broadcast against the parameters.

    With n layers, parameters above them (heads, poolers, a last norm) have 1, the top layer `decay`, the layer below
    it `decay` ** 2, and the embeddings `decay` ** (n + 1). Layers that share their parameters count once. A low-rank
    adapter has the factor of its kernel.

    `frozen` bottom layers get the factor 0, as do the embeddings; ValueError if an encoder has fewer layers.
    """
    height, layers = layer_heights(params)

    def scale(path: tuple[Any, ...], x: jax.Array) -> np.ndarray | np.float32:
        encoder, above = height(path, x)
        if encoder is None:  # heads, poolers, a last norm
            return np.float32(1)
        if frozen > layers[encoder]:
            raise ValueError(f"optimizer.frozen_layers is {frozen}, but {encoder} has only {layers[encoder]} layers")
        is_frozen = (layers[encoder] + 1 - above <= frozen) & (frozen > 0)
        return np.where(is_frozen, 0, decay**above).astype(np.float32)

    return jax.tree.map_with_path(scale, params)


def layer_heights(params: Params) -> tuple[Callable[[tuple[Any, ...], jax.Array], tuple[str | None, Any]], dict]:
    """The positions of parameters in the layers of their encoders, counted from the top.

    Returns:
        (height, layers). `height` maps a leaf's key path and the leaf to its encoder's name, such as "encoder", and its
        height: 1.0 for the top layer, n for the lowest of n, n + 1 for the embeddings; for a stack float64 [L, 1, ...],
        which broadcasts against the leaf; (None, 0.0) for parameters above the layers. `layers` is the number of layers
        of each encoder; layers that share their parameters count once.
    """
    repeats, widths, last = Counter(), Counter(), Counter()  # by encoder; widths: blocks per step of the scan
    for path, x in flatten(params).items():
        if block := _BLOCK.match(path):
            name, number = _encoder_name(block), int(block["number"])
            if block["group"] == "layers":
                repeats[name], widths[name] = x.shape[0], max(widths[name], number + 1)
            else:
                last[name] = max(last[name], number + 1)
    layers = {name: repeats[name] * widths[name] + last[name] for name in repeats | last}

    def height(path: tuple[Any, ...], x: jax.Array) -> tuple[str | None, Any]:
        text = path_of(path)
        match = _BLOCK.match(text) or _BELOW.match(text)
        if match is None:
            return None, 0.0
        encoder = _encoder_name(match)
        if "group" not in match.groupdict():
            depth = np.zeros(())
        elif match["group"] == "layers":  # block b of repetition r is layer r * width + b
            depth = 1.0 + int(match["number"]) + widths[encoder] * np.arange(x.shape[0])
            depth = depth.reshape(-1, *[1] * (x.ndim - 1))
        else:
            depth = np.array(1.0 + repeats[encoder] * widths[encoder] + int(match["number"]))
        return encoder, layers[encoder] + 1 - depth

    return height, layers


def _encoder_name(match: re.Match[str]) -> str:
    return match["encoder"].removeprefix(f"{LORA}/")  # a low-rank adapter belongs to the encoder of its kernel


def scale_by_layer(decay: float, frozen: int) -> optax.GradientTransformation:
    """Multiply updates by `layer_scales`."""

    def scale(updates: Any, _: Any) -> Any:
        return jax.tree.map(jnp.multiply, updates, layer_scales(updates, decay, frozen))

    return optax.stateless(scale)


def stop_frozen_gradients(objective: Objective, mask: Callable[[Params], Params]) -> Objective:
    """An objective without gradients for frozen parameters, so that none are computed."""

    def loss(params: Params, batch: Batch, key: jax.Array, train: bool) -> tuple[jax.Array, Metrics]:
        stop = lambda x, trainable: x if trainable else jax.lax.stop_gradient(x)  # noqa: E731
        return objective.loss(jax.tree.map(stop, params, mask(params)), batch, key, train)

    return objective._replace(loss=loss)
