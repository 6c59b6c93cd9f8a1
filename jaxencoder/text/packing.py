"""Packing of token sequences into rows of a fixed length: best fit, with a bounded number of open rows.

Best fit on-line: Johnson, "Fast algorithms for bin packing" (1974). The bound keeps memory constant for a corpus of any
size; 256 open rows fill 99% of ordinary text.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One row of pieces, in the order of their arrival."""

    token_ids: np.ndarray  # [n], n <= row_length, without padding
    lengths: list[int]  # of each piece
    type_ids: np.ndarray | None  # [n]
    labels: list  # one per piece (an id, a value or ids), or empty
    token_labels: np.ndarray | None = None  # [n]


class OpenRows:
    """Open rows by the room left in them, for best fit without a search."""

    def __init__(self) -> None:
        self._rows: defaultdict[int, list[int]] = defaultdict(list)
        self._rooms = 0  # bit n is set if a row has room n: the best fit is the lowest bit at or above a length

    def put(self, row: int, room: int) -> None:
        self._rows[room].append(row)
        self._rooms |= 1 << room

    def take(self, at_least: int = 0) -> tuple[int, int] | None:
        """Remove the row with the least room for `at_least` tokens: (row, room), or None if no row fits."""
        rooms = self._rooms >> at_least
        if not rooms:
            return None
        room = at_least + (rooms & -rooms).bit_length() - 1
        row = self._rows[room].pop()
        if not self._rows[room]:
            self._rooms ^= 1 << room
        return row, room


class Packer:
    """Builds rows from pieces. A piece is never split, and a row keeps the order of arrival.

    With row_length 8, pieces of 5, 6 and 3 tokens give the rows [5, 3] and [6].

    Args:
        open_rows: rows that may wait for a fitting piece; 1 puts each piece in a row by itself.
        shortest: length of the shortest possible piece; a row with less room is complete.
    """

    def __init__(
        self, row_length: int, open_rows: int, shortest: int, type_ids: bool = False, token_labels: bool = False
    ):
        self._row_length, self._open_rows, self._shortest = row_length, open_rows, shortest
        dtypes = {"token_ids": np.uint32, "type_ids": np.uint8, "token_labels": np.int32}
        enabled = {"token_ids": True, "type_ids": type_ids, "token_labels": token_labels}
        self._columns = {name: np.zeros((open_rows, row_length), dtypes[name]) for name in dtypes if enabled[name]}
        self._lengths: list[list[int]] = [[] for _ in range(open_rows)]
        self._labels: list[list] = [[] for _ in range(open_rows)]
        self._free, self._open = list(range(open_rows - 1, -1, -1)), OpenRows()

    def add(
        self,
        ids: np.ndarray,
        type_ids: np.ndarray | None = None,
        labels: Sequence = (),
        token_labels: np.ndarray | None = None,
        lengths: Sequence[int] = (),
    ) -> Row | None:
        """Place one piece, or several of the given lengths that must share a row; return the row that this completes.

        Arrays are [n], of all pieces; labels have one entry per piece, or none.
        """
        n = len(ids)
        if not 0 < n <= self._row_length:
            raise ValueError(f"a piece has {n} tokens; it must have 1 to {self._row_length}")
        complete = None
        if (fitting := self._open.take(at_least=n)) is None:
            if not self._free and (fullest := self._open.take()):
                complete = self._close(*fullest)
            fitting = self._free.pop(), self._row_length
        row, room = fitting
        start = self._row_length - room
        values = {"token_ids": ids, "type_ids": 0 if type_ids is None else type_ids, "token_labels": token_labels}
        for name, column in self._columns.items():
            column[row, start : start + n] = values[name]
        self._lengths[row].extend(lengths or (n,))
        self._labels[row].extend(labels)
        room -= n
        # One call completes at most one row: a row is closed to free a slot only if this piece has opened another.
        if complete is None and (self._open_rows == 1 or room < self._shortest):
            return self._close(row, room)
        self._open.put(row, room)
        return complete

    def flush(self) -> Iterator[Row]:
        """Close the open rows, the fullest first."""
        while fullest := self._open.take():
            yield self._close(*fullest)

    def _close(self, row: int, room: int) -> Row:
        columns = {name: column[row, : self._row_length - room].copy() for name, column in self._columns.items()}
        lengths, self._lengths[row] = self._lengths[row], []
        labels, self._labels[row] = self._labels[row], []
        self._free.append(row)
        return Row(columns["token_ids"], lengths, columns.get("type_ids"), labels, columns.get("token_labels"))
