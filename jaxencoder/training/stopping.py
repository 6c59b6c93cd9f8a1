"""Early stopping: the evaluations of a run so far, and whether they still improve.

Prechelt 1998, "Early stopping - but when?". Past evaluations are read from the run's metrics.jsonl, so that a run that
was interrupted stops at the same step as an uninterrupted one.
"""

import json
import math
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxencoder.training.config import TrainingConfig
from jaxencoder.training.telemetry import METRICS_FILE


def past_evaluations(run_dir: Path, step: int) -> list[dict[str, float]]:
    """The held-out metrics of a run in order, NaN where a metric was not finite. Every process must call it.

    Args:
        run_dir: the run's folder.
        step: step of the restored checkpoint; later evaluations are ignored, as they will be repeated.
    """
    evaluations = _read(run_dir / METRICS_FILE, step) if jax.process_index() == 0 else []
    if jax.process_count() == 1:
        return evaluations
    # Only process 0 writes the file, and other hosts may not see it.
    text = np.frombuffer(json.dumps(evaluations).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(text.size))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, int(size))).tobytes())


def _read(path: Path, step: int) -> list[dict[str, float]]:
    if not (step and path.is_file()):
        return []
    with path.open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file if '"validation_' in line and line.endswith("\n")]
    return [
        {name.removeprefix("validation_"): math.nan if x is None else x for name, x in record.items() if name != "step"}
        for record in records
        if record["step"] <= step
    ]


def should_stop(evaluations: list[dict[str, float]], settings: TrainingConfig) -> bool:
    """Whether training.patience evaluations have passed since the best one; never with a patience of 0.

    Among equal results the first is the best; a result that is not finite is the worst.
    """
    sign = 1 if settings.best_mode == "max" else -1
    values = [sign * result[settings.best_metric] for result in evaluations if settings.best_metric in result]
    values = [x if math.isfinite(x) else -math.inf for x in values]
    return 0 < settings.patience < len(values) - values.index(max(values)) if values else False
