"""Optimizers that treat the layers of a scanned stack as separate tensors.

AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), LAMB (You et al. 2020, arXiv:1904.00962), Adafactor (Shazeer &
Stern 2018, arXiv:1804.04235), Muon (Jordan 2024; scaled as in Liu et al. 2025, arXiv:2502.16982) and StableAdamW
(Wortsman et al. 2023, arXiv:2304.13013, algorithm 2).
"""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxencoder.parameters import is_stacked, map_with_paths, matrix_axes
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.layerwise import scale_by_layer, trainable_mask
from jaxencoder.training.schedules import learning_rate_schedule

Params = Any

# An AdamW step has a root mean square of about 0.2 to 0.4; scaled to this, Muon shares AdamW's learning rate and decay.
MUON_RMS = 0.2


def make_optimizer(
    config: OptimizerConfig,
    steps: int,
    phase_learning_rates: Sequence[tuple[int, float]] = (),
    trainable: Sequence[str] = (),
) -> optax.GradientTransformation:
    """The complete update: clip, precondition, decay weights, and scale by the learning rate of each layer.

    Args:
        steps, phase_learning_rates: see `learning_rate_schedule`.
        trainable: patterns of the trainable parameters; empty: config.trainable.

    Returns:
        A gradient transformation whose `update` needs the parameters. Leaves of its state that belong to a parameter
        end in that parameter's path and have its shape, except Adafactor's `v_row`, `v_col` and size-1 placeholders.
    """
    mask = decay_mask(config)
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    precondition = {
        "adamw": lambda: [adam, decay],
        # As You et al. do: what is exempt from decay is exempt from the trust ratio, as a bias has no meaningful norm.
        "lamb": lambda: [adam, decay, optax.masked(per_layer(optax.scale_by_trust_ratio()), mask)],
        "adafactor": lambda: [
            _scale_by_factored_rms(config.min_dim_size_to_factor),
            per_layer(optax.clip_by_block_rms(1.0)),  # update clipping, the paper's section 6
            per_layer(optax.scale_by_param_block_rms()),  # relative step size, section 8
            decay,
        ],
        "muon": lambda: [_muon(config), decay],
        "stable_adamw": lambda: [scale_by_stable_adam(config.b1, config.b2, config.eps, config.weight_decay, mask)],
    }[config.name]()
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    inner = [*clip, *precondition]
    if trainable := (*trainable,) or config.trainable:
        # Frozen parameters have no state and stay unchanged.
        is_trainable = trainable_mask(trainable)
        labels = lambda params: jax.tree.map(lambda x: "trainable" if x else "frozen", is_trainable(params))  # noqa: E731
        inner = [optax.partition({"trainable": optax.chain(*inner), "frozen": optax.set_to_zero()}, labels)]
    # Frozen layers are zeroed first, to leave the gradient's norm, and last, against weight decay.
    frozen = [scale_by_layer(1.0, config.frozen_layers)] if config.frozen_layers else []
    layers = [scale_by_layer(config.layer_decay, config.frozen_layers)] if config.layer_decay != 1 or frozen else []
    schedule = learning_rate_schedule(config, steps, phase_learning_rates)
    return optax.chain(*frozen, *inner, *layers, optax.scale_by_learning_rate(schedule))


