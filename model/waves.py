"""The order in which the clicks of a micro-batch are computed: the n-th known click of every session in wave n.

Shape letters: S sessions, C clicks of a micro-batch, K of them on known items.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Waves:
    """Which click is computed when, and from which state.

    A place says where a state lies when the S states before the batch are followed by the K states after each known
    click, in wave order.

    Attributes:
        clicks: int64 [K], known clicks in wave order.
        bounds: Where each wave begins in `clicks`, and at last K.
        before: int64 [K], place of the state that each of `clicks` starts from.
        after_click: int64 [C], place of the state after each click of the batch.
        after_all: int64 [S], place of each session's state after the batch.
        last_row: int64 [C], row of the session's newest known item at each click, -1 for none.
    """

    clicks: NDArray[np.int64]
    bounds: list[int]
    before: NDArray[np.int64]
    after_click: NDArray[np.int64]
    after_all: NDArray[np.int64]
    last_row: NDArray[np.int64]


def plan_waves(last_rows: NDArray[np.int64], slots: NDArray[np.int64], rows: NDArray[np.int64]) -> Waves:
    """Arrange a micro-batch into waves, without a loop over clicks.

    Args:
        last_rows: int64 [S], row of each session's newest known item before the batch, -1 for none.
        slots: int64 [C], each click's session, in order of arrival.
        rows: int64 [C], each click's item, -1 for an unknown one.
    """
    # Everything below is in this order: session by session, each in order of arrival.
    by_session = np.argsort(slots, kind="stable")
    slot, row = slots[by_session], rows[by_session]
    position = np.arange(len(slots))
    is_known = row >= 0
    is_first = np.append(True, slot[1:] != slot[:-1])[: len(slot)]
    is_last = np.append(is_first, True)[1:]
    session_start = np.maximum.accumulate(np.where(is_first, position, 0))

    known_before = np.asarray(np.cumsum(is_known) - is_known, dtype=np.int64)
    wave = known_before - known_before[session_start]
    known = np.flatnonzero(is_known)
    in_waves = known[np.argsort(wave[known], kind="stable")]
    place = np.full(len(slots), -1, dtype=np.int64)
    place[in_waves] = len(last_rows) + np.arange(len(in_waves))

    # The newest known click of the same session, up to each click; the state before the batch where there is none.
    newest = np.maximum.accumulate(np.where(is_known, position, -1))
    has_known = newest >= session_start
    after = np.where(has_known, place[newest], slot)
    last_row = np.where(has_known, row[newest], last_rows[slot])
    before = np.where(wave > 0, place[np.append(-1, newest)[:-1]], slot)

    after_all = np.arange(len(last_rows))
    after_all[slot[is_last]] = after[is_last]
    arrival = np.empty_like(position)
    arrival[by_session] = position
    return Waves(
        clicks=by_session[in_waves],
        bounds=[0, *np.cumsum(np.bincount(wave[in_waves])).tolist()],
        before=before[in_waves],
        after_click=after[arrival],
        after_all=after_all,
        last_row=last_row[arrival],
    )
