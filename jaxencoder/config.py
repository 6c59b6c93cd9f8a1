"""A run as one frozen value: its sections, composed and checked together. `config_io` reads and writes it."""

import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_origin, get_type_hints

from jaxencoder.adapters import bottleneck, lora
from jaxencoder.adapters.lora import LoraConfig, with_lora
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.masking import Masking
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import Objective, ObjectiveConfig, Vocabulary
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.sharding import MeshConfig
from jaxencoder.tasks import table
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.embeddings.objective import Embeddings
from jaxencoder.tasks.multi_vector.objective import MultiVectors
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.reranking.objective import Reranking
from jaxencoder.tasks.sparse.objective import SparseEmbeddings
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.text.schema import Schema
from jaxencoder.training.config import OptimizerConfig, Phase, TrainingConfig, batch_warmup

__all__ = [
    "Classification", "ComputeConfig", "DataConfig", "Embeddings", "EncoderConfig", "LoraConfig", "MaskedLM",
    "Masking", "MeshConfig", "MultiVectors", "MultipleChoice", "OptimizerConfig", "Phase", "QuestionAnswering",
    "ReplacedToken", "Reranking", "RunConfig", "SparseEmbeddings", "TokenClassification", "TokenizerConfig",
    "TrainingConfig", "batch_warmup",
]  # fmt: skip

