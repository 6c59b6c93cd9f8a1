"""The settings of the training loop, and of the phases that a run may have."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class TrainingConfig:
    """What the loop does and when; steps count updates of the parameters.

    Raises:
        ValueError: a number is out of range, or the batch does not divide into its parts.
    """

    steps: int = 0
    """Updates in the whole run; 0: those of its epochs or its phases, or else 1,000."""
    epochs: float = 0.0
    """Passes over the training rows, in place of steps: the run is saved with the steps that they come to."""
    batch_size: int = 32
    """Rows in an update, over all devices and hosts; with phases, in an evaluation."""
    batch_examples: int = 0
    """Labelled examples in an update, on average, in place of batch_size. A row holds as many as fit, one of 128 tokens
    about 10 sentences of SST-2 or 2 pairs of RTE; the run is saved with the rows that this comes to. 0: batch_size."""
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
    num_evaluations: int = 0
    """How many in the whole run, evenly spaced, in place of eval_every: the run is saved with the steps between."""
    eval_batches: int = 32
    """Batches of an evaluation; 0 for all held-out rows."""
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    keep_best: bool = True
    """Keep the checkpoint with the best held-out result too."""
    best_metric: str = ""
    """By which a checkpoint is the best; empty: the objective's own, such as accuracy of classes, loss of values."""
    best_mode: Literal["min", "max"] = "min"
    """Whether less of it is better, or more; of the objective's own metric it is known."""
    patience: int = 0
    """End the run after so many evaluations without a better best_metric than before; 0: never before its last step."""
    profile_steps: tuple[int, ...] = ()
    """Steps to write a profiler trace of."""
    tensorboard: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("steps", "seed", "batch_examples", "eval_every", "num_evaluations", "eval_batches", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"training.{name} must not be negative, got {getattr(self, name)}.")
        if not 0 <= self.epochs < math.inf:
            raise ValueError(f"training.epochs must be 0 or a positive number, got {self.epochs}.")
        if self.epochs and self.steps:
            raise ValueError(f"training.epochs is {self.epochs} and training.steps {self.steps}; set one of them to 0.")
        if self.patience and not self.keep_best:
            raise ValueError(f"training.patience is {self.patience}, which needs the best result: set keep_best.")
        if self.batch_size % self.accumulation and not self.batch_examples:
            raise ValueError(
                f"training.batch_size {self.batch_size} does not divide into {self.accumulation} parts; "
                "change it or training.accumulation."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"training.ema_decay must be in [0, 1), got {self.ema_decay}.")

    def counted(self, rows: int, examples: int, shares: int = 1) -> "TrainingConfig":
        """With steps in place of epochs and evaluations, and rows in place of batch_examples, which stays beside them.

        Args:
            rows: of the training data; a mixture by weights has its epochs too after so many.
            examples: labelled ones in these rows.
            shares: of the devices, which the rows of an update divide into.

        Raises:
            ValueError: there are no examples to count.
        """
        size = self.batch_size
        if self.batch_examples:
            if not examples:
                raise ValueError(f"training.batch_examples is {self.batch_examples}, but no example has a label.")
            parts = self.accumulation * shares
            size = parts * max(1, round(self.batch_examples * rows / examples / parts))
        steps = self.steps or math.ceil(round(self.epochs * rows / size, 9))
        every = max(1, math.ceil(steps / self.num_evaluations)) if self.num_evaluations else self.eval_every
        return dataclasses.replace(self, steps=steps, epochs=0.0, batch_size=size, eval_every=every, num_evaluations=0)


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with settings of its own; what is left at 0 or empty is as in the run.

    BERT's short rows before long ones (Devlin et al. 2019, arXiv:1810.04805, A.2), and ModernBERT's growing batch and
    extension to long rows (Warner et al. 2024, arXiv:2412.13663) are phases.

    Raises:
        ValueError: a number is out of range.
    """

    steps: int = 0
    """Updates in this phase, at least 1."""
    row_length: int = 0
    batch_size: int = 0
    accumulation: int = 0
    train: tuple[str, ...] = ()
    """Training sources; the tokenizer and the held-out rows are those of the run's own."""
    weights: tuple[float, ...] = ()
    """Mixture weights; where `train` is given and these are not, by size."""
    temperature: float = 0.0
    """Flattens a mixture by size, as data.temperature does."""
    rate: float = 0.0
    """Share of the tokens that are predicted, the same throughout the phase."""
    learning_rate: float = 0.0
    """What the schedule, which goes on over all steps of the run, takes for its peak in this phase."""
    rope_theta: float = 0.0
    """Base of the rotary wavelengths in global layers; the run's is that of the finished model."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"the steps of a phase must be at least 1, got {self.steps}.")
        for name in ("row_length", "batch_size", "accumulation", "temperature", "rate", "learning_rate", "rope_theta"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} of a phase must not be negative, got {getattr(self, name)}.")


def batch_warmup(first: int, last: int, parts: int, steps: int, **settings: Any) -> tuple[Phase, ...]:
    """Phases whose batches grow evenly towards that of the phase after them, each with as many steps as the others.

    batch_warmup(64, 256, 3, 300) has 100 steps each of 64, 128 and 192 rows.

    Args:
        first: rows of the first batch.
        last: rows that the phase after these has.
        parts: how many phases.
        steps: of all of them together.
        settings: the same for all, such as row_length=1024.

    Raises:
        ValueError: the batch cannot grow in equal parts, or a part would have no step.

    References:
        Warner et al. 2024, arXiv:2412.13663, section 2.2.
    """
    if parts < 1 or last <= first or (last - first) % parts:
        raise ValueError(
            f"a batch does not grow from {first} to {last} rows in {parts} equal parts; change one of them."
        )
    edges = [steps * part // parts for part in range(parts + 1)]
    return tuple(
        Phase(steps=edges[part + 1] - edges[part], batch_size=first + (last - first) // parts * part, **settings)
        for part in range(parts)
    )
