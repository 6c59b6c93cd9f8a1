"""The batches of a run: which rows each step sees, phase by phase."""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator
from functools import partial

import jax
from jax.sharding import Mesh

from jaxencoder.sharding import batch_sharding
from jaxencoder.text.batches import Batches, prefetch
from jaxencoder.text.config import DataConfig
from jaxencoder.training.setup import Setup

STREAM = 0x632BE59BD9B4E019  # distance between the seeds of different data


def phase_batches(setup: Setup) -> tuple[Batches, ...]:
    """The batches of each phase, indexed by the step within the phase.

    A phase continues with the rows where an earlier phase of the same data ended, so that a growing batch still sees
    each row once per epoch. Different data has its own order.
    """
    streams: dict[DataConfig, int] = {}
    rows_used: Counter[DataConfig] = Counter()
    batches = []
    for phase, stores in zip(setup.config.phase_configs, setup.train, strict=True):
        data, size = phase.data, phase.training.batch_size
        seed = phase.training.seed + STREAM * streams.setdefault(data, len(streams))
        batches.append(Batches(stores, data, size, seed, skip=rows_used[data]))
        rows_used[data] += phase.training.steps * size
    return tuple(batches)


def batches_after(
    step: int, setup: Setup, mesh: Mesh, on_phase: Callable[[int], None]
) -> Generator[tuple[int, dict[str, jax.Array]], None, None]:
    """The batches of the steps after `step`, each with the number of its phase.

    Args:
        step: updates done so far.
        setup: the run.
        mesh: devices to place the batches on.
        on_phase: called with the number of each phase before its first batch.
    """
    start = 0
    for number, (phase, batches) in enumerate(zip(setup.config.phase_configs, phase_batches(setup), strict=True)):
        steps = range(max(step - start, 0), phase.training.steps)
        start += phase.training.steps
        if steps:
            on_phase(number)
            with contextlib.closing(prefetch(batches, steps, partial(batch_sharding, mesh))) as feed:
                for batch in feed:
                    yield number, batch