def decay_mask(config: OptimizerConfig) -> Callable[[Params], Params]:
    """A function from parameters to the tree of bools that is true where weights are decayed."""
    patterns = [re.compile(pattern) for pattern in config.no_decay]
    return lambda params: map_with_paths(lambda path, _: not any(p.search(path) for p in patterns), params)


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply a stateless transformation to each tensor alone, and to each layer of a stack alone."""

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        def update_leaf(path: str, update: jax.Array, param: jax.Array) -> Any:
            update_tensor = lambda update, param: transform.update(update, state, param)[0]  # noqa: E731
            return (jax.vmap(update_tensor) if is_stacked(path) else update_tensor)(update, param)

        return map_with_paths(update_leaf, updates, params), state

    return optax.GradientTransformation(transform.init, update)


def _scale_by_factored_rms(min_dim_size_to_factor: int) -> optax.GradientTransformation:
    """Adafactor's second moment, each kernel as one matrix per layer: an axis of heads is too small to factor."""
    inner = optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor)
    axes: Any = optax.FactoredState(None, 0, 0, 0)  # pyright: ignore[reportArgumentType]  # vmap's axes, no state

    def as_matrix(path: str, x: jax.Array) -> jax.Array:
        split = matrix_axes(path, x.ndim)
        if split is None:
            return x
        first = split[0][0]
        return x.reshape(*x.shape[:first], -1, math.prod(x.shape[a] for a in split[1]))  # [(L,) inputs, outputs]

    def init_leaf(path: str, param: jax.Array) -> Any:
        start = jax.vmap(inner.init, out_axes=axes) if is_stacked(path) else inner.init
        return start(as_matrix(path, param))

    def init(params: Params) -> optax.FactoredState:
        return _unzip(params, map_with_paths(init_leaf, params))._replace(count=jnp.zeros([], jnp.int32))

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, optax.FactoredState]:
        def update_leaf(path: str, update: jax.Array, param: jax.Array, *moments: jax.Array) -> tuple[jax.Array, Any]:
            step: Any = jax.vmap(inner.update, (0, axes, 0), (0, axes)) if is_stacked(path) else inner.update
            arguments = as_matrix(path, update), optax.FactoredState(state.count, *moments), as_matrix(path, param)
            new, new_state = step(*arguments)
            return new.reshape(update.shape), new_state

        results = map_with_paths(update_leaf, updates, params, state.v_row, state.v_col, state.v)
        new, new_state = _unzip(updates, results)
        return new, new_state._replace(count=optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _unzip(like: Params, tree: Any) -> Any:
    """Turn a tree of tuples into a tuple of trees, so that their leaves keep the parameters' paths for sharding."""
    return jax.tree.transpose(jax.tree.structure(like), None, tree)


def scale_by_stable_adam(
    b1: float, b2: float, eps: float, weight_decay: float, mask: Callable[[Params], Params]
) -> optax.GradientTransformation:
    """StableAdamW: AdamW whose step in each tensor is divided by max(1, RMS(g / sqrt(second moment))).

    Args:
        b1, b2: decay of the moments; their bias is corrected (the paper's b-hat is the same correction).
        eps: added to the root; its square is the minimum of the second moment inside the RMS.
        weight_decay: added before the division, as in the paper, where the divided learning rate scales the decay too.
        mask: from parameters to bools: where weight decay applies.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    decay = optax.add_decayed_weights(weight_decay, mask)

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        steps, state = adam.update(updates, state, params)
        steps, _ = decay.update(steps, decay.init(params), params)
        unbias = 1.0 - b2 ** state.count.astype(jnp.float32)  # Adam's correction of the second moment

        def clip(path: str, step: jax.Array, grad: jax.Array, second: jax.Array) -> jax.Array:
            axes = tuple(range(int(is_stacked(path)), grad.ndim))  # all but the layers'
            squares = jnp.square(grad) / jnp.maximum(second / unbias, eps**2)
            rms = jnp.sqrt(jnp.mean(squares, axis=axes, keepdims=True))
            return step / jnp.maximum(1.0, rms)  # shrinks a step only where the second moment is out of date

        return map_with_paths(clip, steps, updates, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon for the kernels inside the blocks, each layer's matrix alone; Adam for all other parameters."""

    def dimensions(params: Params) -> Params:
        # optax takes every array of two axes for a matrix, which is wrong for stacked biases and for [D,N,H] kernels.
        axes = lambda path, x: (split := matrix_axes(path, x.ndim)) and MuonDimensionNumbers(*split)  # noqa: E731
        return map_with_paths(axes, params)

    def label(path: str, x: jax.Array) -> str:
        in_block = re.search(r"(^|/)block_\d+/", path) is not None
        return "muon" if in_block and matrix_axes(path, x.ndim) is not None else "adam"

    def scale(path: str, update: jax.Array) -> jax.Array:
        # Liu et al. 2025: 0.2 sqrt(max(inputs, outputs)), which gives every matrix the same root mean square.
        sides = (math.prod(update.shape[a] for a in axes) for axes in matrix_axes(path, update.ndim) or ())
        return update * MUON_RMS * math.sqrt(max(sides))

    muon = optax.contrib.scale_by_muon(beta=config.muon_momentum, weight_dimension_numbers=dimensions)
    scaled = optax.stateless(lambda updates, params: map_with_paths(scale, updates))
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    labels = partial(map_with_paths, label)
    return optax.partition({"muon": optax.chain(muon, scaled), "adam": adam}, labels)
