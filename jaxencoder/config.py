"""A run as one frozen value: its sections composed and checked together, read from recipes and JSON, saved as JSON.

Recipes are Python because a config is documentation that can compute (big_vision); a run's own copy is JSON, so that it
can be read without running anything.
"""

import dataclasses
import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from jaxencoder import config_json
from jaxencoder.adapters import bottleneck, lora
from jaxencoder.adapters.lora import LoraConfig, with_lora
from jaxencoder.files import write_atomic
from jaxencoder.model.config import ComputeConfig, EncoderConfig
from jaxencoder.objectives.masking import Masking
from jaxencoder.objectives.mlm import MaskedLM
from jaxencoder.objectives.objective import Objective, Vocabulary
from jaxencoder.objectives.replaced_token import ReplacedToken
from jaxencoder.overrides import apply, closest
from jaxencoder.sharding import MeshConfig
from jaxencoder.tasks.classification.objective import Classification
from jaxencoder.tasks.multiple_choice.objective import MultipleChoice
from jaxencoder.tasks.question_answering.objective import QuestionAnswering
from jaxencoder.tasks.token_classification.objective import TokenClassification
from jaxencoder.text.config import DataConfig, TokenizerConfig
from jaxencoder.training.config import Phase, TrainingConfig, batch_warmup
from jaxencoder.training.optim import OptimizerConfig

__all__ = [
    "Classification",
    "ComputeConfig",
    "DataConfig",
    "EncoderConfig",
    "LoraConfig",
    "MaskedLM",
    "Masking",
    "MeshConfig",
    "MultipleChoice",
    "OptimizerConfig",
    "Phase",
    "QuestionAnswering",
    "ReplacedToken",
    "RunConfig",
    "TokenClassification",
    "TokenizerConfig",
    "TrainingConfig",
    "batch_warmup",
    "from_json",
    "load",
    "recipes",
    "save",
    "to_json",
]

