"""Rare classes come up more often: their examples are repeated, until all classes have as many as the largest one.

Sampling by the frequencies to a power between 0 and 1: Mahajan et al. 2018, arXiv:1805.00932.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from jaxencoder.text.examples import Example

_KEPT = 1 << 14  # examples in memory, when no more than these are repeated


def oversample(examples: Callable[[], Iterable[Example]], power: float) -> Iterator[Example]:
    """The examples, those of a class of n among classes of at most m examples (m / n) ** power times.

    The examples are gone through once to count, and once for each repetition, so that those of the same text stand far
    apart; when few are left to repeat, they are kept. Where the number of times is not whole, the digest tells which
    examples have one more.

    Args:
        examples: gives them from the start, the same ones each time.
        power: in [0, 1]; 1 makes the classes even.
    """
    counts = Counter(example.label for example in examples())
    most = max(counts.values(), default=0)
    times = {label: (most / n) ** power for label, n in counts.items()}
    kept, done = None, 0
    while any(number > done for number in times.values()):
        more = {label for label, number in times.items() if number > done + 1}
        keeping = kept is None and sum(counts[label] for label in more) <= _KEPT
        again = []
        for example in examples() if kept is None else kept:
            if keeping and example.label in more:
                again.append(example)
            if _share_of(example.digest) < times[example.label] - done:
                yield example
        kept, done = again if keeping else kept, done + 1


def _share_of(digest: int) -> float:
    """In [0, 1), alike for alike digests; not the digest's own share, by which examples are held out."""
    return (digest * 0x9E3779B97F4A7C15 % 2**64) / 2**64
