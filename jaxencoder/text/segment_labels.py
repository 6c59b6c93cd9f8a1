"""The labels of a row's segments, on disk and in batches.

kind      on disk, per segment                            in a batch
class     int32, -1 for none                              labels int32 [B, E], -1 for none
value     float32, NaN for none                           labels float32 [B, E], NaN for none
classes   a bit of 1 for an existing segment, then one    labels int8 [B, E, C], 1, 0, or -1 for no segment
          for each of C classes
choice    int32, 1 for the right choice, plus 2           labels int32 [B, E], 1, 0, or -1 for no segment;
          for the first of an example, -1 for none        groups int32 [B, E], index of the example, -1 for none
tuple     float32, index of the text in its example,      labels float32 [B, E], the scores, NaN for none; tuples int32
          and its score or NaN for none; NaN for no       [B, G, C], segments of the C texts of each of G examples,
          segment                                         from 0, -1 for none
"""

import numpy as np

# Of a batch, with an entry for each segment or example; the last one by another model, where the objective needs it.
FIELDS = ("labels", "groups", "tuples", "teacher_vectors")
_BITS = 32
_FIRST = 2


def layout(kind: str, classes: int) -> tuple[np.dtype, float, int]:
    """The numbers of a segment's label on disk: their type, the one for no segment, and their count."""
    if kind == "classes":
        return np.dtype("<u4"), 0, -(-(classes + 1) // _BITS)
    if kind in ("value", "tuple"):
        return np.dtype("<f4"), np.nan, 1 + (kind == "tuple")
    return np.dtype("<i4"), -1, 1


def fields(kind: str | None) -> tuple[str, ...]:
    """The FIELDS of a batch."""
    return () if kind is None else ("labels", *{"choice": ("groups",), "tuple": ("tuples",)}.get(kind, ()))


def count_examples(kind: str | None, labels: list, segments: int) -> int:
    """The number of examples in some segments; a choice or a text of a tuple is only a part of one."""
    if kind == "tuple":
        return sum(column == 0 for column, _ in labels)
    return sum(label >= _FIRST for label in labels) if kind == "choice" else segments


def choice_labels(right: int, count: int) -> list[int]:
    """The labels of an example's choices: choice 1 of 3 is right -> [2, 1, 0]."""
    return [(i == right) + _FIRST * (i == 0) for i in range(count)]


def encode(kind: str, labels: list, classes: int) -> list:
    """The numbers on disk of some segments' labels.

    They are ids, values, tuples of ids for `classes`, `choice_labels`, or (index, score) for `tuple`.
    """
    if kind == "tuple":
        return [number for label in labels for number in label]
    if kind != "classes":
        return labels
    bits = np.zeros((len(labels), layout(kind, classes)[2] * _BITS), bool)
    bits[:, 0] = True
    for row, ids in zip(bits, labels, strict=True):
        row[[i + 1 for i in ids]] = True
    return np.packbits(bits, axis=1, bitorder="little").view("<u4").ravel().tolist()


def tuple_shape(labels: list[tuple[int, float]]) -> tuple[int, int]:
    """The number of examples of a row, and the most texts of one of them, from the labels of its segments."""
    columns = [column for column, _ in labels]
    return columns.count(0), max(columns, default=-1) + 1


def decode(kind: str, numbers: np.ndarray, classes: int, tuples: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
    """The fields of a batch from numbers [B, E * n] with n of `layout`; `tuples` are (G, C)."""
    if kind == "choice":
        exists, first = numbers >= 0, (numbers >= _FIRST).cumsum(axis=1, dtype=np.int32)
        return {"labels": np.where(exists, numbers % _FIRST, -1), "groups": np.where(exists, first - 1, -1)}
    if kind == "tuple":
        columns, scores = numbers[:, 0::2], numbers[:, 1::2]
        examples = (columns == 0).cumsum(axis=1) - 1
        segments = np.full((len(numbers), *tuples), -1, np.int32)
        rows, index = np.nonzero(~np.isnan(columns))
        segments[rows, examples[rows, index], columns[rows, index].astype(int)] = index
        return {"labels": scores, "tuples": segments}
    if kind != "classes":
        return {"labels": numbers}
    words = np.ascontiguousarray(numbers, "<u4").reshape(len(numbers), -1, layout(kind, classes)[2])
    bits = np.unpackbits(words.view(np.uint8), axis=2, bitorder="little").astype(np.int8)
    return {"labels": bits[..., 1 : classes + 1] - (bits[..., :1] == 0)}


def widen(labels: np.ndarray, *shape: int) -> np.ndarray:
    """Labels [B, E, ...] padded to the axes of `shape`, such as more segments, after the first."""
    none = np.nan if labels.dtype.kind == "f" else -1
    sizes = (len(labels), *shape, *labels.shape[1 + len(shape) :])
    padding = [(0, size - n) for size, n in zip(sizes, labels.shape, strict=True)]
    return np.pad(labels, padding, constant_values=none)
