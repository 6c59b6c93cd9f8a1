"""Optimisers and learning-rate schedules, each treating the layers of a scanned stack as separate tensors.

AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), LAMB (You et al. 2020, arXiv:1904.00962), Adafactor (Shazeer &
Stern 2018, arXiv:1804.04235), Muon (Jordan 2024; scaled as in Liu et al. 2025, arXiv:2502.16982), StableAdamW (Wortsman
et al. 2023, arXiv:2304.13013, algorithm 2), and WSD with its 1-sqrt decay (Haegele et al. 2024, arXiv:2405.18392).
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxencoder.parameters import is_stacked, matrix_axes, path_of
from jaxencoder.training.layerwise import only, scale_by_layer, trainable_mask

Params = Any
OptimizerName = Literal["adamw", "lamb", "adafactor", "muon", "stable_adamw"]
ScheduleName = Literal["linear", "cosine", "wsd", "constant"]

# An AdamW step has a root mean square of about 0.2 to 0.4; scaled to this, Muon shares AdamW's learning rate and decay.
MUON_RMS = 0.2


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated. Weight decay is decoupled and multiplied by the learning rate, as in torch."""

    name: OptimizerName = "adamw"
    learning_rate: float = 5e-4
    """The peak. Adafactor multiplies it by the RMS of each tensor, so there 1e-2 is a natural value."""
    b1: float = 0.9
    """Decay of the first moment; the momentum of Muon is `muon_momentum`; Adafactor has none."""
    b2: float = 0.98
    """Decay of the second moment; Adafactor uses 1 - t^-0.8 instead."""
    eps: float = 1e-6
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = (r"(^|/)bias$", r"(^|/)scale$")
    """Regular expressions, searched in a parameter's path, of parameters without weight decay (and, in LAMB, without
    trust ratio)."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient; 0 turns clipping off."""
    muon_momentum: float = 0.95
    min_dim_size_to_factor: int = 128
    """Adafactor factors the second moment of matrices whose smaller side is at least this."""
    schedule: ScheduleName = "linear"
    warmup_ratio: float = 0.06
    """Share of all steps in which the learning rate rises linearly from 0 to its peak."""
    decay_ratio: float = 0.2
    """Share of all steps, at the end, in which `wsd` decays."""
    final_lr_ratio: float = 0.0
    """The learning rate at the end, as a share of the peak."""
    trainable: tuple[str, ...] = ()
    """Regular expressions, searched in a parameter's path, of what learns; the rest stays and costs no state. Empty:
    all. BitFit is /bias$ and ^classifier/."""
    frozen_layers: int = 0
    """Layers from below, and with them the embeddings, that stay; they cost what they cost when they learn."""
    layer_decay: float = 1.0
    """What the learning rate is multiplied by from the heads to the top layer, to the next, down to the embeddings."""

    def __post_init__(self) -> None:
        for field, kind in (("name", OptimizerName), ("schedule", ScheduleName)):
            if getattr(self, field) not in get_args(kind):
                raise ValueError(
                    f"optimizer.{field} is {getattr(self, field)!r}; choose one of {', '.join(get_args(kind))}."
                )
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"optimizer.learning_rate is {self.learning_rate}; give a positive number.")
        for field in ("b1", "b2", "muon_momentum"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"optimizer.{field} is {getattr(self, field)}; give a number from 0 up to, not with, 1."
                )
        for field in ("weight_decay", "clip_norm"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ValueError(f"optimizer.{field} is {getattr(self, field)}; give 0 or a positive number.")
        if not self.eps > 0:
            raise ValueError(f"optimizer.eps is {self.eps}; give a positive number.")
        if self.min_dim_size_to_factor < 1:
            raise ValueError(
                f"optimizer.min_dim_size_to_factor is {self.min_dim_size_to_factor}; give a positive size."
            )
        for field in ("warmup_ratio", "decay_ratio", "final_lr_ratio"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"optimizer.{field} is {getattr(self, field)}; give a share from 0 to 1.")
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"optimizer.warmup_ratio {self.warmup_ratio} and decay_ratio {self.decay_ratio} together exceed 1; "
                "lower one of them."
            )
        if self.frozen_layers < 0:
            raise ValueError(f"optimizer.frozen_layers is {self.frozen_layers}; give 0 or a number of layers.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optimizer.layer_decay is {self.layer_decay}; give a number above 0 and at most 1.")
        for field in ("no_decay", "trainable"):
            for pattern in getattr(self, field):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(
                        f"optimizer.{field} holds {pattern!r}, not a regular expression: {error}."
                    ) from None


