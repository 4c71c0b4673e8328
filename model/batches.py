"""Session-parallel mini-batches: every lane plays one session after the other, all lanes in step.

Shape letters: T steps, n transitions (a click and the next one of its session) of all steps together.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.clicks import Sessions


@dataclass(frozen=True)
class Step:
    """One mini-batch of B transitions.

    Attributes:
        lanes: int64 [B], distinct, ascending: which of the carried states each transition uses.
        inputs: int64 [B], the clicked item.
        targets: int64 [B], the item clicked next.
        resets: bool [B], whether the transition is the first of its session, so that its state starts from zero.
    """

    lanes: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    resets: NDArray[np.bool_]


@dataclass(frozen=True)
class Schedule:
    """All mini-batches of one epoch as columns; step t is `offsets[t]:offsets[t + 1]`. See `Step` for the columns.

    Attributes:
        batch_size: Number of lanes.
        offsets: int64 [T + 1].
        lanes: int64 [n].
        inputs: int64 [n].
        targets: int64 [n].
        resets: bool [n].
    """

    batch_size: int
    offsets: NDArray[np.int64]
    lanes: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    resets: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def transitions(self) -> int:
        """The number of transitions in all steps together."""
        return len(self.inputs)

    def step(self, index: int) -> Step:
        """Return one mini-batch."""
        which = slice(self.offsets[index], self.offsets[index + 1])
        return Step(self.lanes[which], self.inputs[which], self.targets[which], self.resets[which])

    def __iter__(self) -> Iterator[Step]:
        return map(self.step, range(len(self)))


def session_parallel(sessions: Sessions, batch_size: int) -> Schedule:
    """Arrange sessions into mini-batches of at most `batch_size` lanes.

    Sessions are begun in the order given; a lane that ends one begins the next at the following step. Every
    transition occurs exactly once: at the end, when no session is left to begin, the steps grow smaller. A session
    of one click has no transition and is skipped.

    Args:
        sessions: Their items may be rows or codes; they are copied as they are.
        batch_size: Number of lanes, at least 1.
    """
    transitions = sessions.lengths - 1
    playing = np.flatnonzero(transitions > 0)
    transitions = transitions[playing]
    first_step, lane = _assign(transitions, batch_size)

    total = int(transitions.sum())
    within = np.arange(total) - np.repeat(np.cumsum(transitions) - transitions, transitions)
    step = np.repeat(first_step, transitions) + within
    lanes = np.repeat(lane, transitions)
    order = np.argsort(step * batch_size + lanes, kind="stable")
    place = (np.repeat(sessions.offsets[playing], transitions) + within)[order]
    return Schedule(
        batch_size=batch_size,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(step))]).astype(np.int64),
        lanes=lanes[order],
        inputs=sessions.items[place],
        targets=sessions.items[place + 1],
        resets=within[order] == 0,
    )


def _assign(lengths: NDArray[np.int64], batch_size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each session, in order, the lane that is free first (the lowest of several), and the step it begins at."""
    free = [(0, lane) for lane in range(batch_size)]
    first_step, lanes = [], []
    for length in lengths.tolist():
        step, lane = free[0]
        first_step.append(step)
        lanes.append(lane)
        heapq.heapreplace(free, (step + length, lane))
    return np.array(first_step, dtype=np.int64), np.array(lanes, dtype=np.int64)
