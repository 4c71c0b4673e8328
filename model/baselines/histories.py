"""What a baseline answers: clicks of sessions up to now, as ragged arrays, so that a batch needs no loop.

Shape letters: B histories, n rows of all of them together, L longest history, S spans.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """Known rows of each session so far, oldest first, one history after the other.

    Attributes:
        rows: int64 [n], never an unknown row.
        offsets: int64 [B + 1]; history b is `rows[offsets[b]:offsets[b + 1]]`. It may be empty.
        users: int64 [B], the user of each history, -1 for an unknown one; None where nobody is known.
    """

    rows: Integers
    offsets: Integers
    users: Integers | None = None

    @staticmethod
    def of(histories: Iterable[Sequence[int]], users: Sequence[int] | None = None) -> "Histories":
        """Put sequences of rows one after the other."""
        sequences = list(histories)
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        rows = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
        return Histories(rows, starts_of(lengths), None if users is None else np.asarray(users, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Integers:
        """Rows in each history, int64 [B]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Integers:
        """Which history each row belongs to, int64 [n]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def ages(self) -> Integers:
        """How many rows of its history came after each row, int64 [n]; 0 for the last one."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.rows))

    def select(self, places: Integers) -> "Histories":
        """Return the histories at the places given, in that order."""
        lengths = self.lengths[places]
        users = None if self.users is None else self.users[places]
        return Histories(self.rows[spans(self.offsets[places], lengths)], starts_of(lengths), users)

    def latest(self, most: int) -> "Histories":
        """Return the last `most` rows of each history."""
        lengths = np.minimum(self.lengths, most)
        return Histories(self.rows[spans(self.offsets[1:] - lengths, lengths)], starts_of(lengths), self.users)

    def blocks(self, size: int) -> Iterator["Histories"]:
        """Yield the histories in order, at most `size` at a time."""
        for start in range(0, len(self), size):
            yield self.select(np.arange(start, min(start + size, len(self))))

    def padded(self) -> tuple[Integers, NDArray[np.bool_]]:
        """Return the rows as a rectangle that is filled up behind each history.

        Returns:
            Rows, int64 [B, L], 0 where there is none, and where there is one, bool [B, L].
        """
        lengths = self.lengths
        is_row = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
        rows = np.zeros(is_row.shape, dtype=np.int64)
        rows[is_row] = self.rows
        return rows, is_row


def starts_of(lengths: Integers) -> Integers:
    """Return where each span begins when they lie one after the other, and at last where they end, int64 [S + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def spans(starts: Integers, lengths: Integers) -> Integers:
    """Return the places `starts[s], starts[s] + 1, ...`, `lengths[s]` of them, of all spans one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
