"""Session-parallel mini-batches: every lane plays one session after the other, all lanes in step.

Shape letters: T moments (in each, every lane plays one click), n transitions (a click and the next one of its session)
of all moments together, M moments of a mini-batch, m its transitions.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.clicks import Sessions


@dataclass(frozen=True)
class Step:
    """One mini-batch: the transitions of one moment or of several that follow each other.

    Attributes:
        lanes: int64 [m], which of the carried states each transition uses: distinct and ascending in each moment.
        inputs: int64 [m], the clicked item.
        targets: int64 [m], the item clicked next.
        resets: bool [m], whether the transition is the first of its session, so that its state starts from zero.
        learned: bool [m], whether the target is to be learned; the other transitions only carry the state on.
        bounds: int64 [M + 1]; the transitions of its moment t are those from bounds[t] to bounds[t + 1].
    """

    lanes: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    resets: NDArray[np.bool_]
    learned: NDArray[np.bool_]
    bounds: NDArray[np.int64]

    @property
    def moments(self) -> list[tuple[int, int]]:
        """Where each moment begins and ends."""
        return list(pairwise(self.bounds.tolist()))

    @property
    def sessions(self) -> NDArray[np.int64]:
        """Which of the mini-batch's sessions each learned transition is of, counted from 0: int64 [learned ones]."""
        by_lane = np.argsort(self.lanes, kind="stable")
        begins = self.resets[by_lane] | (np.diff(self.lanes[by_lane], prepend=-1) != 0)
        found = np.empty(len(self.lanes), dtype=np.int64)
        found[by_lane] = np.cumsum(begins) - 1
        return np.unique(found[self.learned], return_inverse=True)[1]


@dataclass(frozen=True)
class Schedule:
    """All moments of one epoch as columns; moment t is `offsets[t]:offsets[t + 1]`. See `Step` for the columns.

    Attributes:
        batch_size: Number of lanes.
        moments_per_step: Moments of a mini-batch; the last one may have fewer.
        offsets: int64 [T + 1].
        lanes: int64 [n].
        inputs: int64 [n].
        targets: int64 [n].
        resets: bool [n].
        learned: bool [n].
    """

    batch_size: int
    moments_per_step: int
    offsets: NDArray[np.int64]
    lanes: NDArray[np.int64]
    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    resets: NDArray[np.bool_]
    learned: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(range(0, len(self.offsets) - 1, self.moments_per_step))

    @property
    def transitions(self) -> int:
        """The number of transitions in all steps together."""
        return len(self.inputs)

    def step(self, index: int) -> Step:
        """Return one mini-batch."""
        first = index * self.moments_per_step
        bounds = self.offsets[first : first + self.moments_per_step + 1]
        which = slice(bounds[0], bounds[-1])
        return Step(
            lanes=self.lanes[which],
            inputs=self.inputs[which],
            targets=self.targets[which],
            resets=self.resets[which],
            learned=self.learned[which],
            bounds=bounds - bounds[0],
        )

    def __iter__(self) -> Iterator[Step]:
        return map(self.step, range(len(self)))


def session_parallel(
    sessions: Sessions, batch_size: int, moments_per_step: int = 1, learned: NDArray[np.bool_] | None = None
) -> Schedule:
    """Arrange sessions into mini-batches of at most `batch_size` lanes.

    Sessions are begun in the order given; a lane that ends one begins the next at the following moment. Every
    transition occurs exactly once: at the end, when no session is left to begin, the moments grow smaller. A session
    of one click has no transition and is skipped.

    Args:
        sessions: Their items may be rows or codes; they are copied as they are.
        batch_size: Number of lanes, at least 1.
        moments_per_step: Moments that make a mini-batch, at least 1.
        learned: bool [n], one for each of `sessions.items`, false for clicks that are here only because later ones
            follow them; by default all true.
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
        moments_per_step=moments_per_step,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(step))]).astype(np.int64),
        lanes=lanes[order],
        inputs=sessions.items[place],
        targets=sessions.items[place + 1],
        resets=within[order] == 0,
        learned=np.ones(total, dtype=np.bool_) if learned is None else learned[place + 1],
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
