"""Clicks: one (`Click`), many (`ClickTable`), and the one rule that turns them into sessions.

The file is the front door for everything about clicks; their JSON form is in `click_wire`, files in `click_files`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.click_files import read_columns
from model.click_wire import DAY_MS, MAX_ID_BYTES, Click, decode_click, encode_click
from model.errors import InvalidFileError

__all__ = [
    "DAY_MS",
    "DEFAULT_IDLE_MS",
    "MAX_ID_BYTES",
    "Click",
    "ClickTable",
    "Sessions",
    "continues_session",
    "decode_click",
    "encode_click",
    "read_clicks",
    "sessionise",
    "split_table",
]

DEFAULT_IDLE_MS = 30 * 60 * 1000


@dataclass(frozen=True)
class ClickTable:
    """Clicks as columns, in file or arrival order; n clicks.

    Attributes:
        session: int64 [n], places in `session_ids`.
        item: int64 [n], places in `item_ids`.
        timestamp_ms: int64 [n], event time.
        period: int64 [n], or None where the source has no periods.
        session_ids: Every session id that `session` points at.
        item_ids: Every item id that `item` points at.
        has_times: False where the source had no times, so `timestamp_ms` only says the order.
    """

    session: NDArray[np.int64]
    item: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    period: NDArray[np.int64] | None
    session_ids: list[str]
    item_ids: list[str]
    has_times: bool = True

    def __len__(self) -> int:
        return len(self.item)

    @staticmethod
    def from_clicks(clicks: Iterable[Click]) -> "ClickTable":
        """Put clicks into columns, in the order given."""
        session_codes: dict[str, int] = {}
        item_codes: dict[str, int] = {}
        session: list[int] = []
        item: list[int] = []
        timestamp_ms: list[int] = []
        for click in clicks:
            session.append(session_codes.setdefault(click.session_id, len(session_codes)))
            item.append(item_codes.setdefault(click.item_id, len(item_codes)))
            timestamp_ms.append(click.timestamp_ms)
        columns = [np.array(column, dtype=np.int64) for column in (session, item, timestamp_ms)]
        return ClickTable(columns[0], columns[1], columns[2], None, list(session_codes), list(item_codes))

    def clicks(self) -> Iterator[Click]:
        """Yield every click in table order."""
        columns = (self.session.tolist(), self.item.tolist(), self.timestamp_ms.tolist())
        for session, item, timestamp_ms in zip(*columns, strict=True):
            yield Click(self.session_ids[session], self.item_ids[item], timestamp_ms)

    def select(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "ClickTable":
        """Return the clicks under a mask or at the places given; the id lists stay, so codes keep their meaning."""
        return self._at(which)

    def slice(self, start: int, stop: int) -> "ClickTable":
        """Return the clicks at places `start` to `stop - 1`, without copying them."""
        return self._at(np.s_[start:stop])

    def _at(self, which: Any) -> "ClickTable":
        return replace(
            self,
            session=self.session[which],
            item=self.item[which],
            timestamp_ms=self.timestamp_ms[which],
            period=None if self.period is None else self.period[which],
        )

    def in_time_order(self) -> "ClickTable":
        """Return the clicks by event time; those of one time stay in table order."""
        return self.select(np.argsort(self.timestamp_ms, kind="stable"))


def read_clicks(
    path: str | Path,
    *,
    session_column: str = "session_id",
    item_column: str = "item_id",
    time_column: str = "timestamp",
) -> ClickTable:
    """Read a click file: `.parquet`, `.csv` or `.tsv`, by its suffix.

    Times may be datetimes or numbers; numbers whose largest is below 1e11 are seconds, others milliseconds. Without a
    time column the file's order is the order of time, a second apart, and the table says so in `has_times`. A column
    `period`, where there is one, is kept.

    Raises:
        InvalidFileError: The file is missing or unreadable, or a column is missing or unusable.
    """
    columns = read_columns(Path(path), session_column, item_column, time_column)
    return ClickTable(
        session=columns.session,
        item=columns.item,
        timestamp_ms=columns.timestamp_ms,
        period=columns.period,
        session_ids=columns.session_ids,
        item_ids=columns.item_ids,
        has_times=columns.has_times,
    )


def continues_session(last_event_ms: int, event_ms: int, idle_ms: int) -> bool:
    """Whether a click at `event_ms` belongs to the session whose largest event time so far is `last_event_ms`.

    This is the rule, for serving and training alike: at most `idle_ms` of event time may pass. A click that arrives
    late (an older event time) always continues the session, and does not turn its clock back.
    """
    return event_ms - last_event_ms <= idle_ms


@dataclass(frozen=True)
class Sessions:
    """Whole sessions, one after the other, by the time of their start; S sessions, n clicks.

    Attributes:
        items: int64 [n], item codes of the table they came from, or rows where a caller mapped them.
        offsets: int64 [S + 1]; session s is `items[offsets[s]:offsets[s + 1]]`, in arrival order.
        start_ms: int64 [S], earliest event time of each session.
        end_ms: int64 [S], latest event time of each session.
    """

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Clicks in each session, int64 [S]."""
        return np.diff(self.offsets)

    def subset(self, kept: NDArray[np.bool_]) -> "Sessions":
        """Return some of the sessions, by a bool [S]."""
        lengths = self.lengths
        offsets = np.concatenate([[0], np.cumsum(lengths[kept])]).astype(np.int64)
        return Sessions(self.items[np.repeat(kept, lengths)], offsets, self.start_ms[kept], self.end_ms[kept])