def schedule(
    config: OptimizerConfig, steps: int, phase_learning_rates: Sequence[tuple[int, float]] = ()
) -> optax.Schedule:
    """The learning rate as a function of the number of updates done before this one.

    Args:
        config: the settings.
        steps: updates in the whole run; the final value is reached at `steps`, one past the last update.
        phase_learning_rates: of each phase its number of updates and its peak; none: config.learning_rate throughout.

    Returns:
        A function from an int (or int array) to a float32 scalar. Warm-up of W updates gives peak * (s + 1) / W, so
        that the first update is not lost on a learning rate of 0.
    """
    if steps < 1:
        raise ValueError(f"The schedule needs at least one step, not {steps}; raise training.steps.")
    warmup = round(config.warmup_ratio * steps)
    start = max(warmup, steps - round(config.decay_ratio * steps)) if config.schedule == "wsd" else warmup
    lengths, phase_peaks = zip(*(phase_learning_rates or [(steps, config.learning_rate)]), strict=True)
    borders = jnp.asarray(np.cumsum(lengths)[:-1], jnp.float32)

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        done = jnp.clip((count - start) / max(steps - start, 1), 0.0, 1.0)
        falling = {
            "linear": 1.0 - done,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
            "wsd": 1.0 - jnp.sqrt(done),
            "constant": jnp.ones_like(done),
        }[config.schedule]
        share = config.final_lr_ratio + (1.0 - config.final_lr_ratio) * falling
        peak = jnp.asarray(phase_peaks, jnp.float32)[jnp.searchsorted(borders, count, side="right")]
        return peak * jnp.minimum(share, (count + 1.0) / max(warmup, 1))

    return rate


