"""How long items wait from their first click, as this worker saw it, until a version that knows them answers."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from model.vocabulary import Vocabulary

MOST_WAITING = 10_000
"""Items noted at a time: junk ids that never become known must not fill the memory."""


class NewItems:
    """Items that were clicked and that the serving version does not know."""

    def __init__(self) -> None:
        self._first_ms: dict[str, int] = {}
        self._vocabulary: Vocabulary | None = None

    def clicked(self, item_ids: Iterable[str], now_ms: int) -> None:
        """Note clicks on unknown items; once `MOST_WAITING` wait, those that wait longest are given up."""
        for item_id in item_ids:
            self._first_ms.setdefault(item_id, now_ms)
            if len(self._first_ms) > MOST_WAITING:
                del self._first_ms[next(iter(self._first_ms))]

    def known(self, vocabulary: Vocabulary, now_ms: int) -> NDArray[np.float64]:
        """Return the seconds that those waited which a version knows now that serves, float64 [n]; they wait no more.

        Args:
            vocabulary: Of that version; when it is the one of the last call, nothing is looked up.
            now_ms: Wall clock.
        """
        if vocabulary is self._vocabulary:
            return np.empty(0)
        self._vocabulary = vocabulary
        found = [item_id for item_id in self._first_ms if vocabulary.row(item_id) >= 0]
        return np.array([now_ms - self._first_ms.pop(item_id) for item_id in found], dtype=np.float64) / 1000
