"""Optimizers that treat the layers of a scanned stack as separate tensors.

AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), LAMB (You et al. 2020, arXiv:1904.00962), Adafactor (Shazeer &
Stern 2018, arXiv:1804.04235), Muon (Jordan 2024; scaled as in Liu et al. 2025, arXiv:2502.16982) and StableAdamW
(Wortsman et al. 2023, arXiv:2304.13013, algorithm 2).
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from jaxencoder.parameters import is_stacked, map_with_paths, matrix_axes
from jaxencoder.training.config import OptimizerConfig
from jaxencoder.training.layerwise import optimize_trainable, scale_by_layer, trainable_mask
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
        config: the settings.
        steps, phase_learning_rates: for the schedule of the run.
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
            per_layer(optax.clip_by_block_rms(1.0)),
            per_layer(optax.scale_by_param_block_rms()),
            decay,
        ],
        "muon": lambda: [_muon(config), decay],
        "stable_adamw": lambda: [scale_by_stable_adam(config.b1, config.b2, config.eps, config.weight_decay, mask)],
    }[config.name]()
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    inner = [*clip, *precondition]
    if trainable := (*trainable,) or config.trainable:
        inner = [optimize_trainable(trainable_mask(trainable), optax.chain(*inner))]
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
        def update_tensor(update: jax.Array, param: jax.Array) -> Any:
            return transform.update(update, state, param)[0]

        def update_leaf(path: str, update: jax.Array, param: jax.Array) -> jax.Array:
            return (jax.vmap(update_tensor) if is_stacked(path) else update_tensor)(update, param)

        return map_with_paths(update_leaf, updates, params), state

    return optax.GradientTransformation(transform.init, update)


class _Result(NamedTuple):
    update: jax.Array
    state: optax.FactoredState


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

    def init(params: Params) -> optax.FactoredState:
        def init_leaf(path: str, param: jax.Array) -> Any:
            start = jax.vmap(inner.init, out_axes=axes) if is_stacked(path) else inner.init
            return start(as_matrix(path, param))

        return _tree_of_states(map_with_paths(init_leaf, params), jnp.zeros([], jnp.int32))

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, optax.FactoredState]:
        def update_leaf(path: str, update: jax.Array, param: jax.Array, *moments: jax.Array) -> _Result:
            step: Any = jax.vmap(inner.update, (0, axes, 0), (0, axes)) if is_stacked(path) else inner.update
            new, new_state = step(
                as_matrix(path, update), optax.FactoredState(state.count, *moments), as_matrix(path, param)
            )
            return _Result(new.reshape(update.shape), new_state)

        results = map_with_paths(update_leaf, updates, params, state.v_row, state.v_col, state.v)
        is_result = lambda x: isinstance(x, _Result)  # noqa: E731
        states = jax.tree.map(lambda r: r.state, results, is_leaf=is_result)
        new = jax.tree.map(lambda r: r.update, results, is_leaf=is_result)
        return new, _tree_of_states(states, optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def _tree_of_states(states: Params, count: jax.typing.ArrayLike) -> optax.FactoredState:
    """Turn a tree of states into a state of trees, so that its leaves keep the parameters' paths for sharding."""
    pick = lambda field: jax.tree.map(  # noqa: E731
        lambda s: getattr(s, field), states, is_leaf=lambda x: isinstance(x, optax.FactoredState)
    )
    return optax.FactoredState(count, pick("v_row"), pick("v_col"), pick("v"))


def scale_by_stable_adam(
    b1: float, b2: float, eps: float, weight_decay: float, mask: Callable[[Params], Params]
) -> optax.GradientTransformation:
    """StableAdamW: AdamW whose step in each tensor is divided by max(1, RMS(g / sqrt(second moment))).

    Args:
        b1, b2: decay of the moments; their bias is corrected (the paper's b-hat is the same correction).
        eps: added to the root; its square is the minimum of the second moment inside the RMS.
        weight_decay: added before the division, as in the paper, where the divided learning rate scales the decay too.
        mask: from parameters to bools: where weight decay applies.

    References:
        Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models, algorithm 2.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    decay = optax.add_decayed_weights(weight_decay, mask)

    def update(updates: Params, state: Any, params: Params = None) -> tuple[Params, Any]:
        steps, state = adam.update(updates, state, params)
        steps, _ = decay.update(steps, decay.init(params), params)
        unbias = 1.0 - b2 ** state.count.astype(jnp.float32)

        def clip(path: str, step: jax.Array, grad: jax.Array, second: jax.Array) -> jax.Array:
            axes = tuple(range(int(is_stacked(path)), grad.ndim))
            squares = jnp.square(grad) / jnp.maximum(second / unbias, eps**2)
            rms = jnp.sqrt(jnp.mean(squares, axis=axes, keepdims=True))
            return step / jnp.maximum(1.0, rms)

        return map_with_paths(clip, steps, updates, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon for the kernels inside the blocks, each layer's matrix alone; Adam for all other parameters."""

    def dimensions(params: Params) -> Params:
        # optax takes every array of two axes for a matrix, which is wrong for stacked biases and for [D,N,H] kernels.
        return map_with_paths(
            lambda path, x: (axes := matrix_axes(path, x.ndim)) and MuonDimensionNumbers(*axes), params
        )

    def label(path: str, x: jax.Array) -> str:
        in_block = re.search(r"(^|/)block_\d+/", path) is not None
        return "muon" if in_block and matrix_axes(path, x.ndim) is not None else "adam"

    def scale(path: str, update: jax.Array) -> jax.Array:
        sides = (math.prod(update.shape[a] for a in axes) for axes in matrix_axes(path, update.ndim) or ())
        return update * MUON_RMS * math.sqrt(max(sides))

    muon = optax.contrib.scale_by_muon(beta=config.muon_momentum, weight_dimension_numbers=dimensions)
    scaled = optax.stateless(lambda updates, params: map_with_paths(scale, updates))
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    labels = lambda params: map_with_paths(label, params)  # noqa: E731
    return optax.partition({"muon": optax.chain(muon, scaled), "adam": adam}, labels)