AnyObjective = MaskedLM | ReplacedToken | Classification | TokenClassification | QuestionAnswering | MultipleChoice
# What the objectives that learn from labels take them to belong to.
_LABEL_UNITS = {
    Classification: "text",
    TokenClassification: "word",
    QuestionAnswering: "span",
    MultipleChoice: "choice",
}
CONFIG_FILE = "config.json"
STEPS = 1000  # of a run that says nothing of them
# Of `training`: a word for the first says in another way what the second says, which it sets to 0.
_IN_PLACE = {"steps": "epochs", "epochs": "steps", "batch-size": "batch-examples", "eval-every": "num-evaluations"}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run.

    Raises:
        ValueError: two sections contradict each other, or those of a phase do.
    """

    name: str = ""
    """Name of the run, and of its default folder under runs/; empty: the recipe's file name."""
    init_from: str = ""
    """Model whose encoder this run starts from: a run, a folder of transformers or sentence-transformers, or a name of
    the hub; empty: random weights."""
    reinitialize: int = 0
    """Layers from the top of that encoder which start from random weights all the same: what they have specialised in
    helps little where examples are few (Zhang et al. 2021, arXiv:2006.05987, section 4)."""
    model: EncoderConfig = field(default_factory=EncoderConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    objective: AnyObjective = field(default_factory=MaskedLM)
    adapter: LoraConfig = field(default_factory=LoraConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    phases: tuple[Phase, ...] = ()
    """Stretches of the run, one after the other, with settings of their own. What is held out is cut into rows of the
    run's own data.row_length and measured in batches of its own size, the same through all phases."""

    def __post_init__(self) -> None:
        for part in dataclasses.fields(self):
            kind = tuple if part.name == "phases" else part.type
            if not isinstance(value := getattr(self, part.name), kind):
                raise ValueError(f"{part.name} is {value!r}; give {getattr(part.type, '__name__', part.type)}")
        for number, phase in enumerate(self.phases):
            if not isinstance(phase, Phase):
                raise ValueError(f"phases.{number} is {phase!r}; give a Phase")
        if self.name in (".", "..") or re.search(r"[/\\\0]", self.name):
            raise ValueError(f"name is {self.name!r}; give a plain name, it becomes a folder under runs/")
        length, batch, parts = self.data.row_length, self.training.batch_size, self.training.accumulation
        if not self.init_from:  # whose architecture is not known yet
            check_positions(self)
        pairs = isinstance(self.objective, MaskedLM) and self.objective.pairs
        if pairs and self.data.pairs == "none":
            raise ValueError("objective.pairs needs pairs to tell apart; set data.pairs to nsp or sop")
        if pairs and self.model.token_types < 2:
            raise ValueError(f"objective.pairs needs model.token_types 2, not {self.model.token_types}")
        if self.data.pairs != "none" and not pairs:
            raise ValueError(
                f"data.pairs is {self.data.pairs!r}, but the objective makes nothing of it; "
                "take MaskedLM with objective.pairs, or set data.pairs to none"
            )
        shards = abs(self.mesh.data * self.mesh.fsdp)  # -1 takes what is left: at least 1
        if (batch // parts) % shards and not self.training.batch_examples:
            raise ValueError(
                f"training.batch_size {batch} in {parts} part(s) does not divide into the {shards} shares of "
                f"mesh.data {self.mesh.data} and mesh.fsdp {self.mesh.fsdp}; change one of them"
            )
        if self.mesh.context > 1 and length % self.mesh.context:
            raise ValueError(f"data.row_length {length} is not a multiple of mesh.context {self.mesh.context}")
        kind, unit = type(self.objective).__name__, _LABEL_UNITS.get(type(self.objective), "text")
        if self.is_supervised and not self.data.label_field:
            raise ValueError(f"the objective {kind} needs data.label_field: the field that holds the label")
        if self.data.label_unit != unit:
            raise ValueError(
                f"the objective {kind} learns from labels of each {unit}, but data.label_unit is "
                f"{self.data.label_unit!r}; change one of them"
            )
        if self.phases and (self.training.epochs or self.training.batch_examples):
            raise ValueError("training.epochs and training.batch_examples count no phases; give a phase steps and rows")
        anew = 0 if self.training.epochs else STEPS
        steps = sum(phase.steps for phase in self.phases) or self.training.steps or anew
        if self.training.steps not in (0, steps):
            raise ValueError(
                f"training.steps is {self.training.steps}, but the steps of the phases add up to {steps}; "
                "set it to 0, or change those of a phase, such as --phases.0.steps"
            )
        object.__setattr__(self, "training", dataclasses.replace(self.training, steps=steps))
        for name, size in (("adapter.rank", self.adapter.rank), ("model.bottleneck", self.model.bottleneck)):
            if size and isinstance(self.objective, ReplacedToken):
                raise ValueError(f"{name} is {size}, but ReplacedToken trains two models; set it to 0")
        if self.reinitialize < 0 or (self.reinitialize and (not self.init_from or self.adapter.rank)):
            raise ValueError(
                f"reinitialize is {self.reinitialize}; it is the number of layers of init_from that start anew, "
                "and learn as a whole: it goes with init_from and without an adapter"
            )
        for number in range(len(self.phases)):
            _in_phase(self, number)  # checked as a run is

    @property
    def phase_configs(self) -> tuple["RunConfig", ...]:
        """Each phase as a run of nothing else; where there are none, the run itself is the only one."""
        return tuple(_in_phase(self, number) for number in range(len(self.phases))) or (self,)

    @property
    def phase_learning_rates(self) -> tuple[tuple[int, float], ...]:
        """Steps and peak learning rate of each phase, as `training.optim.schedule` takes them."""
        return tuple((part.training.steps, part.optimizer.learning_rate) for part in self.phase_configs)

    @property
    def is_supervised(self) -> bool:
        """Whether it is a fine-tuning, on labelled examples."""
        return type(self.objective) in _LABEL_UNITS

    @property
    def trainable_patterns(self) -> tuple[str, ...]:
        """Patterns of the parameters that learn, as optimizer.trainable; beside adapters the encoder itself stays."""
        if self.optimizer.trainable:
            return self.optimizer.trainable
        if self.model.bottleneck and self.init_from:
            return bottleneck.TRAINABLE
        return lora.TRAINABLE if self.adapter.rank else ()

    def build(self, vocabulary: Vocabulary) -> Objective:
        """What the run trains, its adapter included."""
        return with_lora(self.adapter, self.objective.build(self.model, self.compute, vocabulary))

    def at_step(self, step: int) -> "RunConfig":
        """The run as it stands after `step` updates: the phases that have begun, and the last one's architecture."""
        starts = itertools.accumulate((phase.steps for phase in self.phases), initial=0)
        begun = tuple(phase for phase, start in zip(self.phases, starts, strict=False) if start < max(step, 1))
        if not begun:
            return self
        training = dataclasses.replace(self.training, steps=0)
        model = self.phase_configs[len(begun) - 1].model
        return dataclasses.replace(self, model=model, training=training, phases=begun)


def check_positions(config: RunConfig) -> None:
    """ValueError if the rows have more tokens than the model has learned positions."""
    length, model = config.data.row_length, config.model
    if model.positions == "learned" and length > model.max_length:
        advice = "raise model.max_length or shorten the rows"
        if config.init_from:
            advice = f"shorten --data.row-length to {model.max_length}, or make the model longer with jaxencoder extend"
        raise ValueError(f"data.row_length is {length}, but the model has only {model.max_length} positions; {advice}")


def load(target: str | Path, overrides: Sequence[str] = (), prog: str = "jaxencoder train") -> RunConfig:
    """A recipe or a run's saved configuration, with overrides applied.

    Args:
        target: path of a recipe (.py with `get_config()`), name of one that comes with jaxencoder, folder of a run,
            or its config.json.
        overrides: command-line words such as ["--training.steps", "60"]; "--help" prints every setting and exits.
        prog: command that the help names.

    Raises:
        ValueError: the target is none of these, or a setting is unknown, malformed or contradicts another.
        OSError: the file cannot be read.
    """
    path = _find(str(target))
    if path.suffix == ".json":
        config, name = from_json(path.read_text(encoding="utf-8"), str(path)), path.absolute().parent.name
    else:
        config, name = _run_recipe(path), path.stem
    return override(dataclasses.replace(config, name=config.name or name), overrides, f"{prog} {target}", str(target))


def override(config: RunConfig, words: Sequence[str], prog: str = "jaxencoder train", where: str = "") -> RunConfig:
    """A configuration with command-line words laid over it; arguments, result and errors as of `load`."""
    if words:
        given = {word.partition("=")[0].replace("_", "-") for word in words}
        replaced = [other for name, other in _IN_PLACE.items() if f"--training.{name}" in given]
        # The sum of the phases' steps is computed anew, unless the words that follow say otherwise.
        replaced += ["steps"] if config.phases else []
        config = apply(config, [*(x for name in replaced for x in (f"--training.{name}", "0")), *words], prog)
    # Through JSON and back, so that what runs is exactly what is saved: types are checked, lists become tuples.
    return from_json(to_json(config), where or CONFIG_FILE)


def to_json(config: RunConfig) -> str:
    """The configuration as indented JSON; `from_json` gives back an equal value."""
    return config_json.to_json(config, AnyObjective)


def from_json(text: str, where: str = CONFIG_FILE) -> RunConfig:
    """Read what `to_json` wrote; settings that are not named take their defaults.

    Raises:
        ValueError: not JSON, or a setting is unknown, of the wrong type, or refused by its section; names `where`.
    """
    return config_json.from_json(text, RunConfig, AnyObjective, where)


def save(config: RunConfig, run_dir: str | Path) -> None:
    """Write `run_dir`/config.json, whole or not at all; the folder must exist."""
    write_atomic(Path(run_dir) / CONFIG_FILE, to_json(config))


def recipes() -> dict[str, Path]:
    """The recipes that come with jaxencoder, by name: the wheel's recipes/, or configs/ beside a checkout's package."""
    package = Path(__file__).parent
    folder = next((f for f in (package / "recipes", package.parent / "configs") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))} if folder else {}


def _in_phase(config: RunConfig, number: int) -> RunConfig:
    phase = config.phases[number]
    try:
        data = _changed(config.data, row_length=phase.row_length, temperature=phase.temperature)
        if phase.train or phase.weights:
            data = dataclasses.replace(data, train=phase.train or data.train, weights=phase.weights)
        objective = config.objective
        if phase.rate and not objective.masked_loss:
            kind = type(objective).__name__
            raise ValueError(f"rate is {phase.rate}, but the objective {kind} masks nothing; leave it out")
        if phase.rate:
            masking = dataclasses.replace(objective.masking, rate=phase.rate, final_rate=0.0)
            objective = dataclasses.replace(objective, masking=masking)
        if phase.rope_theta and config.model.positions != "rotary":
            raise ValueError(f"rope_theta is {phase.rope_theta}, but model.positions is {config.model.positions!r}")
        return dataclasses.replace(
            config,
            model=_changed(config.model, rope_theta=phase.rope_theta),
            objective=objective,
            data=data,
            optimizer=_changed(config.optimizer, learning_rate=phase.learning_rate),
            training=_changed(
                config.training, steps=phase.steps, batch_size=phase.batch_size, accumulation=phase.accumulation
            ),
            phases=(),
        )
    except ValueError as error:
        raise ValueError(f"phases.{number}: {error}") from None


def _changed(section: Any, **settings: Any) -> Any:
    """The section with those of the settings that are given: not 0."""
    return dataclasses.replace(section, **{name: value for name, value in settings.items() if value})


def _find(target: str) -> Path:
    path = Path(target)
    if path.suffix in (".py", ".json"):
        return path
    if (path / CONFIG_FILE).is_file():
        return path / CONFIG_FILE
    known = recipes()
    if target in known:
        return known[target]
    if path.is_dir():
        raise ValueError(f"{target} is not a run: it has no {CONFIG_FILE}")
    hint = closest(target, known) or f"; give a .py file, a run's {CONFIG_FILE}, or one of {', '.join(known) or 'none'}"
    raise ValueError(f"no recipe is called {target!r}{hint}")


def _run_recipe(path: Path) -> RunConfig:
    spec = importlib.util.spec_from_file_location(f"_recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except TypeError as error:
        raise _unknown_argument(path, error) from error
    if not isinstance(config, RunConfig):
        raise ValueError(f"{path} is not a recipe: it needs a get_config() that returns a jaxencoder.config.RunConfig")
    return config


def _unknown_argument(path: Path, error: TypeError) -> Exception:
    """A sentence in place of Python's for a setting that a recipe misspells; any other error as it is."""
    match = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
    section = next((kind for kind in _sections() if match and kind.__name__ == match[1]), None)
    if section is None:
        return error
    return ValueError(f"{path}: {match[1]} has no setting {match[2]!r}{closest(match[2], _names(section))}")


def _sections() -> Iterator[type]:
    yield RunConfig
    for part in dataclasses.fields(RunConfig):
        yield from (kind for kind in get_args(part.type) or (part.type,) if dataclasses.is_dataclass(kind))


def _names(section: Any) -> list[str]:
    return [part.name for part in dataclasses.fields(section)]
