"""Metrics of a batch of one of several sources, each with a loss of its own."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxencoder.objectives.objective import Batch, Metrics, mean
from jaxencoder.text.batches import SOURCES


def metrics_of_source(branches: Sequence[Callable[[], Metrics]], losses: Sequence[str], batch: Batch) -> Metrics:
    """The metrics of the source of a batch, computed for it alone, in a program that is the same for all sources.

    Losses differ in their units and in their number of terms, so that each batch counts equally: its "loss" is the mean
    of its own loss, with the weight 1. "loss_NAME" is the loss of this name.

    Args:
        branches: a function for each source, which gives its metrics; all have the same names.
        losses: the name of each source's loss.
        batch: has the number of its source in "sources" [B], -1 for padding.
    """

    def branch(number: int) -> Callable[[], Metrics]:
        def metrics() -> Metrics:
            result = branches[number]()
            total, weight = result["loss"]
            nothing = jnp.zeros_like(total), jnp.zeros_like(weight)
            by_name = {name: (total, weight) if name == losses[number] else nothing for name in losses}
            has_loss = jnp.any(weight > 0).astype(jnp.float32)
            return result | {f"loss_{name}": x for name, x in by_name.items()} | {"loss": (mean(result), has_loss)}

        return metrics

    return jax.lax.switch(batch[SOURCES].max(), [branch(number) for number in range(len(branches))])