def decay_mask(config: OptimizerConfig) -> Callable[[Params], Params]:
    """A function from parameters to the tree of bools that says which ones are decayed."""
    patterns = [re.compile(pattern) for pattern in config.no_decay]
    return lambda params: jax.tree.map_with_path(
        lambda path, _: not any(pattern.search(path_of(path)) for pattern in patterns), params
    )


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a stateless transformation to each tensor alone, the layers of a stack being separate tensors."""

    def update(updates: Params, state: Any, params: Params) -> tuple[Params, Any]:
        def one(path: tuple[Any, ...], update: jax.Array, param: jax.Array) -> jax.Array:
            def change(update: jax.Array, param: jax.Array) -> jax.Array:
                return transform.update(update, state, param)[0]

            return (jax.vmap(change) if is_stacked(path_of(path)) else change)(update, param)

        return jax.tree.map_with_path(one, updates, params), state

    return optax.GradientTransformation(transform.init, update)


def _scale_by_factored_rms(min_dim_size_to_factor: int) -> optax.GradientTransformation:
    """Adafactor's second moment, every kernel seen as one matrix per layer: an axis of heads is too small to factor."""
    inner = optax.scale_by_factored_rms(min_dim_size_to_factor=min_dim_size_to_factor)
    axes = optax.FactoredState(count=None, v_row=0, v_col=0, v=0)

    def as_matrix(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        split = matrix_axes(path_of(path), x.ndim)
        if split is None:
            return x
        first = split[0][0]
        return x.reshape(*x.shape[:first], -1, math.prod(x.shape[a] for a in split[1]))

    def init(params: Params) -> optax.FactoredState:
        def one(path: tuple[Any, ...], param: jax.Array) -> optax.FactoredState:
            start = jax.vmap(inner.init, out_axes=axes) if is_stacked(path_of(path)) else inner.init
            return start(as_matrix(path, param))

        states = jax.tree.map_with_path(one, params)
        return _gather(states, jnp.zeros([], jnp.int32))

    def update(updates: Params, state: optax.FactoredState, params: Params) -> tuple[Params, optax.FactoredState]:
        def one(path: tuple[Any, ...], update: jax.Array, param: jax.Array, *moments: jax.Array) -> tuple[Any, Any]:
            step = jax.vmap(inner.update, (0, axes, 0), (0, axes)) if is_stacked(path_of(path)) else inner.update
            new, new_state = step(
                as_matrix(path, update), optax.FactoredState(state.count, *moments), as_matrix(path, param)
            )
            return _Result(new.reshape(update.shape), new_state)

        results = jax.tree.map_with_path(one, updates, params, state.v_row, state.v_col, state.v)
        is_result = lambda x: isinstance(x, _Result)  # noqa: E731
        states = jax.tree.map(lambda r: r.state, results, is_leaf=is_result)
        new = jax.tree.map(lambda r: r.update, results, is_leaf=is_result)
        return new, _gather(states, optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


class _Result(NamedTuple):
    update: jax.Array
    state: optax.FactoredState


def _gather(states: Params, count: jax.Array) -> optax.FactoredState:
    """From a tree of states to a state of trees, so that its leaves keep the parameters' paths."""
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
        eps: added to the root; its square is the floor of the second moment inside the RMS.
        weight_decay: added before the division, as in the paper, where the divided learning rate scales the decay too.
        mask: from parameters to bools: where weight decay applies.

    References:
        Wortsman et al. 2023, Stable and low-precision training for large-scale vision-language models, algorithm 2.
    """
    adam = optax.scale_by_adam(b1, b2, eps)
    decay = optax.add_decayed_weights(weight_decay, mask)

    def update(grads: Params, state: optax.ScaleByAdamState, params: Params) -> tuple[Params, optax.ScaleByAdamState]:
        steps, state = adam.update(grads, state, params)
        steps, _ = decay.update(steps, decay.init(params), params)
        unbias = 1.0 - b2 ** state.count.astype(jnp.float32)

        def clip(path: tuple[Any, ...], step: jax.Array, grad: jax.Array, second: jax.Array) -> jax.Array:
            axes = tuple(range(int(is_stacked(path_of(path))), grad.ndim))
            squares = jnp.square(grad) / jnp.maximum(second / unbias, eps**2)
            rms = jnp.sqrt(jnp.mean(squares, axis=axes, keepdims=True))
            return step / jnp.maximum(1.0, rms)

        return jax.tree.map_with_path(clip, steps, grads, state.nu), state

    return optax.GradientTransformation(adam.init, update)


def _muon(config: OptimizerConfig) -> optax.GradientTransformation:
    """Muon for the kernels inside the blocks, each layer's matrix alone; Adam for everything else."""

    def dimensions(params: Params) -> Params:
        return jax.tree.map_with_path(
            lambda path, x: optax.contrib.MuonDimensionNumbers(*matrix_axes(path_of(path), x.ndim)), params
        )

    def labels(params: Params) -> Params:
        def is_muon(path: tuple[Any, ...], x: jax.Array) -> bool:
            return (
                re.search(r"(^|/)block_\d+/", path_of(path)) is not None
                and matrix_axes(path_of(path), x.ndim) is not None
            )

        return jax.tree.map_with_path(lambda path, x: "muon" if is_muon(path, x) else "adam", params)

    def scale(updates: Params, params: Params) -> Params:
        def one(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            sides = (math.prod(update.shape[a] for a in axes) for axes in matrix_axes(path_of(path), update.ndim))
            return update * MUON_RMS * math.sqrt(max(sides))

        return jax.tree.map_with_path(one, updates)

    muon = optax.contrib.scale_by_muon(beta=config.muon_momentum, weight_dimension_numbers=dimensions)
    return optax.partition(
        {
            "muon": optax.chain(muon, optax.stateless(scale)),
            "adam": optax.scale_by_adam(config.b1, config.b2, config.eps),
        },
        labels,
    )


def make_optimizer(
    config: OptimizerConfig,
    steps: int,
    phase_learning_rates: Sequence[tuple[int, float]] = (),
    trainable: Sequence[str] = (),
) -> optax.GradientTransformation:
    """The whole update: clip the global norm, precondition, decay weights, scale by the learning rates of the layers.

    Args:
        config: the settings.
        steps, phase_learning_rates: of the whole run, for the schedule.
        trainable: patterns of what learns; none: as config.trainable says.

    Returns:
        A gradient transformation whose `update` needs the parameters. Leaves of its state that belong to a parameter
        end in that parameter's path and have its shape, except Adafactor's `v_row`, `v_col` and size-1 placeholders.
    """
    mask = decay_mask(config)
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    adam = optax.scale_by_adam(config.b1, config.b2, config.eps)
    precondition = {
        "adamw": lambda: [adam, decay],
        # You et al. exempt from the trust ratio what they exempt from decay: the norm of a bias says little.
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
        inner = [only(trainable_mask(trainable), optax.chain(*inner))]
    # What is frozen has no part in the gradient's norm, nor is it decayed.
    frozen = [scale_by_layer(1.0, config.frozen_layers)] if config.frozen_layers else []
    layers = [scale_by_layer(config.layer_decay, config.frozen_layers)] if config.layer_decay != 1 or frozen else []
    return optax.chain(
        *frozen, *inner, *layers, optax.scale_by_learning_rate(schedule(config, steps, phase_learning_rates))
    )
