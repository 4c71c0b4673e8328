"""The order of clicks, cut into periods: each is ranked with what was learned before it, then learned from.

Shape letters: P periods after the first, n clicks.
"""

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model.clicks import DEFAULT_IDLE_MS, ClickTable, Sessions
from model.errors import InvalidFileError
from trainer.selection import sessions_of_places

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class Cases:
    """Next clicks of one period.

    Attributes:
        sessions: Of codes into the table's `item_ids`, with the clicks that lead up to a case.
        counted: bool, one for each of `sessions.items`: whether it is a case.
        places: int64, one for each of `sessions.items`: its place in the table.
    """

    sessions: Sessions
    counted: NDArray[np.bool_]
    places: NDArray[np.int64]

    @property
    def session(self) -> NDArray[np.int64]:
        """Which session each case is of."""
        return np.repeat(np.arange(len(self.sessions)), self.sessions.lengths)[self.counted]


@dataclass(frozen=True)
class Timeline:
    """Clicks and where their periods end.

    Attributes:
        table: In the order of time.
        ends: int64 [P + 1], the place after the last click of each period; the first period is only learned from.
        stands_alone: Whether a session ends with its period and clicks on items never met before are passed over, as
            in benchmarks whose clicks are cut by a column. Otherwise sessions go on, and every next click is a case.
        idle_ms: Longest pause inside a session.
        refreshes: int64, rising, the places at which what answers is refreshed, those of `ends` among them or not.
    """

    table: ClickTable
    ends: NDArray[np.int64]
    stands_alone: bool
    idle_ms: int = DEFAULT_IDLE_MS
    refreshes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def bounds(self, period: int) -> tuple[int, int]:
        """Return the first place of a period, from 1 to P, and the one after its last."""
        return int(self.ends[period - 1]), int(self.ends[period])

    def stretches(self, period: int) -> list[tuple[int, int]]:
        """Return the bounds of a period's parts, cut where what answers is refreshed."""
        start, end = self.bounds(period)
        inside = self.refreshes[(self.refreshes > start) & (self.refreshes < end)]
        return list(pairwise([start, *inside.tolist(), end]))

    def cases(self, start: int, end: int) -> Cases:
        """Return the next clicks of some places; where periods stand alone, those of one period."""
        if self.stands_alone:
            places = np.arange(start, end)
            places = places[self._first_places[self.table.item[places]] < start]
            sessions = sessions_of_places(self.table, places, self.idle_ms)
            counted = np.ones(len(sessions.items), dtype=np.bool_)
        else:
            sessions = self._until(start, end)
            counted = sessions.items >= start
        counted[sessions.offsets[:-1]] = False
        return Cases(replace(sessions, items=self.table.item[sessions.items]), counted, sessions.items)

    def _until(self, start: int, end: int) -> Sessions:
        """Return the sessions that have a click between two places, as they are by then."""
        goes_on = self._last_places >= start
        begun = self._sessions.subset(goes_on)
        reached = begun.items < end
        lengths = np.add.reduceat(reached.astype(np.int64), begun.offsets[:-1]) if len(begun) else begun.lengths
        cut = replace(begun, items=begun.items[reached], offsets=np.concatenate([[0], np.cumsum(lengths)]))
        return cut.subset(lengths > 0)

    @cached_property
    def _sessions(self) -> Sessions:
        return sessions_of_places(self.table, np.arange(len(self.table)), self.idle_ms)

    @cached_property
    def _last_places(self) -> NDArray[np.int64]:
        """Place of the last click of each session; of a session, places rise."""
        return self._sessions.items[self._sessions.offsets[1:] - 1]

    @cached_property
    def _first_places(self) -> NDArray[np.int64]:
        """Place of each item's first click."""
        found = np.full(len(self.table.item_ids), len(self.table), dtype=np.int64)
        np.minimum.at(found, self.table.item, np.arange(len(self.table)))
        return found


def by_period(table: ClickTable, *, idle_ms: int = DEFAULT_IDLE_MS) -> Timeline:
    """Cut clicks by their column `period`; the lowest is the first.

    Raises:
        InvalidFileError: There is no such column, or only one period.
    """
    if table.period is None:
        raise InvalidFileError("there is no column 'period' to cut by; use --every 1d, 10m or 20000clicks")
    ordered = table.select(np.argsort(table.period, kind="stable"))
    assert ordered.period is not None
    ends = np.append(np.flatnonzero(np.diff(ordered.period)) + 1, len(ordered))
    return _with_two_periods(Timeline(ordered, ends, stands_alone=True, idle_ms=idle_ms))


def every(
    table: ClickTable, step: str, *, first_clicks: int, idle_ms: int = DEFAULT_IDLE_MS, refresh: str | None = None
) -> Timeline:
    """Cut clicks every so often, by event time (`10m`, with s, m, h or d) or by number (`20000clicks`).

    The first period goes on until it has `first_clicks` clicks; a period without clicks joins the next.

    Args:
        table: The clicks.
        step: How long a period is.
        first_clicks: Of the first period, at least.
        idle_ms: Longest pause inside a session.
        refresh: How often what answers is refreshed, as a step; by default never.

    Raises:
        ValueError: A step is none of these.
        InvalidFileError: The table has no times to cut by, or too few clicks for two periods.
    """
    ordered = table.in_time_order()
    ends = _cuts(ordered, step)
    return _with_two_periods(
        Timeline(
            ordered,
            ends[ends >= min(first_clicks, len(ordered))],
            stands_alone=False,
            idle_ms=idle_ms,
            refreshes=np.empty(0, dtype=np.int64) if refresh is None else _cuts(ordered, refresh),
        )
    )


def _cuts(ordered: ClickTable, step: str) -> NDArray[np.int64]:
    """Return the places after the last click of each step; the last is the end."""
    found = re.fullmatch(r"([1-9]\d*)(s|m|h|d|clicks)", step)
    if found is None:
        raise ValueError(f"expected a step such as 10m, 1h, 1d or 20000clicks, got {step!r}")
    size, unit = int(found[1]), found[2]
    if unit == "clicks":
        ends = np.arange(size, len(ordered) + size, size)
    elif ordered.has_times:
        start_ms, end_ms = (int(ordered.timestamp_ms[place]) for place in (0, -1))
        moments = np.arange(start_ms + size * _UNITS_MS[unit], end_ms + size * _UNITS_MS[unit], size * _UNITS_MS[unit])
        ends = np.searchsorted(ordered.timestamp_ms, moments)
    else:
        raise InvalidFileError(f"a step of {step} needs a time column, and there is none; say how many, as 20000clicks")
    return np.unique(np.minimum(np.append(ends, len(ordered)), len(ordered)))


def _with_two_periods(timeline: Timeline) -> Timeline:
    if len(timeline) < 1:
        raise InvalidFileError(
            f"{len(timeline.table)} clicks make one period, and there must be two: one to learn from, one to rank"
        )
    return timeline
