"""Item-kNN: items that occur in the same sessions as the item just clicked.

Shape letters: N items, p pairs of an item and a session that holds it, E neighbours of all items together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.contract import (
    OnProgress,
    SparseBaseline,
    SparseScores,
    require_ragged,
    require_sessions,
    require_tensors,
    silent,
)
from model.baselines.histories import Histories, Integers, spans, starts_of
from model.clicks import Sessions

_OFFSETS, _NEIGHBOURS, _SIMILARITIES = "offsets", "neighbours", "similarities"
_PAIRS_PER_BLOCK = 1 << 22  # of two items in one session: 32 MiB each of the few arrays that hold them


@dataclass(frozen=True)
class ItemKNNSettings:
    """What counts as similar; the defaults are those of the authors' code.

    Attributes:
        neighbours: Most similar items kept per item.
        regularisation: Sessions added to an item's own in the denominator, against chance meetings of rare items.
        balance: Exponent of the clicked item's sessions in the denominator, the other item's get 1 minus it. 0.5 is
            the cosine, 1 the share of the clicked item's sessions.

    Raises:
        ValueError: A value is out of range.
    """

    neighbours: int = 100
    regularisation: float = 20.0
    balance: float = 0.5

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.regularisation < 0 or not 0 <= self.balance <= 1:
            raise ValueError(f"neighbours >= 1, regularisation >= 0 and 0 <= balance <= 1 are needed, got {self}")


class ItemKNN(SparseBaseline):
    """Speaks for the neighbours of the last item alone; never for that item itself.

    With S_i the sessions that hold item i, l the regularisation and b the balance, the similarity of j to i is
    |S_i and S_j| / ((|S_i| + l)^b (|S_j| + l)^(1 - b)).

    Source: the item-kNN of Hidasi et al. 2016, arXiv:1511.06939. A session counts once per item, as their
    text says; their code counts its clicks. Not knowing the order of a session, it cannot tell the item before from
    the item after.
    """

    kind = "item-knn"
    settings_type = ItemKNNSettings
    window = 1

    def __init__(
        self,
        settings: ItemKNNSettings,
        offsets: Integers,
        neighbours: Integers,
        similarities: NDArray[np.float32],
    ) -> None:
        """Take int64 [N + 1], int64 [E] and float32 [E]: neighbours of item i are those from offsets[i] on."""
        self.settings = settings
        self.item_count = len(offsets) - 1
        self._offsets = offsets
        self._neighbours = neighbours
        self._similarities = similarities

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: ItemKNNSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`; nothing is random. Works through the items in blocks of a bounded number of pairs."""
        del generator
        require_sessions(sessions, item_count)
        held = _Holdings.of(sessions, item_count)
        kept: list[tuple[Integers, Integers, NDArray[np.float64]]] = []
        for start, stop in held.blocks(_PAIRS_PER_BLOCK):
            item, other, together = held.meetings(start, stop)
            similarity = together / (
                np.power(held.support[item] + settings.regularisation, settings.balance)
                * np.power(held.support[other] + settings.regularisation, 1 - settings.balance)
            )
            best = _best_per_item(item, similarity, settings.neighbours)
            kept.append((item[best], other[best], similarity[best]))
            on_progress(stop, item_count)
        item, other, similarity = (np.concatenate(column) for column in zip(*kept, strict=True))
        offsets = starts_of(np.bincount(item, minlength=item_count))
        return cls(settings, offsets, other, similarity.astype(np.float32))

    def speak_for(self, histories: Histories) -> SparseScores:
        """See `SparseBaseline`."""
        asked = np.flatnonzero(histories.lengths > 0)
        last = histories.rows[histories.offsets[1:][asked] - 1]
        lengths = self._offsets[last + 1] - self._offsets[last]
        places = spans(self._offsets[last], lengths)
        return SparseScores(
            np.repeat(asked, lengths), self._neighbours[places], self._similarities[places].astype(np.float64)
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """See `Baseline`."""
        return {
            _OFFSETS: torch.from_numpy(self._offsets),
            _NEIGHBOURS: torch.from_numpy(self._neighbours.astype(np.int32)),
            _SIMILARITIES: torch.from_numpy(self._similarities),
        }

    @classmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """See `Baseline`."""
        require_tensors(
            tensors,
            {
                _OFFSETS: ((None,), torch.int64),
                _NEIGHBOURS: ((None,), torch.int32),
                _SIMILARITIES: ((len(tensors.get(_NEIGHBOURS, ())),), torch.float32),
            },
        )
        offsets, neighbours = tensors[_OFFSETS].numpy(), tensors[_NEIGHBOURS].numpy().astype(np.int64)
        require_ragged(_NEIGHBOURS, offsets, neighbours, len(offsets) - 1)
        return cls(settings, offsets, neighbours, tensors[_SIMILARITIES].numpy())


@dataclass(frozen=True)
class _Holdings:
    """Which sessions hold which items, each pair once.

    Attributes:
        support: int64 [N], sessions that hold each item.
        session_of: int64 [p], sessions of item 0, then those of item 1, ...
        items: int64 [p], items of session 0, then those of session 1, ...
        offsets: int64 [S + 1], where each session begins in `items`.
    """

    support: Integers
    session_of: Integers
    items: Integers
    offsets: Integers

    @staticmethod
    def of(sessions: Sessions, item_count: int) -> "_Holdings":
        session = np.repeat(np.arange(len(sessions)), sessions.lengths)
        pairs = np.unique(session * item_count + sessions.items)
        session, items = pairs // item_count, pairs % item_count
        return _Holdings(
            support=np.bincount(items, minlength=item_count),
            session_of=session[np.argsort(items, kind="stable")],
            items=items,
            offsets=starts_of(np.bincount(session, minlength=len(sessions))),
        )

    def blocks(self, most: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of items that have at most so many meetings together; one item is never cut."""
        meetings = np.diff(self.offsets)[self.session_of]
        done = np.concatenate([[0], np.cumsum(meetings)])[np.cumsum(self.support)]  # after each item
        start = 0
        while start < len(done):
            reached = done[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(done, reached + most, side="right")))
            yield start, stop
            start = stop

    def meetings(self, start: int, stop: int) -> tuple[Integers, Integers, Integers]:
        """Return pairs of items that share sessions, the first in [start, stop), and how many sessions they share."""
        bounds = starts_of(self.support)
        session = self.session_of[bounds[start] : bounds[stop]]
        lengths = np.diff(self.offsets)[session]
        item = np.repeat(np.repeat(np.arange(start, stop), self.support[start:stop]), lengths)
        other = self.items[spans(self.offsets[session], lengths)]
        apart = item != other
        pairs, together = np.unique(item[apart] * len(self.support) + other[apart], return_counts=True)
        return pairs // len(self.support), pairs % len(self.support), together


def _best_per_item(item: Integers, similarity: NDArray[np.float64], most: int) -> Integers:
    """Return the places of each item's `most` largest similarities, best first; `item` ascends."""
    order = np.lexsort((-similarity, item))
    within = np.arange(len(order)) - np.searchsorted(item, item)
    return order[within < most]
