from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.clicks import (
    DAY_MS,
    DEFAULT_IDLE_MS,
    Click,
    ClickTable,
    Sessions,
    continues_session,
    read_clicks,
    sessionise,
    split_table,
)
from model.errors import InvalidFileError

IDLE_MS = 10
# Session ids, item ids and event times that jump about by less and by more than the idle time, also backwards.
click_lists = st.lists(
    st.builds(Click, st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 60)), max_size=40
)


def table_of(*clicks: tuple[str, str, int], period: list[int] | None = None, has_times: bool = True) -> ClickTable:
    table = ClickTable.from_clicks(Click(*click) for click in clicks)
    return replace(table, period=None if period is None else np.array(period), has_times=has_times)


def listed(sessions: Sessions, table: ClickTable) -> list[list[str]]:
    items = [table.item_ids[code] for code in sessions.items.tolist()]
    return [items[start:stop] for start, stop in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)]


def click_by_click(clicks: list[Click], idle_ms: int) -> list[list[Click]]:
    """The rule as a worker applies it: one click after the other, one open session for each id."""
    begun: list[list[Click]] = []
    latest: dict[str, tuple[list[Click], int]] = {}
    for click in clicks:
        if click.session_id in latest:
            session, last_event_ms = latest[click.session_id]
            if continues_session(last_event_ms, click.timestamp_ms, idle_ms):
                session.append(click)
                latest[click.session_id] = session, max(last_event_ms, click.timestamp_ms)
                continue
        begun.append([click])
        latest[click.session_id] = begun[-1], click.timestamp_ms
    return sorted(begun, key=lambda session: min(click.timestamp_ms for click in session))


def test_pause_of_exactly_the_idle_time_continues_a_session_and_a_longer_one_does_not() -> None:
    assert continues_session(100, 100 + DEFAULT_IDLE_MS, DEFAULT_IDLE_MS)
    assert not continues_session(100, 101 + DEFAULT_IDLE_MS, DEFAULT_IDLE_MS)


@given(clicks=click_lists, minimum_length=st.integers(1, 3))
def test_sessions_of_a_table_are_those_found_click_by_click(clicks: list[Click], minimum_length: int) -> None:
    table = ClickTable.from_clicks(clicks)
    found = sessionise(table, idle_ms=IDLE_MS, minimum_length=minimum_length)
    expected = [session for session in click_by_click(clicks, IDLE_MS) if len(session) >= minimum_length]
    assert listed(found, table) == [[click.item_id for click in session] for session in expected]
    assert found.start_ms.tolist() == [min(click.timestamp_ms for click in session) for session in expected]
    assert found.end_ms.tolist() == [max(click.timestamp_ms for click in session) for session in expected]
    assert len(found) == len(expected)
    assert found.lengths.tolist() == [len(session) for session in expected]


def test_late_click_does_not_turn_the_session_s_clock_back() -> None:
    table = table_of(("a", "x", 100), ("a", "y", 50), ("a", "z", 110))
    assert listed(sessionise(table, idle_ms=10), table) == [["x", "y", "z"]]


def test_times_as_far_apart_as_integers_allow_do_not_mix_sessions_up() -> None:
    far = 2**61
    table = table_of(("a", "x", 0), ("b", "y", far), ("a", "z", far), ("b", "x", 0))
    assert listed(sessionise(table), table) == [["x"], ["y", "x"], ["z"]]


def test_session_ids_alone_make_sessions_where_there_are_no_times() -> None:
    table = table_of(("a", "x", 0), ("b", "y", 10**7), ("a", "z", 10**8), has_times=False)
    assert listed(sessionise(table), table) == [["x", "z"], ["y"]]


def test_clicks_put_into_a_table_come_out_as_they_were() -> None:
    clicks = [Click("a", "x", 5), Click("b", "x", 3), Click("a", "y", 9)]
    table = ClickTable.from_clicks(clicks)
    assert list(table.clicks()) == clicks
    assert len(table) == 3


