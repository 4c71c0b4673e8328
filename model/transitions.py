"""What tends to follow what: item-to-item pair counts, learned by adding only; the network's companion.

A pair (a, b) counts when b is clicked at most `REACH` clicks after a in one session; the nearer, the more.

Shape letters: N items, n clicks, P pairs, E entries kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.clicks import Sessions

REACH = 8
"""Clicks between the two of a pair, at most."""
GAP_DECAY = 0.7
"""A pair `gap` clicks apart counts this to the power of gap - 1."""
PRIOR_CLICKS = 4.0
"""Added to an item's clicks when its pair counts become shares, so that rare items claim little."""
FORGOTTEN = 0.01
"""A pair that has faded to less is dropped; or all that ever followed each other would be carried along for ever."""
KEPT = 64
"""Strongest successors, and predecessors, that are kept of each item for serving."""

_ROW_BITS = 32
_ROW_MASK = (1 << _ROW_BITS) - 1


@dataclass(frozen=True)
class Neighbours:
    """Each item's strongest successors and predecessors, as sparse rows (CSR), the strongest first.

    Attributes:
        successor_offsets: int64 [N + 1]; item a's entries are from offsets[a] to offsets[a + 1].
        successor_rows: int32 [E].
        successor_shares: float32 [E], c(a -> row) / (n_a + `PRIOR_CLICKS`).
        predecessor_offsets: int64 [N + 1].
        predecessor_rows: int32 [E'].
        predecessor_shares: float32 [E'], c(row -> a) / (n_a + `PRIOR_CLICKS`).
    """

    successor_offsets: NDArray[np.int64]
    successor_rows: NDArray[np.int32]
    successor_shares: NDArray[np.float32]
    predecessor_offsets: NDArray[np.int64]
    predecessor_rows: NDArray[np.int32]
    predecessor_shares: NDArray[np.float32]

    def __post_init__(self) -> None:
        items = len(self.successor_offsets) - 1
        if len(self.predecessor_offsets) != items + 1:
            raise ValueError(f"successors of {items} items, predecessors of {len(self.predecessor_offsets) - 1}")
        for side in ("successor", "predecessor"):
            offsets, rows, shares = (getattr(self, f"{side}_{part}") for part in ("offsets", "rows", "shares"))
            kinds = (offsets.dtype, rows.dtype, shares.dtype)
            if kinds != (np.int64, np.int32, np.float32):
                raise ValueError(f"{side}s: expected int64, int32, float32; got {kinds}")
            if items < 0 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
                raise ValueError(f"{side}_offsets must rise from 0")
            if not len(rows) == len(shares) == offsets[-1]:
                raise ValueError(f"{side}s: {len(rows)} rows and {len(shares)} shares, offsets end at {offsets[-1]}")
            if len(rows) and (rows.min() < 0 or rows.max() >= items):
                raise ValueError(f"{side}_rows must be between 0 and {items - 1}")
            if not np.isfinite(shares).all() or (shares < 0).any():
                raise ValueError(f"{side}_shares must be finite and not negative")

    @property
    def item_count(self) -> int:
        """N."""
        return len(self.successor_offsets) - 1

    @classmethod
    def none(cls, item_count: int) -> Self:
        """Return neighbours of as many items that have none."""
        side = np.zeros(item_count + 1, dtype=np.int64), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        return cls(*side, *side)

    def replaced(self, rows: NDArray[np.int64], by: Self) -> Self:
        """Return these neighbours with those of some items taken from others, which may be of more items.

        Args:
            rows: Whose to take; of all other items this one's are kept.
            by: Of at least as many items.

        Raises:
            ValueError: The others are of fewer items.
        """
        if by.item_count < self.item_count:
            raise ValueError(f"neighbours of {self.item_count} items cannot be replaced by those of {by.item_count}")
        taken = np.zeros(by.item_count, dtype=np.bool_)
        taken[rows] = True
        sides = (
            _merged(taken, *(tuple(getattr(side, f"{name}_{part}") for part in _PARTS) for side in (self, by)))
            for name in ("successor", "predecessor")
        )
        return type(self)(*next(sides), *next(sides))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the arrays by their names, as copies, for a safetensors file."""
        return {part.name: torch.from_numpy(getattr(self, part.name).copy()) for part in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return what `to_tensors` was made from.

        Raises:
            ValueError: A name is missing or unknown, or the arrays do not fit each other.
        """
        names = {part.name for part in fields(cls)}
        if set(tensors) != names:
            raise ValueError(f"expected the tensors {sorted(names)}, got {sorted(tensors)}")
        return cls(**{name: tensor.cpu().numpy() for name, tensor in tensors.items()})


