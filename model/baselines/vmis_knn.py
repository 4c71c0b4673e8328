"""VMIS-kNN: items of the most similar among the most recent sessions that share an item with this one.

Shape letters: N items, S past sessions, p pairs of a session and an item that it holds, q pairs kept in the index.
"""

from collections.abc import Mapping
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

_RECENT, _RECENT_OFFSETS = "recent", "recent_offsets"
_ITEMS, _ITEMS_OFFSETS = "items", "items_offsets"
_IDF = "idf"
_LOOKED_AT_PER_BLOCK = 1 << 22  # sessions, or items of neighbours: 32 MiB each of the few arrays that hold them


@dataclass(frozen=True)
class VMISKNNSettings:
    """Which sessions are asked; the first two defaults are those that the authors' README reports as best.

    Attributes:
        recent_sessions: m, how many sessions are compared with a history, and kept per item: the most recent ones.
        neighbours: k, how many of them are listened to: the most similar ones.
        last_items: How much of a history counts. The match weight of anything older than 9 clicks is zero.
        excludes_last: Whether the item just clicked is never recommended. The authors' code does so; where people
            click an item again, that costs about half of the MRR, so here it is not the default.

    Raises:
        ValueError: A value is below 1.
    """

    recent_sessions: int = 500
    neighbours: int = 100
    last_items: int = 9
    excludes_last: bool = False

    def __post_init__(self) -> None:
        if min(self.recent_sessions, self.neighbours, self.last_items) < 1:
            raise ValueError(f"recent_sessions, neighbours and last_items must be at least 1, got {self}")


@dataclass(frozen=True)
class _Index:
    """Past sessions, numbered by the time of their end: the newest has the largest number.

    Attributes:
        recent: int64 [q], sessions of each item, oldest first, at most m.
        recent_offsets: int64 [N + 1], where each item begins in `recent`.
        items: int64 [p], distinct items of each session.
        items_offsets: int64 [S + 1], where each session begins in `items`.
        idf: float32 [N], log(S / sessions that hold the item); 0 for an item that none holds.
    """

    recent: Integers
    recent_offsets: Integers
    items: Integers
    items_offsets: Integers
    idf: NDArray[np.float32]


@dataclass(frozen=True)
class _Neighbours:
    """Neighbours of a batch of histories: [h] each, grouped by history.

    Attributes:
        histories: int64 [h]
        sessions: int64 [h]
        similarities: float64 [h], sums of the weights of the items shared.
        matches: int64 [h], age of the newest item shared, 0 for the last one of the history.
    """

    histories: Integers
    sessions: Integers
    similarities: NDArray[np.float64]
    matches: Integers

    def select(self, places: Integers) -> "_Neighbours":
        return _Neighbours(
            self.histories[places], self.sessions[places], self.similarities[places], self.matches[places]
        )


