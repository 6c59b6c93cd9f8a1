"""Oversampling of rare classes: their examples are repeated.

Sampling by class frequency to a power between 0 and 1: Mahajan et al. 2018, arXiv:1805.00932.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from jaxencoder.text.schema import Example

_MAX_BUFFERED = 1 << 14  # examples kept in memory instead of being read again


def oversample(examples: Callable[[], Iterable[Example]], power: float) -> Iterator[Example]:
    """Repeat the examples of a class of n examples (m / n) ** power times, where m is the size of the largest class.

    The source is read once to count and once for each repetition, so that copies of an example are far apart. Once
    few examples remain to be repeated, they are buffered. An example's digest rounds a fractional count up or down.

    Args:
        examples: opens the source anew, with the same examples each time.
        power: in [0, 1]; 1 makes the classes even.
    """
    sizes = Counter(example.label for example in examples())
    largest = max(sizes.values(), default=0)
    repeats = {label: (largest / n) ** power for label, n in sizes.items()}
    buffer, done = None, 0
    while any(count > done for count in repeats.values()):
        unfinished = {label for label, count in repeats.items() if count > done + 1}
        fill_buffer = buffer is None and sum(sizes[label] for label in unfinished) <= _MAX_BUFFERED
        remaining = []
        for example in examples() if buffer is None else buffer:
            if fill_buffer and example.label in unfinished:
                remaining.append(example)
            if _uniform(example.digest) < repeats[example.label] - done:
                yield example
        buffer, done = remaining if fill_buffer else buffer, done + 1


def _uniform(digest: int) -> float:
    """A number in [0, 1) from the digest, independent of the comparison that decides what is held out."""
    return (digest * 0x9E3779B97F4A7C15 % 2**64) / 2**64
