from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from model.clicks import Click, ClickTable
from model.errors import InvalidFileError
from tests.trainer.click_builders import table_of
from trainer.timeline import Cases, Timeline, by_period, every

HOUR_MS = 3_600_000


def clicks_of(*rows: tuple[str, str, int]) -> ClickTable:
    return table_of(Click(session, item, at) for session, item, at in rows)


def by_column(table: ClickTable, periods: list[int]) -> Timeline:
    return by_period(replace(table, period=np.array(periods)))


def targets(timeline: Timeline, cases: Cases) -> list[str]:
    return [timeline.table.item_ids[code] for code in cases.sessions.items[cases.counted]]


def test_by_period_a_session_ends_with_its_period_and_items_not_met_before_are_passed_over() -> None:
    table = clicks_of(
        ("a", "x", 0), ("a", "y", 1), ("b", "z", 2), ("b", "x", 3), ("a", "z", 4), ("b", "new", 5), ("b", "y", 6),
        ("a", "x", 7), ("b", "z", 8),
    )  # fmt: skip
    timeline = by_column(table, [0, 0, 0, 0, 1, 1, 1, 1, 1])
    cases = timeline.cases(*timeline.bounds(1))
    assert len(timeline) == 1
    assert targets(timeline, cases) == ["x", "z"], "a's x after z, b's z after y: its new item is not there"
    assert cases.session.tolist() == [0, 1]


def test_a_step_cuts_by_time_and_sessions_go_on_over_the_cut() -> None:
    table = clicks_of(
        ("c", "x", 0), ("a", "x", HOUR_MS - 3), ("a", "y", HOUR_MS - 2), ("b", "x", HOUR_MS - 1), ("a", "z", HOUR_MS),
        ("b", "y", HOUR_MS + 1), ("b", "z", 2 * HOUR_MS),
    )  # fmt: skip
    timeline = every(table, "1h", first_clicks=1, idle_ms=HOUR_MS)
    assert timeline.ends.tolist() == [4, 6, 7]
    assert targets(timeline, timeline.cases(*timeline.bounds(1))) == ["z", "y"]
    assert timeline.cases(*timeline.bounds(1)).places.tolist() == [1, 2, 4, 3, 5]
    assert targets(timeline, timeline.cases(*timeline.bounds(2))) == ["z"]
    assert timeline.cases(*timeline.bounds(2)).places.tolist() == [3, 5, 6]


def test_the_first_period_goes_on_until_it_has_enough_to_learn_from() -> None:
    table = clicks_of(*(("a", f"i{number}", number * HOUR_MS // 2) for number in range(10)))
    assert every(table, "1h", first_clicks=5).ends.tolist() == [6, 8, 10]
    assert every(table, "3clicks", first_clicks=5).ends.tolist() == [6, 9, 10]


def test_a_stretch_without_clicks_is_no_period() -> None:
    table = clicks_of(("a", "x", 0), ("a", "y", 1), ("b", "x", 10 * HOUR_MS), ("b", "y", 10 * HOUR_MS + 1))
    assert every(table, "1h", first_clicks=1).ends.tolist() == [2, 4]


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 200)), min_size=2, max_size=60
    ),
    step=st.integers(1, 30),
)
def test_every_click_but_the_first_of_its_session_is_ranked_once_after_all_that_led_up_to_it(
    rows: list[tuple[str, str, int]], step: int
) -> None:
    table = clicks_of(*rows)
    try:
        timeline = every(table, f"{step}clicks", first_clicks=1)
    except InvalidFileError:
        return
    ranked: list[int] = []
    for period in range(1, len(timeline) + 1):
        cases = timeline.cases(*timeline.bounds(period))
        start, end = timeline.ends[period - 1], timeline.ends[period]
        places = cases.places[cases.counted]
        assert ((places >= start) & (places < end)).all()
        assert (cases.places < end).all()
        for place in places.tolist():
            session = timeline.table.session[place]
            at = cases.places.tolist().index(place)
            before = np.flatnonzero(timeline.table.session[:place] == session)
            assert cases.places[at - len(before) : at].tolist() == before.tolist()
        ranked += places.tolist()
    ordered = timeline.table
    first = {session: place for place, session in reversed(list(enumerate(ordered.session.tolist())))}
    later = [place for place in range(timeline.ends[0], len(ordered)) if place != first[int(ordered.session[place])]]
    assert sorted(ranked) == later


@pytest.mark.parametrize("step", ["", "0d", "1", "d", "1.5h", "2weeks", "10 clicks"])
def test_a_step_that_is_none_is_refused_with_examples(step: str) -> None:
    with pytest.raises(ValueError, match="expected a step such as 10m, 1h, 1d or 20000clicks, got"):
        every(clicks_of(("a", "x", 0), ("a", "y", 1)), step, first_clicks=1)


def test_clicks_that_make_one_period_only_are_refused() -> None:
    table = clicks_of(("a", "x", 0), ("a", "y", 1))
    with pytest.raises(InvalidFileError, match="2 clicks make one period, and there must be two"):
        every(table, "1d", first_clicks=1)
    with pytest.raises(InvalidFileError, match="2 clicks make one period, and there must be two"):
        by_column(table, [3, 3])


def test_without_a_column_or_times_the_error_says_what_else_there_is() -> None:
    table = clicks_of(("a", "x", 0), ("a", "y", 0))
    with pytest.raises(InvalidFileError, match="no column 'period' to cut by; use --every 1d, 10m or 20000clicks"):
        by_period(table)
    with pytest.raises(InvalidFileError, match="a step of 1d needs a time column, and there is none"):
        every(replace(table, has_times=False), "1d", first_clicks=1)
