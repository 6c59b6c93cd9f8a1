"""The labels of a row's segments, on disk and in batches.

kind      on disk, per segment                            in a batch
class     int32, -1 for none                              labels int32 [B, E], -1 for none
value     float32, NaN for none                           labels float32 [B, E], NaN for none
classes   a bit of 1 for an existing segment, then one    labels int8 [B, E, C], 1, 0, or -1 for no segment
          for each of C classes
choice    int32, 1 for the right choice, plus 2           labels int32 [B, E], 1, 0, or -1 for no segment;
          for the first of an example, -1 for none        groups int32 [B, E], index of the example, -1 for none
"""

import numpy as np

FIELDS = ("labels", "groups")  # of a batch, with an entry for each segment
_BITS = 32
_FIRST = 2


def layout(kind: str, classes: int) -> tuple[np.dtype, float, int]:
    """The numbers of a segment's label on disk: their type, the one for no segment, and their count."""
    if kind == "classes":
        return np.dtype("<u4"), 0, -(-(classes + 1) // _BITS)
    return (np.dtype("<f4"), np.nan, 1) if kind == "value" else (np.dtype("<i4"), -1, 1)


def fields(kind: str | None) -> tuple[str, ...]:
    """The FIELDS of a batch."""
    return () if kind is None else FIELDS if kind == "choice" else FIELDS[:1]


def count_examples(kind: str | None, labels: list, segments: int) -> int:
    """The number of examples in some segments; a choice is only a part of one."""
    return sum(label >= _FIRST for label in labels) if kind == "choice" else segments


def choice_labels(right: int, count: int) -> list[int]:
    """The labels of an example's choices: choice 1 of 3 is right -> [2, 1, 0]."""
    return [(i == right) + _FIRST * (i == 0) for i in range(count)]


def encode(kind: str, labels: list, classes: int) -> list:
    """The numbers on disk of some segments' labels: ids, values, tuples of ids for `classes`, or `choice_labels`."""
    if kind != "classes":
        return labels
    bits = np.zeros((len(labels), layout(kind, classes)[2] * _BITS), bool)
    bits[:, 0] = True
    for row, ids in zip(bits, labels, strict=True):
        row[[i + 1 for i in ids]] = True
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").ravel().tolist()


def decode(kind: str, numbers: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """The fields of a batch, [B, E] or [B, E, C], from numbers [B, E * n] with n of `layout`."""
    if kind == "choice":
        exists, first = numbers >= 0, (numbers >= _FIRST).cumsum(axis=1, dtype=np.int32)
        return {"labels": np.where(exists, numbers % _FIRST, -1), "groups": np.where(exists, first - 1, -1)}
    if kind != "classes":
        return {"labels": numbers}
    words = np.ascontiguousarray(numbers, "<u4").reshape(len(numbers), -1, layout(kind, classes)[2])
    bits = np.unpackbits(words.view(np.uint8), axis=2, bitorder="little").astype(np.int8)
    return {"labels": bits[..., 1 : classes + 1] - (bits[..., :1] == 0)}


def widen(labels: np.ndarray, segments: int) -> np.ndarray:
    """Labels [B, E, ...] padded to more segments."""
    none = np.nan if labels.dtype.kind == "f" else -1
    padding = ((0, 0), (0, segments - labels.shape[1]), *((0, 0) for _ in labels.shape[2:]))
    return np.pad(labels, padding, constant_values=none)