def test_selected_clicks_keep_their_ids() -> None:
    table = table_of(("a", "x", 5), ("b", "y", 3), ("c", "z", 9), period=[1, 2, 3])
    chosen = table.select(np.array([False, True, True]))
    assert list(chosen.clicks()) == [Click("b", "y", 3), Click("c", "z", 9)]
    assert chosen.period is not None
    assert chosen.period.tolist() == [2, 3]
    assert list(table.slice(1, 9).clicks()) == list(chosen.clicks())


def test_time_order_keeps_the_arrival_order_of_equal_times() -> None:
    table = table_of(("a", "x", 5), ("b", "y", 3), ("c", "z", 5), ("d", "x", 3))
    assert [click.session_id for click in table.in_time_order().clicks()] == ["b", "d", "a", "c"]


@given(clicks=click_lists, newest=st.integers(0, 5))
def test_newest_sessions_are_the_test_and_stay_whole(clicks: list[Click], newest: int) -> None:
    table = ClickTable.from_clicks(clicks)
    train, test = split_table(table, f"sessions:{newest}", idle_ms=IDLE_MS)
    sessions = click_by_click(clicks, IDLE_MS)
    cut = len(sessions) - min(newest, len(sessions))
    assert sorted(train.clicks(), key=repr) == sorted((c for s in sessions[:cut] for c in s), key=repr)
    assert sorted(test.clicks(), key=repr) == sorted((c for s in sessions[cut:] for c in s), key=repr)


def test_sessions_that_start_in_the_last_days_are_the_test_and_stay_whole() -> None:
    newest_ms = 9 * DAY_MS
    crossing = ("a", "x", newest_ms - DAY_MS - 1), ("a", "y", newest_ms - DAY_MS + 1)
    started = ("b", "x", newest_ms - DAY_MS), ("b", "y", newest_ms)
    train, test = split_table(table_of(crossing[0], started[0], crossing[1], started[1]), "days:1", idle_ms=DAY_MS)
    assert list(train.clicks()) == [Click(*click) for click in crossing]
    assert list(test.clicks()) == [Click(*click) for click in started]


def test_clicks_of_a_period_are_the_test_of_all_before_it() -> None:
    table = table_of(("a", "x", 1), ("a", "y", 2), ("b", "x", 3), ("c", "x", 4), period=[0, 1, 2, 3])
    train, test = split_table(table, "period:2")
    assert [click.timestamp_ms for click in train.clicks()] == [1, 2]
    assert [click.timestamp_ms for click in test.clicks()] == [3]


@pytest.mark.parametrize("how", ["days", "days:", "days:x", "weeks:1", "sessions:-1", ""])
def test_unknown_way_to_split_is_refused(how: str) -> None:
    with pytest.raises(ValueError, match="expected days:N, sessions:N or period:P"):
        split_table(table_of(("a", "x", 1)), how)


def test_split_by_what_the_file_lacks_is_refused() -> None:
    table = table_of(("a", "x", 1), has_times=False)
    with pytest.raises(InvalidFileError, match="needs a time column"):
        split_table(table, "days:1")
    with pytest.raises(InvalidFileError, match="needs a column 'period'"):
        split_table(table, "period:1")


def test_empty_table_has_no_sessions_and_splits_into_empty_ones() -> None:
    table = ClickTable.from_clicks([])
    assert len(sessionise(table)) == 0
    for how in ("days:1", "sessions:1"):
        assert [len(part) for part in split_table(table, how)] == [0, 0]


def test_real_click_file_reads_with_its_published_counts(data_file: Callable[[str], Path]) -> None:
    table = read_clicks(data_file("rsc15_100k.parquet"))
    assert (len(table.session_ids), len(table.item_ids), len(table)) == (21_210, 2_933, 83_846)
    assert table.timestamp_ms[0] == 1_396_321_341_719
    assert np.all(np.diff(table.timestamp_ms) >= 0)


def test_test_week_of_a_real_click_file_has_its_published_number_of_cases(data_file: Callable[[str], Path]) -> None:
    table = read_clicks(data_file("diginetica.parquet"))
    _, test = split_table(table, "sessions:15963")
    sessions = sessionise(test)
    assert len(sessions) == 15_963
    assert (sessions.lengths - 1).sum() == 60_858
