"""The settings of the training loop."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """What the loop does and when; steps count updates of the parameters.

    Raises:
        ValueError: a number is out of range, or the batch does not divide into its parts.
    """

    steps: int = 1000
    batch_size: int = 32
    """Rows in an update, over all devices and hosts."""
    accumulation: int = 1
    """Parts that a batch is cut into, computed one after the other to save memory: the same update, up to the masks and
    dropout that each part draws for itself."""
    seed: int = 0
    """Of the initial weights, the order of the rows, masks and dropout."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the weights too, and evaluate and save it; 0 for none."""
    log_every: int = 10
    eval_every: int = 500
    """Steps between evaluations on the held-out rows; 0 only at the end."""
    eval_batches: int = 32
    """Batches of an evaluation; 0 for all held-out rows."""
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    keep_best: bool = True
    """Keep the checkpoint with the best held-out result too."""
    best_metric: str = "loss"
    best_mode: Literal["min", "max"] = "min"
    profile_steps: tuple[int, ...] = ()
    """Steps to write a profiler trace of."""
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("seed", "eval_every", "eval_batches"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} must not be negative, got {getattr(self, name)}.")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"training.batch_size {self.batch_size} does not divide into {self.accumulation} parts; "
                "change it or training.accumulation."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay must be in [0, 1), got {self.ema_decay}.")
