"""When a run has learned what it can: the evaluations so far, and whether they still gain.

Early stopping: Prechelt 1998, "Early stopping - but when?". Past evaluations are read from the run's own metrics.jsonl,
so that a run that was interrupted ends where an uninterrupted one does.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.telemetry import METRICS_FILE


def past_evaluations(run_dir: Path, done: int) -> list[dict[str, float]]:
    """The held-out metrics of a run so far, in order; NaN where one was not finite. Every process calls it.

    Args:
        run_dir: the run's folder.
        done: steps that are kept; evaluations after them will be made again.
    """
    return _agreed(_written(run_dir / METRICS_FILE, done) if jax.process_index() == 0 else [])


def _written(path: Path, done: int) -> list[dict[str, float]]:
    if not (done and path.is_file()):
        return []
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if '"validation_' in line and line.endswith("\n")]
    return [
        {name.removeprefix("validation_"): math.nan if x is None else x for name, x in one.items() if name != "step"}
        for one in records
        if one["step"] <= done
    ]


def _agreed(found: list[dict[str, float]]) -> list[dict[str, float]]:
    """What process 0 has found, on every process: it alone writes the file, which others may not see."""
    if jax.process_count() == 1:
        return found
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(text.size))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, int(size))).tobytes())


def should_stop(past: list[dict[str, float]], settings: TrainingConfig) -> bool:
    """Whether as many evaluations as training.patience have passed since the best result; never if that is 0.

    The first of equal results is the best one, and one that is not finite is the worst.
    """
    sign = 1 if settings.best_mode == "max" else -1
    values = [sign * result[settings.best_metric] for result in past if settings.best_metric in result]
    values = [x if math.isfinite(x) else -math.inf for x in values]
    return 0 < settings.patience < len(values) - values.index(max(values)) if values else False
