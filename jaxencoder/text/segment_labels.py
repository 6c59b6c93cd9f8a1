"""The labels of a row's segments: how they are kept on disk, and what a batch has of them.

kind      on disk, of each segment                        in a batch
class     int32, -1 for none                              labels int32 [B, E], -1 for none
value     float32, NaN for none                           labels float32 [B, E], NaN for none
classes   a bit for each of C classes, and one that       labels int8 [B, E, C], 1, 0, or -1 for no segment
          is 1: the segment is there
choice    int32, 1 for the right choice, and 2 more       labels int32 [B, E], 1, 0, or -1 for no segment;
          for the first of an example, -1 for none        groups int32 [B, E], which example of the row, -1 for none
"""

import numpy as np

FIELDS = ("labels", "groups")  # of a batch, that have a place for each segment
_BITS = 32
_FIRST = 2


def layout(kind: str, classes: int) -> tuple[np.dtype, float, int]:
    """How a segment's label is kept: the type of its numbers, the number for no segment, and how many there are."""
    if kind == "classes":
        return np.dtype("<u4"), 0, -(-(classes + 1) // _BITS)
    return (np.dtype("<f4"), np.nan, 1) if kind == "value" else (np.dtype("<i4"), -1, 1)


def fields(kind: str | None) -> tuple[str, ...]:
    """Those of FIELDS that a batch has."""
    return () if kind is None else FIELDS if kind == "choice" else FIELDS[:1]


def examples(kind: str | None, labels: list, segments: int) -> int:
    """How many examples some segments are."""
    return sum(label >= _FIRST for label in labels) if kind == "choice" else segments


def of_choices(right: int, count: int) -> list[int]:
    """The numbers of an example's choices, of which one is right: 1 of 3 -> [2, 1, 0]."""
    return [(i == right) + _FIRST * (i == 0) for i in range(count)]


def encoded(kind: str, labels: list, classes: int) -> list:
    """The numbers of the labels of some segments, one segment after the other.

    Args:
        labels: of each segment an id or a value; of `classes` the ids, as many as it has; of `choice` its number.
    """
    if kind != "classes":
        return labels
    bits = np.zeros((len(labels), layout(kind, classes)[2] * _BITS), bool)
    bits[:, 0] = True
    for row, ids in zip(bits, labels, strict=True):
        row[[i + 1 for i in ids]] = True
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").ravel().tolist()


def decoded(kind: str, numbers: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """What a batch has: arrays [B, E] or [B, E, C] by name.

    Args:
        numbers: [B, E * n], n as `layout` says.
    """
    if kind == "choice":
        is_choice, first = numbers >= 0, (numbers >= _FIRST).cumsum(axis=1, dtype=np.int32)
        return {"labels": np.where(is_choice, numbers % _FIRST, -1), "groups": np.where(is_choice, first - 1, -1)}
    if kind != "classes":
        return {"labels": numbers}
    words = np.ascontiguousarray(numbers, "<u4").reshape(len(numbers), -1, layout(kind, classes)[2])
    bits = np.unpackbits(words.view(np.uint8), axis=2, bitorder="little").astype(np.int8)
    return {"labels": bits[..., 1 : classes + 1] - (bits[..., :1] == 0)}


def widened(labels: np.ndarray, segments: int) -> np.ndarray:
    """[B, E, ...] with more segments, which are not there."""
    none = np.nan if labels.dtype.kind == "f" else -1
    more = ((0, 0), (0, segments - labels.shape[1]), *((0, 0) for _ in labels.shape[2:]))
    return np.pad(labels, more, constant_values=none)
