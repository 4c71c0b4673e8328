"""The order in which the clicks of a micro-batch are computed: the n-th known click of every session in wave n.

Shape letters: S sessions, C clicks of a micro-batch, K of them on known items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import compiled


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
    """Arrange a micro-batch into waves.

    Args:
        last_rows: int64 [S], row of each session's newest known item before the batch, -1 for none.
        slots: int64 [C], each click's session, in order of arrival.
        rows: int64 [C], each click's item, -1 for an unknown one.
    """
    clicks, before, bounds, after_click, after_all, last_row = arrange(last_rows, slots, rows)
    return Waves(clicks, bounds.tolist(), before, after_click, after_all, last_row)


@compiled
def arrange(last_rows: Any, slots: Any, rows: Any) -> Any:
    """Return the arrays of `Waves`, `bounds` too; of each wave, clicks stand in order of arrival."""
    sessions, count = len(last_rows), len(slots)
    played = np.zeros(sessions, dtype=np.int64)
    wave = np.full(count, -1, dtype=np.int64)
    of_wave = np.zeros(count + 1, dtype=np.int64)
    waves, known = 0, 0
    for c in range(count):
        if rows[c] >= 0:
            wave[c] = played[slots[c]]
            played[slots[c]] += 1
            of_wave[wave[c]] += 1
            waves = max(waves, wave[c] + 1)
            known += 1
    bounds = np.zeros(waves + 1, dtype=np.int64)
    for w in range(waves):
        bounds[w + 1] = bounds[w] + of_wave[w]

    following = bounds.copy()
    clicks, before = np.empty(known, dtype=np.int64), np.empty(known, dtype=np.int64)
    after_click, last_row = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    place, newest = np.arange(sessions), last_rows.copy()
    for c in range(count):
        slot = slots[c]
        if rows[c] >= 0:
            k = following[wave[c]]
            following[wave[c]] += 1
            clicks[k], before[k] = c, place[slot]
            place[slot], newest[slot] = sessions + k, rows[c]
        after_click[c], last_row[c] = place[slot], newest[slot]
    return clicks, before, bounds, after_click, place, last_row
