"""The most clicked items: the answer before the first version, and the floor that every version must clear."""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Popularity:
    """Counts clicks per item. Of two items with equal counts, the one first seen comes first.

    While an item is counted its count only grows, so only the item just clicked can enter the top k. The leaders of the
    largest k asked for so far are kept up to date: an addition costs a dictionary update and one comparison, or a look
    through the leaders where the item reaches their weakest. All are looked through only when a larger k is asked for.

    Args:
        most_items: Counted at a time. The least clicked make room for others, half of them at once; leaders never do.
    """

    def __init__(self, most_items: int = 200_000) -> None:
        self._most_items = most_items
        self._seen = 0
        self._counts: dict[str, int] = {}
        self._first_seen: dict[str, int] = {}
        self._leaders: set[str] = set()
        self._kept = 0
        self._weakest_count = 0  # a lower bound of the leaders' counts
        self._sorted: list[str] | None = []

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, item_id: str) -> None:
        """Count one click."""
        count = self._counts.get(item_id, 0) + 1
        if count == 1:
            if len(self._counts) >= self._most_items:
                self._forget_rare()
            self._first_seen[item_id] = self._seen
            self._seen += 1
        self._counts[item_id] = count
        if count >= self._weakest_count and self._kept:
            self._sorted = None
            if item_id not in self._leaders:
                self._let_in(item_id)

    def add_many(self, item_ids: Iterable[str]) -> None:
        """Count one click on each item, in order."""
        for item_id in item_ids:
            self.add(item_id)

    def count(self, item_id: str) -> int:
        """Return how often an item was clicked."""
        return self._counts.get(item_id, 0)

    def counts(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return how often each item was clicked, int64 [n]."""
        return np.fromiter(map(self.count, item_ids), np.int64, len(item_ids))

    def top_k(self, k: int) -> tuple[list[str], list[float]]:
        """Return the k most clicked items (all, where there are fewer) and their counts as scores, best first."""
        if k > self._kept:
            self._kept, self._weakest_count = k, 0
            self._leaders = set(heapq.nsmallest(k, self._counts, key=self._order))
            self._sorted = None
        if self._sorted is None:
            self._sorted = sorted(self._leaders, key=self._order)
        best = self._sorted[:k]
        return best, [float(self._counts[item_id]) for item_id in best]

    def _order(self, item_id: str) -> tuple[int, int]:
        """Sort key: the best item has the smallest."""
        return -self._counts[item_id], self._first_seen[item_id]

    def _let_in(self, item_id: str) -> None:
        if len(self._leaders) < self._kept:
            self._leaders.add(item_id)
            return
        weakest = max(self._leaders, key=self._order)
        if self._order(item_id) < self._order(weakest):
            self._leaders.remove(weakest)
            self._leaders.add(item_id)
        # Raised even where the weakest just left, as a lower bound: counts only grow.
        self._weakest_count = self._counts[weakest]

    def _forget_rare(self) -> None:
        least = 2
        while len(self._counts) > max(self._most_items // 2, len(self._leaders)):
            self._counts = {item: n for item, n in self._counts.items() if n >= least or item in self._leaders}
            least *= 2
        self._first_seen = {item: self._first_seen[item] for item in self._counts}
