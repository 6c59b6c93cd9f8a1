"""What a family is: how its config.json maps to an EncoderConfig, and a table of weight names, both used both ways."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxencoder.families.tables import Weight, linear, norm
from jaxencoder.model.config import EncoderConfig
from jaxencoder.model.heads import HeadConfig

Settings = Mapping[str, Any]  # a config.json

# Names of activations as they are published -> ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
    "relu2": "relu_squared",
}
PUBLISHED = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "relu": "relu",
    "silu": "silu",
    "tanh": "tanh",
    "quick_gelu": "quick_gelu",
    "relu_squared": "relu2",
}


class HeadTable(NamedTuple):
    """A head and the rows of its weights."""

    config: HeadConfig
    weights: list[Weight]


Heads = dict[str, HeadTable]  # by the names of HEADS

# The end of an architecture's name in config.json -> the heads that it has, if its family knows them. The
# masked-language-model head is apart: training knows it too.
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


class Release(NamedTuple):
    """A published checkpoint.

    Attributes:
        name: on the hub.
        settings: of its config.json, as far as they decide the architecture and are not the family's defaults.
    """

    name: str
    settings: Settings


class About(NamedTuple):
    """What someone who must choose a model wants to know of a family, and an EncoderConfig cannot say.

    Attributes:
        title: the family's name as its paper writes it.
        choose_for: what it is a good choice for, continuing "choose it for ...".
        tokenizer: the kind; its size is in the settings.
        objective: of pretraining.
        text: that it has learned from.
        papers: what they are about -> arXiv number, the family's own first.
        releases: published checkpoints that can be loaded, from few parameters to many.
    """

    title: str
    choose_for: str
    tokenizer: str
    objective: str
    text: str
    papers: Mapping[str, str]
    releases: tuple[Release, ...]


@dataclass(frozen=True)
class Family:
    """One family of encoders.

    Attributes:
        model_type: of config.json.
        name: of its classes in config.json, such as Bert in BertForMaskedLM.
        prefix: before the names of the encoder's tensors, in a checkpoint with heads.
        encoder_config: config.json -> architecture. KeyError for a setting that is missing.
        settings: architecture -> config.json.
        encoder: the rows of the encoder, names with the prefix.
        mlm_head: the rows of the masked-language-model head.
        heads: (architecture, config.json) -> the other heads.
        tied: name of the output table, where a checkpoint holds it again, or has its own.
        about: what a reader wants to know besides.
        fixed: settings that the encoder knows only at this value; another is refused by name.
        aliases: beginnings of other names under which checkpoints have tensors -> those that the tables write.
        classes: names of classes that are not `name` and a key of HEADS, by that key.
        classifier: settings under which the heads of texts compute what a run's classifier does, if the family's own
            do not.
    """

    model_type: str
    name: str
    prefix: str
    encoder_config: Callable[[Settings], EncoderConfig]
    settings: Callable[[EncoderConfig], dict[str, Any]]
    encoder: Callable[[EncoderConfig], list[Weight]]
    mlm_head: Callable[[EncoderConfig], list[Weight]]
    heads: Callable[[EncoderConfig, Settings], Heads]
    tied: str
    about: About
    fixed: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    classes: Mapping[str, str] = field(default_factory=dict)
    classifier: Settings = field(default_factory=dict)

    def class_name(self, kind: str) -> str:
        """The class in config.json of a model with the heads of a key of HEADS."""
        return self.classes.get(kind, self.name + kind)


def sizes(layers: int, hidden_size: int, mlp_size: int, heads: int, vocab_size: int, **others: Any) -> dict[str, Any]:
    """The sizes in a config.json, under the names that most families have for them."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    return dict(zip(names, (layers, hidden_size, mlp_size, heads, vocab_size), strict=True)) | others


def head_activation(settings: Settings, name: str, encoder: str) -> str:
    """Our name of a head's activation: "same" where it is the encoder's."""
    own = activation(settings, name)
    return "same" if own == activation(settings, encoder) else own


def activation(settings: Settings, name: str) -> str:
    """Our name of the activation under `name`; ValueError for one that there is not."""
    return known_activation(settings.get(name, "gelu"), name)


def known_activation(published: Any, name: str) -> str:
    """Our name of an activation; ValueError for one that there is not."""
    if published not in ACTIVATIONS:
        raise ValueError(f"config.json has {name} {published!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[published]


def pattern(windows: Sequence[int]) -> tuple[int, ...]:
    """The shortest pattern that repeats to the windows of all layers."""
    periods = (n for n in range(1, len(windows) + 1) if all(w == windows[i % n] for i, w in enumerate(windows)))
    return tuple(windows[: next(periods, 0)])


def labels(settings: Settings) -> int:
    """How many classes a classifier has: config.json counts them by their names, and leaves two out."""
    return len(settings.get("id2label") or ()) or settings.get("num_labels") or 2


def label_names(settings: Settings) -> tuple[str, ...]:
    """Of the classes, in order of id; where config.json does not name them, as transformers does."""
    names = settings.get("id2label") or {}
    return tuple(names[key] for key in sorted(names, key=int)) or tuple(f"LABEL_{i}" for i in range(labels(settings)))


def with_labels(settings: Settings, count: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """A config.json with so many classes, and their names where they are known."""
    named = {"id2label": {str(i): name for i, name in enumerate(names)} or None}
    named["label2id"] = {name: i for i, name in enumerate(names)} or None
    return {**settings, **named, "num_labels": count}


def head(
    name: str, config: HeadConfig, dense: str = "", output: str = "", norm_name: str = "", norm_bias: bool = True
) -> HeadTable:
    """A head's rows: the names of its transform, its projection and its norm, as far as it has them."""
    rows = []
    if config.activation is not None:
        rows += linear(dense, f"{name}/dense", bias=config.transform_bias)
    if config.outputs:
        rows += linear(output, f"{name}/output", bias=True)
    if config.norm:
        rows += norm(norm_name, f"{name}/norm", norm_bias)
    return HeadTable(config, rows)


def pooler(dense: str, activation: str = "tanh") -> HeadTable:
    """BERT's pooler: a transform of the first token's vector."""
    return head("pooler", HeadConfig("cls", activation=activation), dense)


def plain_heads(settings: Settings, *kinds: str, classifier: str = "classifier", inputs: str = "pooled") -> Heads:
    """The heads that are one projection, as BERT has them: of each token, or of `inputs`."""
    count = labels(settings)
    every = {
        "sequence_head": head("sequence_head", HeadConfig(inputs, count), output=classifier),
        "choice_head": head("choice_head", HeadConfig(inputs, 1), output=classifier),
        "token_head": head("token_head", HeadConfig("tokens", count), output=classifier),
        "span_head": head("span_head", HeadConfig("tokens", 2), output="qa_outputs"),
    }
    return {kind: every[kind] for kind in kinds or every}


def transform_head(name: str, config: HeadConfig, where: str = "classifier") -> HeadTable:
    """A head of two projections with an activation between, as RoBERTa has it."""
    return head(name, config, f"{where}.dense", f"{where}.out_proj")
