"""Settings of the training loop, of the optimizer, and of the phases of a run."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from jaxencoder.training.held_out import parse

OptimizerName = Literal["adamw", "lamb", "adafactor", "muon", "stable_adamw"]
ScheduleName = Literal["linear", "cosine", "wsd", "constant"]


@dataclass(frozen=True)
class TrainingConfig:
    """What the training loop does and when. A step is one update of the parameters."""

    steps: int = 0
    """Updates in the run. 0: decided by epochs or phases, otherwise 1,000."""
    epochs: float = 0.0
    """Passes over the training rows, instead of steps. The saved run has the resulting number of steps."""
    batch_size: int = 32
    """Rows per update, over all devices and hosts. With phases, rows per evaluation batch."""
    batch_examples: int = 0
    """Labeled examples per update on average, instead of batch_size. The number of rows follows from how many examples
    fit into a row: about 10 sentences of SST-2 or 2 pairs of RTE into 128 tokens. 0: use batch_size."""
    accumulation: int = 1
    """Number of parts of a batch, computed in sequence to save memory. The update stays the same, except that each part
    draws its own masks and dropout."""
    seed: int = 0
    """Seed of initial weights, row order, masks and dropout."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is evaluated and saved. 0: no average."""
    log_every: int = 10
    """Steps between log records."""
    eval_every: int = 500
    """Steps between evaluations on the held-out rows. 0: evaluate only at the end."""
    num_evaluations: int = 0
    """Evaluations in the run, evenly spaced, instead of eval_every. 0: use eval_every."""
    eval_batches: int = 32
    """Batches per evaluation. 0: all held-out rows."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep."""
    keep_best: bool = True
    """Also keep the checkpoint with the best held-out result."""
    evaluations: tuple[str, ...] = ()
    """Sets on which each evaluation also measures the model, TASK:SET each, such as similarity:sts/dev.jsonl or
    retrieval:scifact (scifact/qrels/dev.tsv for its split dev). Tasks: similarity, pair-classification, triplets,
    bitext and retrieval as of jaxencoder evaluate; reranking, of lists with the fields of the training data."""
    best_metric: str = ""
    """Metric that decides which checkpoint is the best, such as similarity/sts-dev/spearman. Empty: the first one of
    evaluations, or else the objective's own, such as accuracy for classes."""
    best_mode: Literal["", "min", "max"] = ""
    """Whether the best value is the lowest or the highest. Empty: the lowest of losses, perplexity and other costs,
    the highest of other metrics."""
    patience: int = 0
    """Stop after this number of evaluations without a better best_metric. 0: run all steps."""
    profile_steps: tuple[int, ...] = ()
    """Steps to record a profiler trace of."""
    tensorboard: bool = True
    """Also write metrics for TensorBoard."""

    def __post_init__(self) -> None:
        at_least_1 = ("batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints")
        not_negative = ("steps", "seed", "batch_examples", "eval_every", "num_evaluations", "eval_batches", "patience")
        _check_least("training.{}", self, 1, at_least_1)
        _check_least("training.{}", self, 0, not_negative)
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
        parse(self.evaluations)

    @property
    def evaluation_metrics(self) -> tuple[str, ...]:
        """Names of the metrics on the sets of `evaluations`, in order."""
        return tuple(metric for held_out in parse(self.evaluations) for metric in held_out.metrics)

    def resolve(self, rows: int, examples: int, shards: int = 1) -> "TrainingConfig":
        """Replace epochs and num_evaluations by steps, and set batch_size from batch_examples.

        Args:
            rows: number of training rows. In a weighted mixture an epoch is this number of drawn rows.
            examples: number of labeled examples in these rows; ValueError for 0 if batch_examples is set.
            shards: number of data shards, which the batch divides into.
        """
        size = self.batch_size
        if self.batch_examples:
            if not examples:
                raise ValueError(f"training.batch_examples is {self.batch_examples}, but no example has a label.")
            multiple = self.accumulation * shards
            size = multiple * max(1, round(self.batch_examples * rows / examples / multiple))
        steps = self.steps or math.ceil(round(self.epochs * rows / size, 9))
        every = max(1, math.ceil(steps / self.num_evaluations)) if self.num_evaluations else self.eval_every
        return dataclasses.replace(self, steps=steps, epochs=0.0, batch_size=size, eval_every=every, num_evaluations=0)