@dataclass(frozen=True)
class _Grouping:
    """Which clicks of a table form which session: places int64 [n] grouped by session, and as in `Sessions`."""

    places: NDArray[np.int64]
    offsets: NDArray[np.int64]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]


def sessionise(table: ClickTable, *, idle_ms: int = DEFAULT_IDLE_MS, minimum_length: int = 1) -> Sessions:
    """Cut a table into sessions by applying `continues_session` to every click in arrival order.

    A session id that comes back after more than `idle_ms` starts a new session. Where the table has no times, the rule
    cannot be applied and every session id is one session.

    Args:
        table: Clicks in arrival order.
        idle_ms: Longest pause inside a session.
        minimum_length: Shorter sessions are left out.
    """
    grouping = _group(table, idle_ms)
    lengths = np.diff(grouping.offsets)
    order = np.argsort(grouping.start_ms, kind="stable")
    order = order[lengths[order] >= minimum_length]
    offsets = np.concatenate([[0], np.cumsum(lengths[order])])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths[order])
    places = grouping.places[np.repeat(grouping.offsets[order], lengths[order]) + within]
    return Sessions(table.item[places], offsets, grouping.start_ms[order], grouping.end_ms[order])


def _group(table: ClickTable, idle_ms: int) -> _Grouping:
    """Group the clicks by session; sessions by their first click's place, clicks of each in arrival order."""
    if len(table) == 0:
        nothing = np.empty(0, dtype=np.int64)
        return _Grouping(nothing, np.zeros(1, dtype=np.int64), nothing, nothing)
    places = np.argsort(table.session, kind="stable")
    session, event_ms = table.session[places], table.timestamp_ms[places]
    begins = np.concatenate([[True], session[1:] != session[:-1]])
    if table.has_times:
        # The largest time so far of each session id. Ranks instead of times keep `id * n + rank` within int64 whatever
        # the times are. A new session starts later than all before it, so its largest so far needs no reset.
        times, rank = np.unique(event_ms, return_inverse=True)
        latest = times[np.maximum.accumulate(np.cumsum(begins) * len(times) + rank) % len(times)]
        begins[1:] |= event_ms[1:] - latest[:-1] > idle_ms
    starts = np.flatnonzero(begins)
    by_arrival = np.argsort(places[starts], kind="stable")
    ends = np.append(starts[1:], len(places))
    lengths = (ends - starts)[by_arrival]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(len(places)) - np.repeat(offsets[:-1], lengths)
    return _Grouping(
        places[np.repeat(starts[by_arrival], lengths) + within],
        offsets,
        np.minimum.reduceat(event_ms, starts)[by_arrival],
        np.maximum.reduceat(event_ms, starts)[by_arrival],
    )


def split_table(table: ClickTable, how: str, *, idle_ms: int = DEFAULT_IDLE_MS) -> tuple[ClickTable, ClickTable]:
    """Split a table into what trains and what tests, by time only.

    Args:
        table: Clicks in arrival order.
        how: `days:N` tests the sessions that start in the last N days, `sessions:N` the N sessions that start last,
            `period:P` the clicks of period P (training on all before it). Sessions stay whole in the first two.
        idle_ms: Longest pause inside a session.

    Raises:
        ValueError: `how` is none of these.
        InvalidFileError: The table has no times or no periods to split by.
    """
    unit, _, amount = how.partition(":")
    if unit not in {"days", "sessions", "period"} or not amount.isdecimal():
        raise ValueError(f"expected days:N, sessions:N or period:P, got {how!r}")
    number = int(amount)
    if unit == "period":
        if table.period is None:
            raise InvalidFileError("period:P needs a column 'period', and there is none; use sessions:N")
        return table.select(table.period < number), table.select(table.period == number)
    grouping = _group(table, idle_ms)
    tested = np.zeros(len(grouping.start_ms), dtype=np.bool_)
    if unit == "days":
        if not table.has_times:
            raise InvalidFileError("days:N needs a time column, and there is none; use sessions:N")
        tested = grouping.start_ms >= table.timestamp_ms.max(initial=0) - number * DAY_MS
    elif number:
        tested[np.argsort(grouping.start_ms, kind="stable")[-number:]] = True
    is_test = np.zeros(len(table), dtype=np.bool_)
    is_test[grouping.places] = np.repeat(tested, np.diff(grouping.offsets))
    return table.select(~is_test), table.select(is_test)
