"""Options of embeddings and of windows over long texts."""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxencoder.model.heads import Pooling

WindowPooling = Literal["mean", "max", "first", "length", "learned"]


@dataclass(frozen=True)
class WindowConfig:
    """Overlapping windows over texts longer than a model reads at once.

    A token belongs to the window with the most context around it. A window is pooled over its own tokens as if they
    were a text: "weightedmean" counts positions from 1 in each window, "mean_sqrt_len" divides by the root of its
    number of tokens; "cls" and "lasttoken" take the window's first or last token. The vectors of a text's windows are
    then pooled into one, and the modules after pooling come last. A prompt is repeated in each window and pooled once.

    Attributes:
        stride: tokens from the start of a window to the start of the next; None: half of the room for text.
        pooling: how the windows of a text become one vector or one row of probabilities. "length" averages windows
            weighted by the tokens that belong to them: with mean pooling this is the mean of all tokens, each once.
            "mean" weights windows equally. "max" takes the largest values. "first" reads the first window only.
            "learned" applies a run's learned pooling to the tokens of all windows. None: "learned" for embeddings with
            pooling "learned", otherwise "length".

    Raises:
        ValueError: an unknown pooling, or a stride where only the first window is read.
    """

    stride: int | None = None
    pooling: WindowPooling | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in get_args(WindowPooling):
            raise ValueError(f"window pooling is {self.pooling!r}; give one of {', '.join(get_args(WindowPooling))}")
        if self.pooling == "first" and self.stride is not None:
            raise ValueError(f"stride is {self.stride}, but window pooling 'first' reads one window; leave it out")


@dataclass(frozen=True)
class EmbedOptions:
    """How to embed texts. None means: as the model's `sentence` settings say.

    Attributes:
        pooling: one method, or several whose vectors are concatenated: "cls" (the first token), "mean", "max",
            "learned" (a run's own learned pooling) or another of `jaxencoder.model.heads.pool`.
        normalize: scale each vector to length 1, so that a dot product is the cosine similarity.
        prompt: name of a stored prompt, or the text to put before each text; "" for no prompt. A single word without
            punctuation is taken as a name.
        dimensions: keep this many leading numbers of each vector (Matryoshka), before normalization.
        windows: split texts longer than `max_length` into overlapping windows; None: truncate them, with one warning.
        batch_tokens: tokens per batch, padding included; memory grows with it. None: 1024 on a CPU, where activations
            should stay in the cache, and 8192 elsewhere.
        max_length: tokens of a text or window, special tokens included; None: the model's `max_length`.
    """

    pooling: Pooling | tuple[Pooling, ...] | None = None
    normalize: bool | None = None
    prompt: str | None = None
    dimensions: int | None = None
    windows: WindowConfig | None = None
    batch_tokens: int | None = None
    max_length: int | None = None


DEFAULT_OPTIONS = EmbedOptions()
