"""The newest clicks in memory: bounded, as columns, in order of arrival."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.clicks import Click, ClickTable

MOST_BYTES_A_CLICK = 450
"""What a click can cost at most, beside its ids: where every click is on a session and an item of its own."""

_SLACK = 0.25  # how far the columns may outgrow the capacity before they are cut, so that cutting is rare


@dataclass(frozen=True)
class WindowClicks:
    """What a window held at one moment; n clicks.

    Attributes:
        table: The clicks, those of one partition in their order in the topic.
        partition: int64 [n], where each was read.
        offset: int64 [n]
        next_offsets: For each partition, the offset after the last record read, click or not.
    """

    table: ClickTable
    partition: NDArray[np.int64]
    offset: NDArray[np.int64]
    next_offsets: dict[int, int]

    def __len__(self) -> int:
        return len(self.table)


class Window:
    """Keeps the newest `capacity` clicks; one thread writes and snapshots it.

    However many clicks have gone through it, it takes at most `MOST_BYTES_A_CLICK` and 1.25 times the bytes of the two
    ids for each of `capacity`: 75 to 125 bytes in all where sessions have 8 clicks, on items that others are on too. A
    snapshot takes 50 bytes a click and shares the ids.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._session, self._item, self._timestamp_ms = array("q"), array("q"), array("q")
        self._partition, self._offset = array("q"), array("q")
        self._session_codes: dict[str, int] = {}
        self._item_codes: dict[str, int] = {}
        self._session_ids: list[str] = []
        self._item_ids: list[str] = []
        self._next_offsets: dict[int, int] = {}
        self.clicks_added = 0

    def __len__(self) -> int:
        return min(len(self._item), self._capacity)

    @property
    def next_offsets(self) -> dict[int, int]:
        """For each partition, the offset to read on from."""
        return dict(self._next_offsets)

    def extend(self, partition: int, offsets: Sequence[int], clicks: Sequence[Click], next_offset: int) -> None:
        """Add the clicks of one partition, in the topic's order.

        Args:
            partition: Where they were read.
            offsets: Of each click.
            clicks: As many as `offsets`.
            next_offset: After the last record read; records that are no clicks lie between.
        """
        self._session.extend([self._code(self._session_codes, self._session_ids, c.session_id) for c in clicks])
        self._item.extend([self._code(self._item_codes, self._item_ids, c.item_id) for c in clicks])
        self._timestamp_ms.extend([click.timestamp_ms for click in clicks])
        self._partition.extend([partition] * len(clicks))
        self._offset.extend(offsets)
        self._next_offsets[partition] = next_offset
        self.clicks_added += len(clicks)
        if len(self._item) > self._capacity * (1 + _SLACK):
            self._cut()

    @staticmethod
    def _code(codes: dict[str, int], ids: list[str], outside_id: str) -> int:
        code = codes.get(outside_id)
        if code is None:
            code = codes[outside_id] = len(ids)
            ids.append(outside_id)
        return code

    def _cut(self) -> None:
        """Drop all but the newest clicks, and the ids that only dropped clicks had."""
        for column in (self._session, self._item, self._timestamp_ms, self._partition, self._offset):
            del column[: -self._capacity]
        # New lists, not the old ones emptied: snapshots share the old ones.
        self._session, self._session_ids = _recoded(self._session, self._session_ids)
        self._item, self._item_ids = _recoded(self._item, self._item_ids)
        self._session_codes = {outside_id: code for code, outside_id in enumerate(self._session_ids)}
        self._item_codes = {outside_id: code for code, outside_id in enumerate(self._item_ids)}

    def snapshot(self) -> WindowClicks:
        """Return the newest clicks; later calls of `extend` leave the snapshot as it is."""
        newest = slice(-self._capacity, None)
        session, item, timestamp_ms, partition, offset = (
            np.array(column, dtype=np.int64)[newest]
            for column in (self._session, self._item, self._timestamp_ms, self._partition, self._offset)
        )
        table = ClickTable(session, item, timestamp_ms, None, self._session_ids, self._item_ids)
        return WindowClicks(table, partition, offset, self.next_offsets)


def _recoded(column: "array[int]", ids: list[str]) -> tuple["array[int]", list[str]]:
    """Number the ids that a column still uses from 0 on."""
    used, codes = np.unique(np.array(column, dtype=np.int64), return_inverse=True)
    return array("q", codes.astype(np.int64).tobytes()), [ids[code] for code in used.tolist()]
