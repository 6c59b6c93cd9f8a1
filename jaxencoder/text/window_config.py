"""Options of windows over long texts."""

from dataclasses import dataclass
from typing import Literal, get_args

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
    """

    stride: int | None = None
    pooling: WindowPooling | None = None

    def __post_init__(self) -> None:
        if self.pooling is not None and self.pooling not in get_args(WindowPooling):
            raise ValueError(f"window pooling is {self.pooling!r}; give one of {', '.join(get_args(WindowPooling))}")
        if self.pooling == "first" and self.stride is not None:
            raise ValueError(f"stride is {self.stride}, but window pooling 'first' reads one window; leave it out")
