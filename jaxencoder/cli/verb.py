"""What the verbs share: a verb as a dataclass, verbs that take a recipe, and common options."""

import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, dataclass_transform, get_type_hints

from tyro.conf import Positional, Suppress, arg

from jaxencoder.arguments import parse
from jaxencoder.inference.options import EmbedOptions
from jaxencoder.model.config import Pooling
from jaxencoder.text.config import WindowConfig, WindowPooling

_MODEL = "Folder of a run, adapter, transformers or sentence-transformers, or a hub name."
ModelName = Positional[Annotated[str, arg(metavar="MODEL", help=_MODEL)]]
Source = Annotated[str, arg(metavar="SOURCE")]
TopCount = Annotated[int, arg(aliases=("-k",), metavar="N")]
Json = Annotated[bool, arg(help="Print JSON.")]
HELP = {"-h", "--help"}


def default_is(text: str, metavar: str | None = None, help: str | None = None) -> Any:
    """An option whose help names its default in words; `metavar` stands for its value."""
    return arg(metavar=metavar, help=help, help_behavior_hint=f"(default: {text})")


# Options that several verbs have, each with its help.
RecordText = Annotated[str, arg(help="Field of a record that holds the text.")]
TextField = Annotated[str | None, default_is("the run's, or a usual name", help="Field of the text.")]
PairField = Annotated[str | None, default_is("the run's, or a usual name", help="Field of the second text.")]
LabelField = Annotated[str | None, default_is("the run's, or a usual name", help="Field of the label.")]
Step = Annotated[int | Literal["latest", "best"], arg(help="Checkpoint of a run.")]
BatchTokens = Annotated[int | None, default_is("1024 on a CPU, else 8192", "N", "Tokens in one batch.")]
PoolingOption = Annotated[Pooling | None, default_is("the model's own, or mean", help="How token vectors are pooled.")]
_POOL_HELP = "For multi-vector models: a document's vectors for each one that is kept."
PoolFactor = Annotated[float | None, default_is("the model's own, or all", "N", _POOL_HELP)]
_ACTIVE_HELP = "For sparse models: keep the N largest entries of each vector."
MaxActiveDims = Annotated[int | None, default_is("the model's own, or all", "N", _ACTIVE_HELP)]
_PROMPT_HELP = "Name of a stored prompt for queries, which also chooses the adapter for its task, or its text."
_QUERY, _DOCUMENT = "the stored one called query", "the stored one called document, passage or corpus"
QueryPrompt = Annotated[str | None, default_is(_QUERY, help=_PROMPT_HELP)]
DocumentPrompt = Annotated[str | None, default_is(_DOCUMENT, help="The same for documents.")]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(dataclasses.field,))
@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command: options whose docstrings are their help. Every subclass is a frozen dataclass with keywords only."""

    distributed: ClassVar[bool] = False  # whether several hosts may run it together

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def read(cls, arguments: Sequence[str], prog: str) -> Self:
        """The verb with the options in these command-line arguments; ValueError for an unknown one."""
        verb, unknown = parse(cls, arguments, prog)
        if unknown:
            advice = cls.closest_option(unknown[0]) or f"; see {prog} --help"
            raise ValueError(f"unknown option {unknown[0]}{advice}")
        return verb

    def run(self) -> None:
        """Run the command and print its result."""
        raise NotImplementedError

    @classmethod
    def closest_option(cls, word: str) -> str:
        """The hint "; did you mean X?" with the option most like a word; empty if none is close."""
        options = [f"--{name.replace('_', '-')}" for name in _option_names(cls)]
        close = difflib.get_close_matches(word.partition("=")[0], options, n=1, cutoff=0.8)
        return f"; did you mean {close[0]}?" if close else ""


def _option_names(kind: Any) -> Iterator[str]:
    """Names of the fields of a dataclass, with those of fields that are dataclasses."""
    for name, annotation in get_type_hints(kind).items():
        yield name
        if dataclasses.is_dataclass(annotation):
            yield from _option_names(annotation)


class RecipeVerb(Verb):
    """A verb that passes arguments other than its own options to the settings of a recipe."""

    lists_settings: ClassVar[bool] = True  # whether --help after a recipe also lists its settings
    settings: Suppress[tuple[str, ...]] = ()

    @classmethod
    def read(cls, arguments: Sequence[str], prog: str) -> Self:
        """The verb, with the arguments that are none of its options as settings."""
        if HELP & set(arguments):
            with contextlib.suppress(SystemExit):
                parse(cls, ["--help"], prog)
            if cls.lists_settings and not arguments[0].startswith("-"):
                load_recipe(arguments[0], ["--help"], prog)
            raise SystemExit(0)
        verb, rest = parse(cls, arguments, prog)
        for word in rest:
            # Without this a mistyped option would be reported as an unknown setting of the recipe.
            if word.startswith("--") and "." not in word.partition("=")[0] and (hint := cls.closest_option(word)):
                raise ValueError(f"unknown option {word.partition('=')[0]}{hint}")
        return dataclasses.replace(verb, settings=tuple(rest))


def load_recipe(target: str, settings: Sequence[str], prog: str = "jaxencoder train") -> Any:
    """The RunConfig of a recipe or run with settings applied."""
    from jaxencoder.config_io import load  # loads jax

    return load(target, settings, prog=prog)


def given(options: Any, *names: str) -> dict[str, Any]:
    """Those options of a verb that are not None, as keyword arguments."""
    return {name: value for name in names if (value := getattr(options, name)) is not None}


@dataclass(frozen=True, kw_only=True)
class LongTextOptions:
    """Texts longer than a row are truncated, or split into windows:"""

    windows: Annotated[bool, default_is("truncate")] = False
    """Split into overlapping windows."""
    stride: Annotated[int | None, default_is("half a window", "N")] = None
    """Tokens from one window to the next."""
    window_pooling: Annotated[WindowPooling | None, default_is("length, or learned with --pooling learned")] = None
    """How the windows of a text are combined; length: mean weighted by tokens."""

    def window_config(self) -> WindowConfig | None:
        """The WindowConfig of the options, None to truncate; ValueError for an option of windows without --windows."""
        if self.windows:
            return WindowConfig(self.stride, self.window_pooling)
        for name, value in given(self, "stride", "window_pooling").items():
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}, but texts are truncated; add --windows, or leave --{option} out")
        return None


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions(LongTextOptions):
    """How texts become vectors. Texts longer than a row are truncated, or split into windows."""

    pooling: PoolingOption = None
    pool_factor: PoolFactor = None
    max_active_dims: MaxActiveDims = None
    batch_tokens: BatchTokens = None

    def embed_options(self, **more: Any) -> EmbedOptions:
        given_options = given(self, "pooling", "pool_factor", "max_active_dims", "batch_tokens")
        return EmbedOptions(windows=self.window_config(), **given_options, **more)
