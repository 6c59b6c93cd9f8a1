"""Definition of a family: its tables of settings and of weights, both read in two directions, and its heads."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxencoder.families.labels import labels
from jaxencoder.families.settings import Entry, Settings, same
from jaxencoder.families.tables import Names, Weight, parameter_shapes, rows, tensors_of
from jaxencoder.model.config import Activation, EncoderConfig
from jaxencoder.model.heads import HeadConfig

# Settings of every family: those that must have one value, and how the output table is stored.
_FIXED = {"is_decoder": False, "add_cross_attention": False, "quantization_config": None}
_TIED = same("tie_word_embeddings", "tied_output")


class HeadTable(NamedTuple):
    """A head and the rows of its weights."""

    config: HeadConfig
    weights: list[Weight]


Heads = dict[str, HeadTable]  # name in HEADS -> table

# End of the architecture's name in config.json -> the heads of that class, if its family has them. The
# masked-language-model head is kept apart, because pretraining uses it too.
HEADS = {
    "Model": ("pooler",),
    "ForMaskedLM": (),
    "ForPreTraining": ("pooler", "nsp_head", "rtd_head"),
    "ForNextSentencePrediction": ("pooler", "nsp_head"),
    "ForSequenceClassification": ("pooler", "sequence_head"),
    "ForMultipleChoice": ("pooler", "choice_head"),
    "ForTokenClassification": ("token_head",),
    "ForQuestionAnswering": ("span_head",),
}


class About(NamedTuple):
    """Facts for choosing a model that an EncoderConfig does not hold."""

    title: str  # spelled as in the paper
    choose_for: str  # good uses, continuing "choose it for ..."
    tokenizer: str
    objective: str  # of pretraining
    text: str  # of pretraining
    papers: Mapping[str, str]  # subject -> arXiv number, the family's own paper first
    # Published checkpoints, from few parameters to many: name on the Hugging Face hub -> the settings of its
    # config.json that decide the architecture and are not the family's defaults.
    releases: Mapping[str, Settings]


class Tasks(NamedTuple):
    """How a family's folders hold low-rank adapters for tasks; which one is used follows from the prompt's name."""

    folders: Callable[[Settings], Mapping[str, str]]  # task -> the folder of its adapter of PEFT in the model's
    prompts: Callable[[Settings], Mapping[str, tuple[str, str]]]  # name of a prompt -> (its text, its task)
    is_required: bool = False  # whether the published code refuses to embed without a task
    # Whether the published code's module for sentence-transformers pools the last token and normalizes its vector.
    pools_last: bool = False


@dataclass(frozen=True)
class Family:
    """One family of encoders. Names of tensors in its tables have the prefix."""

    model_type: str  # in config.json
    name: str  # start of its class names in config.json, such as Bert in BertForMaskedLM
    prefix: str  # start of the names of the encoder's tensors, in a checkpoint with heads
    architecture: EncoderConfig  # the family's fixed choices, and the defaults of settings that config.json leaves out
    settings_table: tuple[Entry, ...]  # config.json <-> the fields of EncoderConfig that vary within the family
    encoder_table: Names | Callable[[EncoderConfig], Names]
    mlm_head_table: Names
    heads: Callable[[EncoderConfig, Settings], Heads]  # the other heads
    tied: str  # name of the output table, in checkpoints that store it again or have a separate one
    about: About
    # The encoder's table by the names of transformers' modules, where files have others (PEFT's have these).
    modules: Names = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)  # settings that can only be loaded with this value
    older_names: Mapping[str, str] = field(default_factory=dict)  # former names of settings -> the current ones
    # Other prefixes of tensor names in checkpoints -> those in the tables.
    aliases: Mapping[str, str] = field(default_factory=dict)
    # Key of HEADS -> the class name, where that is not `name` plus the key.
    classes: Mapping[str, str] = field(default_factory=dict)
    # The architecture with what only a file's tensors say, by their names in the tables; and the tensors that say it.
    refine: Callable[[EncoderConfig, Mapping[str, Any]], EncoderConfig] = lambda config, tensors: config
    buffers: Callable[[EncoderConfig], Mapping[str, Any]] = lambda config: {}
    unused: str = r"$^"  # pattern of tensors that belong to parts of the published model that are not read
    # Settings by which the family differs from another one of the same model_type.
    distinguishing_settings: Settings = field(default_factory=dict)
    # The same for folders under another model_type, which are written under the family's own.
    other_types: Mapping[str, Settings] = field(default_factory=dict)
    tasks: Tasks | None = None
    # Settings under which the classification head computes what a run's classifier does, if the defaults do not.
    classifier: Settings = field(default_factory=dict)

    def matching_settings(self, settings: Settings) -> Settings | None:
        """The settings of a config.json by which it is of this family, perhaps none; None if it is of another one."""
        types = {self.model_type: self.distinguishing_settings, **self.other_types}
        model_type = settings.get("model_type")
        expected = types.get(model_type) if isinstance(model_type, str) else None
        return expected if expected is not None and expected.items() <= settings.items() else None

    def current_settings(self, settings: Settings) -> dict[str, Any]:
        """A config.json with the current names of settings besides their former ones."""
        return {new: settings[old] for old, new in self.older_names.items() if old in settings} | dict(settings)

    def encoder_config(self, settings: Settings) -> EncoderConfig:
        """The architecture that a config.json describes; ValueError for a setting that is missing or unsupported."""
        for name, value in (_FIXED | self.fixed).items():
            if settings.get(name, value) != value:
                raise ValueError(f"config.json has {name} {settings[name]!r}; only {value!r} can be loaded")
        settings = self.current_settings(settings)
        fields = dict(vars(self.architecture))
        for entry in (*self.settings_table, _TIED):
            fields |= entry.read(settings, fields)
        if fields["head_activation"] == fields["activation"]:
            fields["head_activation"] = "same"  # so that equal architectures are equal configs
        return EncoderConfig(**fields)

    def settings(self, config: EncoderConfig) -> dict[str, Any]:
        """The config.json of an architecture; ValueError for one that it cannot express.

        Fields that no entry writes are not compared with the family's: `encoder_config` of the result shows them.
        """
        if config.head_activation == "same":
            config = dataclasses.replace(config, head_activation=config.activation)
        settings: dict[str, Any] = {}
        for entry in (*self.settings_table, _TIED):
            settings |= entry.write(config)
        return settings

    def encoder(self, config: EncoderConfig) -> list[Weight]:
        """The rows of the encoder's weights."""
        table = self.encoder_table(config) if callable(self.encoder_table) else self.encoder_table
        return rows(table, parameter_shapes(config, False)["encoder"], "encoder")

    def by_modules(self) -> "Family":
        """The family with the encoder's names that transformers' modules have."""
        if not self.modules:
            return self
        prefix = next(iter(self.modules)).partition(".")[0] + "."
        aliases = {old: new for old, new in self.aliases.items() if old != prefix}
        return dataclasses.replace(self, encoder_table=self.modules, prefix=prefix, aliases=aliases)

    def named_as_in(self, tensors: Iterable[str], config: EncoderConfig) -> "Family":
        """The family with those of the encoder's names that most tensors of a file have, of a model or an adapter."""
        modules = {re.sub(r"\.(lora_.*|weight|parametrizations\..*)$", "", name) for name in tensors}

        def matches(family: Family) -> int:
            names = {name.removesuffix(".weight") for _, name, _ in tensors_of(family.encoder(config), config)}
            return len(modules & (names | {name.removeprefix(family.prefix) for name in names}))

        return max((self, self.by_modules()), key=matches) if self.modules else self

    def mlm_head(self, config: EncoderConfig) -> list[Weight]:
        """The rows of the masked-language-model head's weights, without a separate output table."""
        return rows(self.mlm_head_table, parameter_shapes(config, True)["mlm_head"], "mlm_head")

    def class_name(self, kind: str) -> str:
        """The class name in config.json of a model with the heads of a key of HEADS."""
        return self.classes.get(kind, self.name + kind)