DEFAULT_STEPS = 1000
# Words in the names of metrics of which less is better.
_COSTS = {"loss", "perplexity", "divergence", "regularizer", "active"}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run; ValueError if sections contradict each other, also in one of its phases."""

    name: str = ""
    """Name of the run and of its default folder under runs/. Empty: the recipe's file name."""
    init_from: str = ""
    """Model to start from: a run, a transformers or sentence-transformers folder, or a name on the hub. Empty: random
    weights."""
    reinitialize: int = 0
    """Number of top layers of init_from to replace by random weights. This helps with few examples, because the top
    layers are specialized in pretraining (Zhang et al. 2021, arXiv:2006.05987, section 4)."""
    model: EncoderConfig = field(default_factory=EncoderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    objective: ObjectiveConfig = field(default_factory=MaskedLM)
    adapter: LoraConfig = field(default_factory=LoraConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    phases: tuple[Phase, ...] = ()
    """Consecutive phases of the run with their own settings. Evaluations use data.row_length and training.batch_size in
    all phases, so that their losses are comparable."""

    def __post_init__(self) -> None:
        _check_types_and_name(self)
        if not self.init_from:  # otherwise the architecture is still unknown
            check_positions(self)
        _check_data(self)
        _check_mesh(self)
        object.__setattr__(self, "training", dataclasses.replace(self.training, steps=_total_steps(self)))
        _check_initial_model(self)
        for number in range(len(self.phases)):
            _phase_config(self, number)  # checks each phase as a run of its own

    @property
    def phase_configs(self) -> tuple["RunConfig", ...]:
        """Each phase as a run without phases; the run itself if it has none."""
        return tuple(_phase_config(self, number) for number in range(len(self.phases))) or (self,)

    @property
    def phase_learning_rates(self) -> tuple[tuple[int, float], ...]:
        """The steps and the peak learning rate of each phase, for `training.schedules.learning_rate_schedule`."""
        return tuple((phase.training.steps, phase.optimizer.learning_rate) for phase in self.phase_configs)

    @property
    def is_supervised(self) -> bool:
        """Whether the run trains on labeled examples."""
        return table.task_of(self.objective) is not None

    @property
    def schema(self) -> Schema:
        """Fields and encoding of the records; texts or pairs for pretraining."""
        return table.schema_of(self.objective)

    @property
    def trainable_patterns(self) -> tuple[str, ...]:
        """Patterns of the trainable parameters, empty for all; an encoder with adapters is frozen by default."""
        if self.optimizer.trainable:
            return self.optimizer.trainable
        if self.model.bottleneck and self.init_from:
            return bottleneck.TRAINABLE
        return lora.TRAINABLE if self.adapter.rank else ()

    def build(self, vocabulary: Vocabulary) -> Objective:
        """The objective of the run, with its adapter."""
        return with_lora(self.adapter, self.objective.build(self.model, self.compute, vocabulary))

    @property
    def best(self) -> tuple[str, Literal["min", "max"]]:
        """Metric that selects the best checkpoint, and whether it is minimized or maximized."""
        of_sets, (default, _) = self.training.evaluation_metrics, self.objective.best
        metric = self.training.best_metric or (of_sets[0] if of_sets else default)
        # The loss of one source of several is called loss_SOURCE.
        is_cost = metric not in of_sets and not _COSTS.isdisjoint(metric.split("_"))
        return metric, self.training.best_mode or ("min" if is_cost else "max")

    def at_step(self, step: int) -> "RunConfig":
        """The run after `step` updates: only the phases begun so far, and the architecture of the last of them."""
        starts = itertools.accumulate((phase.steps for phase in self.phases), initial=0)
        begun = tuple(phase for phase, start in zip(self.phases, starts, strict=False) if start < max(step, 1))
        if not begun:
            return self
        training = dataclasses.replace(self.training, steps=0)
        model = self.phase_configs[len(begun) - 1].model
        return dataclasses.replace(self, model=model, training=training, phases=begun)


def check_positions(config: RunConfig) -> None:
    """Raise ValueError if texts may be longer than the table of learned positions."""
    length, model = config.data.text_limit, config.model
    if model.positions == "learned" and length > model.max_length:
        advice = "raise model.max_length or shorten the rows"
        if config.init_from:
            advice = f"shorten --data.row-length to {model.max_length}, or make the model longer with jaxencoder extend"
        if config.schema.limits_texts:
            advice = f"set --data.text-length to {model.max_length}"
        name = "text_length" if config.schema.limits_texts and config.data.text_length else "row_length"
        raise ValueError(f"data.{name} is {length}, but the model has only {model.max_length} positions; {advice}")


def _check_types_and_name(config: RunConfig) -> None:
    for name, annotation in get_type_hints(RunConfig).items():
        kind = get_origin(annotation) or annotation
        if not isinstance(value := getattr(config, name), kind):
            kinds = objectives() if kind is ObjectiveConfig else (kind,)
            raise ValueError(f"{name} is {value!r}; give {' or '.join(kind.__name__ for kind in kinds)}")
    for number, phase in enumerate(config.phases):
        if not isinstance(phase, Phase):
            raise ValueError(f"phases.{number} is {phase!r}; give a Phase")
    if config.name in (".", "..") or re.search(r"[/\\\0]", config.name):
        raise ValueError(f"name is {config.name!r}; give a plain name, it becomes a folder under runs/")


def _check_data(config: RunConfig) -> None:
    """The objective and the data agree on sentence pairs and labels."""
    pairs = getattr(config.objective, "pairs", False)
    if pairs and config.data.pairs == "none":
        raise ValueError("objective.pairs needs sentence pairs; set data.pairs to nsp or sop")
    if pairs and config.model.token_types < 2:
        raise ValueError(f"objective.pairs needs model.token_types 2, not {config.model.token_types}")
    if config.data.pairs != "none" and not pairs:
        raise ValueError(
            f"data.pairs is {config.data.pairs!r}, but the objective does not use pairs; "
            "set objective.pairs of an objective that has it, such as MaskedLM, or set data.pairs to none"
        )
    if config.is_supervised and config.schema.needs_labels and not config.data.label_field:
        name = type(config.objective).__name__
        raise ValueError(f"the objective {name} needs data.label_field: the field that holds the label")
    config.schema.check(config.data)


def _check_mesh(config: RunConfig) -> None:
    """Batches and rows divide over the mesh."""
    mesh, batch, accumulation = config.mesh, config.training.batch_size, config.training.accumulation
    shards = abs(mesh.data * mesh.fsdp)  # -1 stands for all remaining devices, at least 1
    if (batch // accumulation) % shards and not config.training.batch_examples:
        raise ValueError(
            f"training.batch_size {batch} in {accumulation} part(s) is not divisible by the {shards} shards of "
            f"mesh.data {mesh.data} and mesh.fsdp {mesh.fsdp}; change one of them"
        )
    if batch % config.objective.batch_multiple and not config.training.batch_examples:
        parts = config.objective.batch_multiple
        raise ValueError(f"training.batch_size {batch} does not divide into {parts} parts; change one of them")
    if accumulation > 1 and config.objective.compares_examples:
        raise ValueError(
            f"training.accumulation is {accumulation}, but the loss compares all examples of a batch with each other; "
            "set it to 1, and objective.parts to the number of parts"
        )
    if mesh.context > 1 and config.data.row_length % mesh.context:
        raise ValueError(f"data.row_length {config.data.row_length} is not a multiple of mesh.context {mesh.context}")


def objectives() -> tuple[type[ObjectiveConfig], ...]:
    """All objectives: pretraining, and one for each task."""
    return (MaskedLM, ReplacedToken, *(task.objective for task in table.TASKS))


def _total_steps(config: RunConfig) -> int:
    """The number of updates; 0 if epochs decide it later."""
    training = config.training
    if config.phases and (training.epochs or training.batch_examples):
        raise ValueError(
            "training.epochs and training.batch_examples do not apply to phases; give each phase steps and batch_size"
        )
    default = 0 if training.epochs else DEFAULT_STEPS
    steps = sum(phase.steps for phase in config.phases) or training.steps or default
    if training.steps not in (0, steps):
        raise ValueError(
            f"training.steps is {training.steps}, but the steps of the phases add up to {steps}; "
            "set it to 0, or change those of a phase, such as --phases.0.steps"
        )
    return steps


def _check_initial_model(config: RunConfig) -> None:
    """Adapters and reinitialized layers suit the model that they change."""
    for name, size in (("adapter.rank", config.adapter.rank), ("model.bottleneck", config.model.bottleneck)):
        if size and isinstance(config.objective, ReplacedToken):
            raise ValueError(f"{name} is {size}, but ReplacedToken trains two models; set it to 0")
        if size and getattr(config.objective, "towers", "shared") == "separate":
            problem = f"{name} is {size}, but objective.towers is separate, which trains two encoders"
            raise ValueError(f"{problem}; set it to 0")
    layers = config.reinitialize
    if layers < 0 or (layers and (not config.init_from or config.adapter.rank)):
        raise ValueError(
            f"reinitialize is {layers}; it is the number of layers of init_from to train from random weights, so it "
            "needs init_from and excludes a low-rank adapter"
        )


def _phase_config(config: RunConfig, number: int) -> RunConfig:
    phase = config.phases[number]
    try:
        data = _replace_given(config.data, row_length=phase.row_length, temperature=phase.temperature)
        if phase.train or phase.weights:
            data = dataclasses.replace(data, train=phase.train or data.train, weights=phase.weights)
        if phase.rope_theta and config.model.positions != "rotary":
            raise ValueError(f"rope_theta is {phase.rope_theta}, but model.positions is {config.model.positions!r}")
        settings = {name: getattr(phase, name) for name in ("steps", "batch_size", "accumulation")}
        return dataclasses.replace(
            config,
            model=_replace_given(config.model, rope_theta=phase.rope_theta),
            objective=_phase_objective(config.objective, phase),
            data=data,
            optimizer=_replace_given(config.optimizer, learning_rate=phase.learning_rate),
            training=_replace_given(config.training, **settings),
            phases=(),
        )
    except ValueError as error:
        raise ValueError(f"phases.{number}: {error}") from None


def _phase_objective(objective: ObjectiveConfig, phase: Phase) -> ObjectiveConfig:
    if not phase.rate:
        return objective
    masking = getattr(objective, "masking", None)
    if masking is None:
        name = type(objective).__name__
        raise ValueError(f"rate is {phase.rate}, but the objective {name} masks no tokens; leave it out")
    return dataclasses.replace(objective, masking=dataclasses.replace(masking, rate=phase.rate, final_rate=0.0))


def _replace_given(section: Any, **settings: Any) -> Any:
    """The section with those settings replaced that are not 0."""
    return dataclasses.replace(section, **{name: value for name, value in settings.items() if value})