@dataclass(frozen=True)
class OptimizerConfig:
    """How parameters are updated. Weight decay is decoupled and multiplied by the learning rate, as in torch."""

    name: OptimizerName = "adamw"
    """Update rule; weight decay and schedule apply to each of them."""
    learning_rate: float = 5e-4
    """Peak learning rate. Adafactor multiplies it by the RMS of each tensor, so 1e-2 is a natural value there."""
    b1: float = 0.9
    """Decay of the first moment. Muon uses muon_momentum instead, and Adafactor has no first moment."""
    b2: float = 0.98
    """Decay of the second moment. Adafactor uses 1 - t^-0.8 instead."""
    eps: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 0.01
    """Decoupled weight decay, as a factor of the learning rate."""
    no_decay: tuple[str, ...] = (r"(^|/)bias$", r"(^|/)scale$")
    """Regular expressions, searched in parameter paths: parameters without weight decay and, in LAMB, without trust
    ratio."""
    clip_norm: float = 1.0
    """Maximum global norm of the gradient. 0: no clipping."""
    muon_momentum: float = 0.95
    """Momentum of Muon."""
    min_dim_size_to_factor: int = 128
    """Adafactor factors the second moment of matrices whose smaller side is at least this large."""
    schedule: ScheduleName = "linear"
    """Shape of the decay after warmup: linear, cosine, wsd (constant, then 1 - sqrt) or constant."""
    warmup_ratio: float = 0.06
    """Fraction of all steps in which the learning rate rises linearly to its peak."""
    decay_ratio: float = 0.2
    """Fraction of all steps in which wsd decays, at the end."""
    final_lr_ratio: float = 0.0
    """Final learning rate as a fraction of the peak."""
    trainable: tuple[str, ...] = ()
    """Regular expressions, searched in parameter paths: the parameters to train. The others are frozen and have no
    optimizer state. Empty: all, or with adapters the adapters and heads. BitFit is /bias$ and ^classifier/."""
    frozen_layers: int = 0
    """Number of bottom layers to freeze, together with the embeddings. Their gradients are still computed."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below, from the heads down to the embeddings."""

    def __post_init__(self) -> None:
        checks = {
            "name": (self.name in get_args(OptimizerName), f"one of {', '.join(get_args(OptimizerName))}"),
            "schedule": (self.schedule in get_args(ScheduleName), f"one of {', '.join(get_args(ScheduleName))}"),
            "learning_rate": (0 < self.learning_rate < math.inf, "a positive number"),
            "eps": (self.eps > 0, "a positive number"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or a positive number"),
            "clip_norm": (0 <= self.clip_norm < math.inf, "0 or a positive number"),
            "min_dim_size_to_factor": (self.min_dim_size_to_factor >= 1, "a positive size"),
            "frozen_layers": (self.frozen_layers >= 0, "0 or a number of layers"),
            "layer_decay": (0 < self.layer_decay <= 1, "a number above 0 and at most 1"),
        }
        for name in ("b1", "b2", "muon_momentum"):
            checks[name] = 0 <= getattr(self, name) < 1, "a number of at least 0 and below 1"
        for name in ("warmup_ratio", "decay_ratio", "final_lr_ratio"):
            checks[name] = 0 <= getattr(self, name) <= 1, "a fraction from 0 to 1"
        for name, (is_valid, advice) in checks.items():
            if not is_valid:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)!r}; give {advice}.")
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"optimizer.warmup_ratio {self.warmup_ratio} and decay_ratio {self.decay_ratio} together exceed 1; "
                "lower one of them."
            )
        for name in ("no_decay", "trainable"):
            for pattern in getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    message = f"optimizer.{name} holds {pattern!r}, not a regular expression: {error}."
                    raise ValueError(message) from None


@dataclass(frozen=True)
class Phase:
    """A phase of a run. Settings left at 0 or empty are those of the run.

    Two uses: BERT's short rows before long ones (Devlin et al. 2019, arXiv:1810.04805, A.2), and ModernBERT's growing
    batch and extension to long rows (Warner et al. 2024, arXiv:2412.13663).
    """

    steps: int = 0
    """Updates in this phase, at least 1."""
    row_length: int = 0
    """Tokens per row."""
    batch_size: int = 0
    """Rows per update."""
    accumulation: int = 0
    """Number of parts of a batch, computed in sequence."""
    train: tuple[str, ...] = ()
    """Training sources. Tokenizer and held-out rows stay those of the run."""
    weights: tuple[float, ...] = ()
    """Mixture weights. Empty with `train`: sources are weighted by size."""
    temperature: float = 0.0
    """Flattens a mixture by size, as data.temperature does."""
    rate: float = 0.0
    """Fraction of the tokens to predict, constant during the phase."""
    learning_rate: float = 0.0
    """Peak learning rate in this phase. The schedule itself spans all steps of the run."""
    rope_theta: float = 0.0
    """Base of the rotary wavelengths in global layers during this phase. The run's own value is the final model's."""

    def __post_init__(self) -> None:
        numbers = [field.name for field in dataclasses.fields(self) if not isinstance(field.default, tuple)]
        _check_least("the {} of a phase", self, 1, ["steps"])
        _check_least("the {} of a phase", self, 0, numbers)


def _check_least(title: str, settings: Any, least: int, names: Iterable[str]) -> None:
    for name in names:
        if (value := getattr(settings, name)) < least:
            rule = f"be at least {least}" if least else "not be negative"
            raise ValueError(f"{title.format(name)} must {rule}, got {value}.")


def batch_warmup(first: int, last: int, parts: int, steps: int, **settings: Any) -> tuple[Phase, ...]:
    """Phases of equal length whose batch size grows linearly towards that of the following phase.

    batch_warmup(64, 256, 3, 300) gives 100 steps each of 64, 128 and 192 rows (Warner et al. 2024, section 2.2).

    Args:
        first, last: rows per batch in the first phase and in the phase after these.
        parts: number of phases; ValueError if the batch cannot grow in equal parts, or a part would have no step.
        steps: steps of all phases together.
        settings: further settings of each phase, such as row_length=1024.
    """
    if parts < 1 or last <= first or (last - first) % parts:
        raise ValueError(f"a batch does not grow from {first} to {last} rows in {parts} equal parts; change one.")
    edges = [steps * part // parts for part in range(parts + 1)]
    sizes = range(first, last, (last - first) // parts)
    pairs = zip(itertools.pairwise(edges), sizes, strict=True)
    return tuple(Phase(steps=end - start, batch_size=size, **settings) for (start, end), size in pairs)