def shortest_pattern(windows: Sequence[int]) -> tuple[int, ...]:
    """The shortest pattern that repeats to the windows of all layers."""
    periods = (n for n in range(1, len(windows) + 1) if all(w == windows[i % n] for i, w in enumerate(windows)))
    return tuple(windows[: next(periods, 0)])


def head(
    name: str, config: HeadConfig, dense: str = "", output: str = "", norm: str = "", norm_bias: bool = True
) -> Heads:
    """A head, with the tensor names of its transform, its projection and its norm, as far as it has them."""

    def module(theirs: str, ours: str, leaf: str, bias: bool = True) -> list[Weight]:
        leaves = {"weight": leaf, "bias": "bias"} if bias else {"weight": leaf}
        return [Weight((f"{name}/{ours}/{leaf}",), f"{theirs}.{end}") for end, leaf in leaves.items()]

    weights = module(dense, "dense", "kernel", config.transform_bias) if config.activation is not None else []
    weights += module(output, "output", "kernel", config.output_bias) if config.outputs else []
    return {name: HeadTable(config, weights + (module(norm, "norm", "scale", norm_bias) if config.norm else []))}


def pooler(dense: str, activation: Activation = "tanh") -> Heads:
    """BERT's pooler: a transform of the first token's vector."""
    return head("pooler", HeadConfig("cls", activation=activation), dense)


def plain_heads(settings: Settings, *names: str) -> Heads:
    """BERT's heads that are a single projection, of the pooled vector or of each token; by default all."""
    count = labels(settings)
    heads = (
        head("sequence_head", HeadConfig("pooled", count), output="classifier")
        | head("choice_head", HeadConfig("pooled", 1), output="classifier")
        | head("token_head", HeadConfig("tokens", count), output="classifier")
        | head("span_head", HeadConfig("tokens", 2), output="qa_outputs")
    )
    return {name: heads[name] for name in names or heads}


def two_layer_classifier(settings: Settings, activation: Activation) -> Heads:
    """RoBERTa's classifier of texts: two projections of the first token with an activation between."""
    config = HeadConfig("cls", labels(settings), activation)
    return head("sequence_head", config, "classifier.dense", "classifier.out_proj")