class VMISKNN(SparseBaseline):
    """Listens to the k sessions most similar to the history among the m most recent that share an item with it.

    An item at place x of n in a history (1 for the oldest) weighs x / n, at its newest place if it occurs twice; a
    session's similarity r is the sum over the items it shares. Where its newest shared item is the x-th from the end
    of the history, its match weight is max(0, 1 - x / 10), and every item i of it gains match weight * r * idf(i).

    The paper's index walk with early stopping is computed here for a batch at once by sorting, with the same result:
    as eviction only ever raises the age limit, what is left at its end are the m most recent sessions, each with all
    of its weights.

    Source: Kersbergen, Sprangers & Schelter 2022, "Serenade: Low-Latency Session-Based Recommendation in e-Commerce
    at Scale", and the authors' code. That code drops the longest 0.5 % of sessions from the index
    and lets match weights fall below zero; neither is done here.
    """

    kind = "vmis-knn"
    settings_type = VMISKNNSettings

    def __init__(self, settings: VMISKNNSettings, index: _Index) -> None:
        self.settings = settings
        self.window = settings.last_items
        self.item_count = len(index.idf)
        self._index = index

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: VMISKNNSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`; nothing is random."""
        del generator
        require_sessions(sessions, item_count)
        number = np.empty(len(sessions), dtype=np.int64)
        number[np.argsort(sessions.end_ms, kind="stable")] = np.arange(len(sessions))
        held = np.unique(np.repeat(number, sessions.lengths) * item_count + sessions.items)
        session, items = held // item_count, held % item_count
        support = np.bincount(items, minlength=item_count)
        sessions_of_item = session[np.argsort(items, kind="stable")]  # oldest first, as `held` ascends
        kept = np.minimum(support, settings.recent_sessions)
        idf = np.log(len(sessions) / np.maximum(support, 1)) * (support > 0)
        index = _Index(
            recent=sessions_of_item[spans(np.cumsum(support) - kept, kept)],
            recent_offsets=starts_of(kept),
            items=items,
            items_offsets=starts_of(np.bincount(session, minlength=len(sessions))),
            idf=idf.astype(np.float32),
        )
        on_progress(1, 1)
        return cls(settings, index)

    def speak_for(self, histories: Histories) -> SparseScores:
        """See `SparseBaseline`; a bounded number of sessions and of their items is looked at at a time."""
        held = len(self._index.items) / (len(self._index.items_offsets) - 1)
        looked_at = max(self.settings.last_items * self.settings.recent_sessions, self.settings.neighbours * held)
        size = max(1, int(_LOOKED_AT_PER_BLOCK // looked_at))
        found = [self._speak_for(block) for block in histories.blocks(size)]
        if not found:
            return SparseScores(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        return SparseScores(
            np.concatenate([scores.histories + place * size for place, scores in enumerate(found)]),
            np.concatenate([scores.rows for scores in found]),
            np.concatenate([scores.values for scores in found]),
        )

    def _speak_for(self, histories: Histories) -> SparseScores:
        index = self._index
        near = self._neighbours(histories.latest(self.settings.last_items))
        session_weight = np.maximum(0, 1 - (near.matches + 1) / 10) * near.similarities
        lengths = index.items_offsets[near.sessions + 1] - index.items_offsets[near.sessions]
        rows = index.items[spans(index.items_offsets[near.sessions], lengths)]
        owner, values = np.repeat(near.histories, lengths), np.repeat(session_weight, lengths) * index.idf[rows]
        if self.settings.excludes_last and len(rows):
            # Only a history with a row has neighbours, so every owner has a last row.
            allowed = rows != histories.rows[histories.offsets[1:][owner] - 1]
            owner, rows, values = owner[allowed], rows[allowed], values[allowed]
        return SparseScores(owner, rows, values)

    def _neighbours(self, histories: Histories) -> _Neighbours:
        """Return the k most similar sessions of each history; of equally similar ones the newer."""
        candidates = self._candidates(histories)
        recent = candidates.select(np.flatnonzero(_places_within(candidates.histories) < self.settings.recent_sessions))
        # The sort is stable, so of equals the newer stays first.
        ranked = recent.select(np.lexsort((-recent.similarities, recent.histories)))
        return ranked.select(np.flatnonzero(_places_within(ranked.histories) < self.settings.neighbours))

    def _candidates(self, histories: Histories) -> _Neighbours:
        """Return every indexed session that shares an item with a history, by history, the newest session first."""
        index, owner, age = self._index, histories.owners, histories.ages
        # A row that occurs twice counts at its newest place: read from the end, that is its first.
        _, newest = np.unique((owner * self.item_count + histories.rows)[::-1], return_index=True)
        newest = len(owner) - 1 - newest
        rows, owner, age = histories.rows[newest], owner[newest], age[newest]
        lengths = index.recent_offsets[rows + 1] - index.recent_offsets[rows]
        sessions = index.recent[spans(index.recent_offsets[rows], lengths)]
        # One number for history, session (the newest first) and age: sorting numbers is far faster than sorting places.
        past = len(index.items_offsets) - 1
        backwards = np.repeat(owner, lengths) * past + (past - 1 - sessions)
        meetings = np.sort(backwards * self.settings.last_items + np.repeat(age, lengths))
        pair, age = np.divmod(meetings, self.settings.last_items)
        first = np.flatnonzero(np.diff(pair, prepend=-1))
        owner, backwards = np.divmod(pair, past)
        length = histories.lengths[owner]
        similarities = np.add.reduceat((length - age) / length, first) if len(first) else np.empty(0)
        return _Neighbours(owner[first], past - 1 - backwards[first], similarities, age[first])

    def to_tensors(self) -> dict[str, Tensor]:
        """See `Baseline`."""
        index = self._index
        return {
            _RECENT: torch.from_numpy(index.recent.astype(np.int32)),
            _RECENT_OFFSETS: torch.from_numpy(index.recent_offsets),
            _ITEMS: torch.from_numpy(index.items.astype(np.int32)),
            _ITEMS_OFFSETS: torch.from_numpy(index.items_offsets),
            _IDF: torch.from_numpy(index.idf),
        }

    @classmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """See `Baseline`."""
        item_count = len(tensors.get(_IDF, ()))
        require_tensors(
            tensors,
            {
                _RECENT: ((None,), torch.int32),
                _RECENT_OFFSETS: ((item_count + 1,), torch.int64),
                _ITEMS: ((None,), torch.int32),
                _ITEMS_OFFSETS: ((None,), torch.int64),
                _IDF: ((None,), torch.float32),
            },
        )
        whole = {name: tensors[name].numpy().astype(np.int64) for name in tensors if name != _IDF}
        require_ragged(_RECENT, whole[_RECENT_OFFSETS], whole[_RECENT], len(whole[_ITEMS_OFFSETS]) - 1)
        require_ragged(_ITEMS, whole[_ITEMS_OFFSETS], whole[_ITEMS], item_count)
        return cls(settings, _Index(**whole, idf=tensors[_IDF].numpy()))


def _places_within(group: Integers) -> Integers:
    """Return each element's place within its group, int64; groups ascend."""
    return np.arange(len(group)) - np.searchsorted(group, group)
