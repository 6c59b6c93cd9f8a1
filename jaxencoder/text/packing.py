"""Puts pieces of documents into rows of a fixed length, best fit first, with a bounded number of rows open at once.

Best fit on-line: Johnson, "Fast algorithms for bin packing" (1974). Bounding the open rows bounds memory for a corpus
of any size; 256 of them fill 99% of ordinary text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """One row: the pieces in it, in the order in which they came.

    token_ids: [n], n <= row_length, without padding. lengths: of each piece. type_ids: [n] or None.
    labels: one a piece, an id, a value or ids, or empty. token_labels: [n], or None.
    """

    token_ids: np.ndarray
    lengths: list[int]
    type_ids: np.ndarray | None
    labels: list
    token_labels: np.ndarray | None = None


class Packer:
    """Rows from pieces: each piece whole in one row, pieces of a row in the order of their arrival.

    With row_length 8, pieces of 5, 6, 3 tokens give the rows [5, 3] and [6].

    Args:
        row_length: tokens a row.
        open_rows: rows that wait for a piece that fits; 1 puts one piece in each row.
        smallest: the shortest piece that may come; a row with less room than that is done.
        types: pieces come with type ids.
        token_labels: pieces come with a label for each token.
    """

    def __init__(
        self,
        row_length: int,
        open_rows: int = 256,
        smallest: int = 3,
        types: bool = False,
        token_labels: bool = False,
    ):
        if open_rows < 1:
            raise ValueError(f"open_rows is {open_rows}; give at least 1")
        self._length, self._most, self._smallest = row_length, open_rows, smallest
        self._ids = np.zeros((open_rows, row_length), np.uint32)
        self._types = np.zeros((open_rows, row_length), np.uint8) if types else None
        self._token_labels = np.zeros((open_rows, row_length), np.int32) if token_labels else None
        self._lengths: list[list[int]] = [[] for _ in range(open_rows)]
        self._labels: list[list] = [[] for _ in range(open_rows)]
        self._free = list(range(open_rows - 1, -1, -1))
        # Rows by room left, and as bits of one integer which rooms there are: the best fit is the lowest bit at or
        # above the length of the piece.
        self._by_room: list[list[int]] = [[] for _ in range(row_length + 1)]
        self._rooms = 0

    def add(
        self,
        ids: np.ndarray,
        type_ids: np.ndarray | None = None,
        labels: Sequence = (),
        token_labels: np.ndarray | None = None,
        lengths: Sequence[int] = (),
    ) -> Row | None:
        """Place one piece, or several that stay together; gives the row that this finishes, if any.

        Args:
            ids, type_ids, token_labels: [n], of all pieces.
            labels: one a piece, or empty.
            lengths: of each piece; empty for one.
        """
        n = len(ids)
        if not 0 < n <= self._length:
            raise ValueError(f"a piece has {n} tokens; it must have 1 to {self._length}")
        done = None
        fitting = self._rooms >> n
        if fitting:
            room = n + (fitting & -fitting).bit_length() - 1
            row = self._take(room)
        else:
            if not self._free:
                fullest = (self._rooms & -self._rooms).bit_length() - 1
                done = self._close(self._take(fullest), fullest)
            row, room = self._free.pop(), self._length
        start = self._length - room
        self._ids[row, start : start + n] = ids
        if self._types is not None:
            self._types[row, start : start + n] = 0 if type_ids is None else type_ids
        if self._token_labels is not None:
            self._token_labels[row, start : start + n] = token_labels
        self._lengths[row].extend(lengths or (n,))
        self._labels[row].extend(labels)
        room -= n
        # One call never finishes two rows: a row is only closed for want of open ones if this piece opened another.
        if done is None and (self._most == 1 or room < self._smallest):
            return self._close(row, room)
        self._by_room[room].append(row)
        self._rooms |= 1 << room
        return done

    def flush(self) -> Iterator[Row]:
        """The rows still open, the fullest first."""
        while self._rooms:
            fullest = (self._rooms & -self._rooms).bit_length() - 1
            yield self._close(self._take(fullest), fullest)

    def _take(self, room: int) -> int:
        rows = self._by_room[room]
        row = rows.pop()
        if not rows:
            self._rooms ^= 1 << room
        return row

    def _close(self, row: int, room: int) -> Row:
        used = self._length - room
        types = None if self._types is None else self._types[row, :used].copy()
        tokens = None if self._token_labels is None else self._token_labels[row, :used].copy()
        done = Row(self._ids[row, :used].copy(), self._lengths[row], types, self._labels[row], tokens)
        self._lengths[row], self._labels[row] = [], []
        self._free.append(row)
        return done
