"""Learning-rate schedules. The 1-sqrt decay of WSD: Haegele et al. 2024, arXiv:2405.18392."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxencoder.training.config import OptimizerConfig


def learning_rate_schedule(
    config: OptimizerConfig, steps: int, phase_learning_rates: Sequence[tuple[int, float]] = ()
) -> optax.Schedule:
    """The learning rate, with warmup, decay and one peak per phase, as a function of the updates done before this one.

    Args:
        steps: updates in the run, at least 1; the final value is reached at `steps`, one past the last update.
        phase_learning_rates: (number of updates, peak) of each phase; empty: config.learning_rate throughout.

    Returns:
        A function from an int (or int array) to a float32 scalar. A warmup of W updates gives peak * (s + 1) / W, so
        that the first update does not have a learning rate of 0.
    """
    if steps < 1:
        raise ValueError(f"The schedule needs at least one step, not {steps}; raise training.steps.")
    warmup = round(config.warmup_ratio * steps)
    start = max(warmup, steps - round(config.decay_ratio * steps)) if config.schedule == "wsd" else warmup
    lengths, peaks = zip(*(phase_learning_rates or [(steps, config.learning_rate)]), strict=True)
    borders = jnp.asarray(np.cumsum(lengths)[:-1], jnp.float32)

    def learning_rate(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        progress = jnp.clip((count - start) / max(steps - start, 1), 0.0, 1.0)
        decay = {
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "wsd": 1.0 - jnp.sqrt(progress),  # constant until `start`, where progress is 0
            "constant": jnp.ones_like(progress),
        }[config.schedule]
        factor = config.final_lr_ratio + (1.0 - config.final_lr_ratio) * decay
        peak = jnp.asarray(peaks, jnp.float32)[jnp.searchsorted(borders, count, side="right")]  # of the step's phase
        return peak * jnp.minimum(factor, (count + 1.0) / max(warmup, 1))

    return learning_rate