_PARTS = ("offsets", "rows", "shares")
_Side = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def _merged(taken: NDArray[np.bool_], kept: _Side, by: _Side) -> _Side:
    """Return one side of the neighbours, each item's as `taken` says; items that `kept` lacks have none there."""
    of_kept = np.zeros(len(taken), dtype=np.int64)
    of_kept[: len(kept[0]) - 1] = np.diff(kept[0])
    lengths = np.where(taken, np.diff(by[0]), of_kept)
    from_by = np.repeat(taken, lengths)
    rows, shares = np.empty(len(from_by), dtype=np.int32), np.empty(len(from_by), dtype=np.float32)
    for merged, ours, theirs in ((rows, kept[1], by[1]), (shares, kept[2], by[2])):
        merged[from_by] = theirs[np.repeat(taken, np.diff(by[0]))]
        merged[~from_by] = ours[np.repeat(~taken, of_kept)]
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows, shares


class Transitions:
    """Counts of pairs and clicks. The same clicks give the same counts in any grouping, to rounding (float64)."""

    def __init__(self, item_count: int) -> None:
        self.clicks: NDArray[np.float64] = np.zeros(item_count)  # [N], n_a
        self._keys: NDArray[np.int64] = np.empty(0, dtype=np.int64)  # [P], a << 32 | b, rising
        self._counts: NDArray[np.float64] = np.empty(0)  # [P]

    @property
    def item_count(self) -> int:
        """N."""
        return len(self.clicks)

    def grow(self, item_count: int) -> None:
        """Append items that nothing is known of yet.

        Raises:
            ValueError: There are more items already.
        """
        if item_count < self.item_count:
            raise ValueError(f"cannot shrink from {self.item_count} items to {item_count}")
        self.clicks = np.concatenate([self.clicks, np.zeros(item_count - self.item_count)])

    def add(self, sessions: Sessions, counted: NDArray[np.bool_] | None = None) -> None:
        """Count sessions of rows; a row that is not an item, -1 included, takes its place and counts nothing.

        Args:
            sessions: Their clicks.
            counted: bool [n], false for clicks that are here only because later ones follow them; by default all true.
        """
        rows = sessions.items
        known = self._known(rows)
        new = known if counted is None else known & counted
        session = np.repeat(np.arange(len(sessions)), sessions.lengths)
        keys: list[NDArray[np.int64]] = [self._keys]
        weights: list[NDArray[np.float64]] = [self._counts]
        for gap in range(1, min(REACH, len(rows) - 1) + 1):
            pairs = (session[gap:] == session[:-gap]) & new[gap:] & known[:-gap]
            found, times = np.unique(
                (rows[:-gap][pairs] << _ROW_BITS) | rows[gap:][pairs],
                return_counts=True,
            )
            keys.append(found)
            weights.append((times * GAP_DECAY ** (gap - 1)).astype(np.float64))
        self.clicks += np.bincount(rows[new], minlength=self.item_count)
        self._sum_up(np.concatenate(keys), np.concatenate(weights))

    def decay(self, factor: float) -> None:
        """Make everything counted so far worth `factor` of what it was, and drop pairs that are worth too little then.

        Raises:
            ValueError: The factor is not in (0, 1].
        """
        if not 0 < factor <= 1:
            raise ValueError(f"expected a factor in (0, 1], got {factor}")
        self.clicks *= factor
        counts = self._counts * factor
        kept = counts >= FORGOTTEN
        self._keys, self._counts = self._keys[kept], counts[kept]

    def around(self, rows: NDArray[np.int64]) -> "Transitions":
        """Return a copy with only the pairs that some items are in: enough for the neighbours of those items."""
        near = np.zeros(self.item_count, dtype=np.bool_)
        near[rows] = True
        first, second, counts = self.pairs()
        kept = near[first] | near[second]
        found = Transitions(self.item_count)
        found.clicks, found._keys, found._counts = self.clicks.copy(), self._keys[kept], counts[kept]
        return found

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return all pairs by (first, second): their first rows, second rows and counts, each [P]."""
        return self._keys >> _ROW_BITS, self._keys & _ROW_MASK, self._counts

    def neighbours(self, kept: int = KEPT) -> Neighbours:
        """Return each item's `kept` strongest successors and predecessors; the lower row wins a tie."""
        first, second, counts = self.pairs()
        forward = self._strongest(first, second, counts, kept)
        return Neighbours(*forward, *self._strongest(second, first, counts, kept))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return clicks [N], pairs [P] (first row << 32 | second, rising) and counts [P], as copies."""
        parts = {"clicks": self.clicks, "pairs": self._keys, "counts": self._counts}
        return {name: torch.from_numpy(part.copy()) for name, part in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return what `to_tensors` was made from.

        Raises:
            ValueError: A name is missing or unknown, or the tensors do not fit each other.
        """
        if set(tensors) != {"clicks", "pairs", "counts"}:
            raise ValueError(f"expected the tensors clicks, counts and pairs, got {sorted(tensors)}")
        clicks, pairs, counts = (tensors[name].cpu().numpy() for name in ("clicks", "pairs", "counts"))
        kinds = [part.dtype.name for part in (clicks, pairs, counts)]
        if kinds != ["float64", "int64", "float64"]:
            raise ValueError(f"clicks, pairs and counts must be float64, int64 and float64, got {kinds}")
        if not clicks.ndim == pairs.ndim == counts.ndim == 1 or len(pairs) != len(counts):
            raise ValueError(f"{pairs.shape} pairs do not fit {counts.shape} counts")
        first, second = pairs >> _ROW_BITS, pairs & _ROW_MASK
        if len(pairs) and (
            (np.diff(pairs) <= 0).any() or first.min() < 0 or max(first.max(), second.max()) >= len(clicks)
        ):
            raise ValueError(f"pairs must rise, and be of the {len(clicks)} items")
        found = cls(len(clicks))
        found.clicks, found._keys, found._counts = clicks.copy(), pairs.copy(), counts.copy()
        return found

    def _known(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (rows >= 0) & (rows < self.item_count)

    def _sum_up(self, keys: NDArray[np.int64], counts: NDArray[np.float64]) -> None:
        self._keys, place = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(place, weights=counts, minlength=len(self._keys)).astype(np.float64)

    def _strongest(
        self, items: NDArray[np.int64], others: NDArray[np.int64], counts: NDArray[np.float64], kept: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
        order = np.lexsort((others, -counts, items))
        items, others, counts = items[order], others[order], counts[order]
        lengths = np.bincount(items, minlength=self.item_count)
        begins = np.cumsum(lengths) - lengths
        strong = np.arange(len(items)) - begins[items] < kept
        items, others, counts = items[strong], others[strong], counts[strong]
        offsets = np.concatenate([[0], np.cumsum(np.minimum(lengths, kept))]).astype(np.int64)
        shares = counts / (self.clicks[items] + PRIOR_CLICKS)
        return offsets, others.astype(np.int32), shares.astype(np.float32)
