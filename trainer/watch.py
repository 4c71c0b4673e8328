"""Is the version that serves worse on live clicks than its parent? Both rank next clicks that neither has learned.

Looks are repeated as clicks come, each on twice the cases of the one before, and a version is rejected at the first
that shows it to be worse. The chance of error is split over the looks: the k-th, from 0 on, spends
(1 - rollback_confidence) / ((k + 1) (k + 2)), which adds up to 1 - rollback_confidence over all of them. So a version
that is not worse by more than `rollback_margin` is ever rejected with at most that probability, whichever looks are
held: the union bound over epochs that double, as in Howard, Ramdas, McAuliffe & Sekhon, Time-uniform, nonparametric,
nonasymptotic confidence sequences, Ann. Statist. 49, 2021; here each epoch has one look, with the gate's normal bound.

Both rank as they were written, without what refreshes added since: that comes from the same clicks.

The cases of a look are those of the first sessions after the version was made: held again after a restart, it asks the
same question once more and spends next to nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.clicks import Sessions
from model.registry import ModelVersion
from trainer.gate import GATE_K, judge
from trainer.learner import as_rows
from trainer.scorers import scorer_of
from trainer.selection import unread
from trainer.settings import TrainerSettings
from trainer.window import WindowClicks

MOST_CASES = 10_000
"""Cases that a look ranks, but for those of one session: the newest of its own. It bounds a look's time."""


@dataclass(frozen=True)
class Look:
    """What a look found.

    Attributes:
        number: From 0 on.
        is_worse: Whether the serving version is worse than its parent by more than the margin.
        metrics: Means of both, their differences and the upper bounds of these, by name; and `cases`.
    """

    number: int
    is_worse: bool
    metrics: dict[str, float]


@dataclass(frozen=True)
class LiveCases:
    """Next clicks that neither version has learned, a click on an item that they do not know among them.

    Attributes:
        sessions: By their start, of codes into `item_ids`, with the clicks that lead up to a case.
        counted: bool, one for each of `sessions.items`: whether it is a case.
        item_ids: What the codes mean.
    """

    sessions: Sessions
    counted: NDArray[np.bool_]
    item_ids: list[str]

    def __len__(self) -> int:
        return int(self.counted.sum())

    def first(self, cases: int) -> "LiveCases":
        """Return the first sessions that have so many cases together, of them the newest with `MOST_CASES`."""
        session = np.repeat(np.arange(len(self.sessions)), self.sessions.lengths)
        of_session = np.bincount(session[self.counted], minlength=len(self.sessions))
        until = np.cumsum(of_session)
        chosen = (of_session > 0) & (until - of_session < cases) & (until > cases - MOST_CASES)
        return LiveCases(self.sessions.subset(chosen), self.counted[chosen[session]], self.item_ids)


def live_cases(window: WindowClicks, trained_until: dict[int, int], settings: TrainerSettings) -> LiveCases:
    """Return the window's next clicks from `trained_until` on."""
    lesson = unread(window, trained_until, settings.idle_ms)
    counted = lesson.learned.copy()
    counted[lesson.sessions.offsets[:-1]] = False
    return LiveCases(lesson.sessions, counted, window.table.item_ids)


def newest_look(cases: int, settings: TrainerSettings) -> int:
    """Return the number of the last look that so many cases allow; -1 where they allow none."""
    return (cases // settings.rollback_cases).bit_length() - 1


def cases_of(number: int, settings: TrainerSettings) -> int:
    """Return how many cases a look needs."""
    return settings.rollback_cases << number


def look(serving: ModelVersion, parent: ModelVersion, live: LiveCases, number: int, settings: TrainerSettings) -> Look:
    """Hold a look.

    Args:
        serving: The version that serves.
        parent: What it is compared with; its items come first in those of `serving`.
        live: What neither has learned, at least `cases_of(number)` cases.
        number: Of the look.
        settings: The margin, the confidence and the device.
    """
    live = live.first(cases_of(number, settings))
    sessions = as_rows(live.sessions, live.item_ids, serving.vocabulary)
    ours, theirs = (
        scorer_of(version.network.to(settings.torch_device()), version.companion).next_click_ranks(
            sessions, live.counted, "conservative"
        )
        for version in (serving, parent)
    )
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)[live.counted]
    return compared(ours, theirs, session, number, settings)


def compared(
    ours: NDArray[np.int64],
    theirs: NDArray[np.int64],
    session: NDArray[np.int64],
    number: int,
    settings: TrainerSettings,
) -> Look:
    """Compare the ranks of a look's n cases.

    Args:
        ours: int64 [n], of the serving version.
        theirs: int64 [n], of its parent.
        session: int64 [n], which session each case is of.
        number: Of the look.
        settings: The margin and the confidence over all looks.
    """
    spent = (1 - settings.rollback_confidence) / ((number + 1) * (number + 2))
    # As if the parent asked to serve again: what it is surely better by, the serving version is surely worse by.
    back = judge(theirs, ours, session, confidence=1 - spent, margin=0.0).metrics
    metrics = {"cases": back["cases"]}
    for name in (f"recall@{GATE_K}", f"mrr@{GATE_K}"):
        metrics |= {
            name: back[f"incumbent_{name}"],
            f"parent_{name}": back[name],
            f"{name}_difference": back[f"incumbent_{name}"] - back[name],
            f"{name}_difference_upper": -back[f"{name}_difference_lower"],
        }
    return Look(number, metrics[f"recall@{GATE_K}_difference_upper"] < -settings.rollback_margin, metrics)
