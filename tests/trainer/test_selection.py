from collections import Counter
from collections.abc import Mapping

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.clicks import DEFAULT_IDLE_MS, Click
from tests.trainer.click_builders import MINUTE_MS, add_clicks, cyclic_clicks, window_of
from trainer.selection import Lesson, Selection, select, unread
from trainer.window import Window, WindowClicks


def chosen(
    window: WindowClicks,
    until: Mapping[int, int],
    *,
    misleading: NDArray[np.bool_] | None = None,
    holdout: float = 0.25,
    replay: float = 0.0,
    seed: int = 0,
) -> Selection:
    return select(
        window,
        until,
        misleading=misleading,
        holdout_share=holdout,
        replay_share=replay,
        idle_ms=DEFAULT_IDLE_MS,
        generator=np.random.default_rng(seed),
    )


def places(item_ids: list[str]) -> list[tuple[int, int, int]]:
    """Read partition, offset and time back from the ids of `labelled_window`."""
    return [(int(p), int(o), int(t)) for p, o, t in (item_id.split(":") for item_id in item_ids)]


def labelled_window(clicks: list[tuple[int, int, int]]) -> Window:
    """Return a window of clicks (partition, session, time) whose item ids say where they stand."""
    window = Window(10_000)
    ends: dict[int, int] = {}
    for partition, session, time_ms in clicks:
        offset = ends.get(partition, 0)
        click = Click(f"p{partition}-s{session}", f"{partition}:{offset}:{time_ms}", time_ms)
        window.extend(partition, [offset], [click], offset + 1)
        ends[partition] = offset + 1
    return window


def trained_on(selection: Selection) -> list[tuple[int, int, int]]:
    return learned(selection, selection.training)


def learned(selection: Selection, lesson: Lesson) -> list[tuple[int, int, int]]:
    return places([selection.item_ids[code] for code in lesson.sessions.items[lesson.learned]])


def played(selection: Selection, lesson: Lesson) -> list[tuple[int, int, int]]:
    return places([selection.item_ids[code] for code in lesson.sessions.items])


def held_out(selection: Selection) -> list[tuple[int, int, int]]:
    return places([selection.item_ids[code] for code in selection.held_out.items[selection.counted]])


@settings(max_examples=100)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 50 * MINUTE_MS)), max_size=60),
    until=st.dictionaries(st.integers(0, 3), st.integers(0, 25)),
    holdout=st.floats(0.05, 0.9),
    replay=st.floats(0, 2),
)
def test_held_out_clicks_are_newer_than_all_training_clicks_and_unseen_by_candidate_and_incumbent(
    clicks: list[tuple[int, int, int]], until: dict[int, int], holdout: float, replay: float
) -> None:
    selection = chosen(labelled_window(clicks).snapshot(), until, holdout=holdout, replay=replay)
    ends = {partition: sum(p == partition for p, _, _ in clicks) for partition in range(3)}
    trained, held = trained_on(selection), held_out(selection)
    new = [(p, o, t) for p, o, t in trained if not until.get(p, 0) > o or until[p] > ends[p]]
    for _, _, time_ms in held:
        assert all(time_ms > older_ms for _, _, older_ms in new)
    assert len(new) == selection.new_clicks
    for partition, offset, _ in trained:
        assert offset < selection.trained_until[partition]
    for partition, offset, _ in held:
        assert offset >= selection.trained_until[partition]
        seen = until.get(partition, 0)
        assert offset >= seen or seen > ends[partition]
    assert selection.replayed_clicks + selection.new_clicks == len(trained)


def test_the_newest_share_of_the_new_clicks_is_held_out() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100)).snapshot()
    selection = chosen(window, {}, holdout=0.25)
    first_clicks_of_a_session = 200 // 8
    assert selection.new_clicks == 600
    assert int(selection.counted.sum()) == 200 - first_clicks_of_a_session


def test_the_next_round_trains_on_what_this_one_did_not_reach() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100))
    first = chosen(window.snapshot(), {})
    assert int(first.rest.learned.sum()) == 200
    add_clicks(window, cyclic_clicks("ABC", sessions=100, start_ms=100 * MINUTE_MS))
    assert chosen(window.snapshot(), first.trained_until).new_clicks == (1600 - 600) * 3 // 4
    assert chosen(window.snapshot(), first.read_until).new_clicks == 800 * 3 // 4


def test_a_refused_round_loses_no_click() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100))
    add_clicks(window, cyclic_clicks("ABC", sessions=100, start_ms=100 * MINUTE_MS))
    assert chosen(window.snapshot(), {}).new_clicks == 1200


def test_earlier_clicks_of_a_held_out_session_lead_up_to_its_cases() -> None:
    clicks = [(0, 1, step * 1000) for step in range(10)]
    selection = chosen(labelled_window(clicks).snapshot(), {}, holdout=0.2)
    assert [offset for _, offset, _ in places([selection.item_ids[code] for code in selection.held_out.items])] == list(
        range(10)
    )
    assert [offset for _, offset, _ in held_out(selection)] == [8, 9]
    assert [offset for _, offset, _ in trained_on(selection)] == list(range(8))


def test_a_click_with_a_wrong_clock_costs_at_most_itself() -> None:
    in_order = [(0, step // 4, step * 1000) for step in range(100)]
    fast = [*in_order[:40], (0, 99, 10**9), *in_order[40:]]
    late = [*in_order[:90], (0, 1, 5_000), *in_order[90:]]
    right = chosen(labelled_window(in_order).snapshot(), {}, holdout=0.2)
    for clicks in (fast, late):
        selection = chosen(labelled_window(clicks).snapshot(), {}, holdout=0.2)
        assert abs(selection.new_clicks - right.new_clicks) <= 2
        assert abs(len(held_out(selection)) - len(held_out(right))) <= 2
        assert abs(selection.trained_until[0] - right.trained_until[0]) <= 2


def test_replay_takes_whole_older_sessions_up_to_its_share() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=200), partitions=1).snapshot()
    until = {0: 1200}
    none, some = chosen(window, until, replay=0.0), chosen(window, until, replay=0.5)
    assert none.replayed_clicks == 0
    assert some.new_clicks == none.new_clicks == 300
    assert some.replayed_clicks == 144  # 18 sessions of 8; a 19th would pass 150
    assert set(some.training.sessions.lengths.tolist()) <= {8, 4}, (
        "whole sessions, and the one that the cut goes through"
    )


def test_other_randomness_replays_other_sessions() -> None:
    window = labelled_window([(0, step // 4, step * 1000) for step in range(400)]).snapshot()
    once, again, other = (chosen(window, {0: 200}, replay=0.3, seed=seed) for seed in (1, 1, 2))
    assert trained_on(once) == trained_on(again)
    assert trained_on(once) != trained_on(other)


def test_a_session_that_goes_on_keeps_its_earlier_clicks_without_learning_them_again() -> None:
    clicks = [(0, session, session * 10_000 + step) for session in range(2) for step in range(6)]
    selection = chosen(labelled_window(clicks).snapshot(), {0: 2}, holdout=0.5)
    assert [offset for _, offset, _ in played(selection, selection.training)] == [0, 1, 2, 3, 4, 5]
    assert [offset for _, offset, _ in trained_on(selection)] == [2, 3, 4, 5]
    assert np.array_equal(selection.training.is_new, selection.training.learned)
    assert selection.new_clicks == 4


def test_of_a_long_session_only_the_clicks_that_serving_would_play_again_lead_up_to_the_new_ones() -> None:
    clicks = [(0, 1, step * 1000) for step in range(100)]
    selection = chosen(labelled_window(clicks).snapshot(), {0: 60}, holdout=0.25)
    assert [offset for _, offset, _ in played(selection, selection.training)] == list(range(40, 90))
    assert [offset for _, offset, _ in trained_on(selection)] == list(range(60, 90))
    assert [offset for _, offset, _ in played(selection, selection.rest)] == list(range(70, 100))
    assert [offset for _, offset, _ in learned(selection, selection.rest)] == list(range(90, 100))


@settings(max_examples=100)
@given(
    clicks=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 50 * MINUTE_MS)), max_size=60),
    rounds=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    holdout=st.floats(0.05, 0.9),
)
def test_over_many_rounds_every_click_is_learned_at_most_once_and_in_order_every_one_that_has_a_neighbour(
    clicks: list[tuple[int, int, int]], rounds: list[int], holdout: float
) -> None:
    """A click is learned alone where its session has another click by the end of its round."""
    in_order = sorted(clicks, key=lambda click: click[2])
    times_learned: Counter[tuple[int, int, int]] = Counter()
    until: dict[int, int] = {}
    for end in [*np.cumsum(rounds).tolist(), len(in_order)]:
        selection = chosen(labelled_window(in_order[:end]).snapshot(), until, holdout=holdout)
        times_learned.update(trained_on(selection) + learned(selection, selection.rest))
        until = selection.read_until
    assert set(times_learned.values()) <= {1}
    whole = chosen(labelled_window(in_order).snapshot(), {}, holdout=holdout)
    followers = set(trained_on(whole) + learned(whole, whole.rest))
    of_session: dict[tuple[int, int], list[int]] = {}
    for (partition, session, time_ms), place in zip(in_order, places_of(in_order), strict=True):
        goes_on = of_session.get((partition, session), [])
        if goes_on and time_ms - goes_on[-1] <= DEFAULT_IDLE_MS:
            assert times_learned[(*place, time_ms)] == 1, (
                "it follows a click of its session, so its round could learn it"
            )
            assert (*place, time_ms) in followers
        of_session.setdefault((partition, session), []).append(time_ms)


def places_of(clicks: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    ends: Counter[int] = Counter()
    found = []
    for partition, _, _ in clicks:
        found.append((partition, ends[partition]))
        ends[partition] += 1
    return found


def test_a_partition_that_became_shorter_counts_as_unseen() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100), partitions=1).snapshot()
    assert chosen(window, {0: 10**6}).new_clicks == 600


def test_a_partition_without_clicks_keeps_what_the_incumbent_has_seen() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100), partitions=1).snapshot()
    assert chosen(window, {0: 5, 7: 42}).trained_until[7] == 42


@settings(max_examples=100)
@given(
    clicks=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(0, 50 * MINUTE_MS), st.booleans()), max_size=60
    ),
    until=st.dictionaries(st.integers(0, 1), st.integers(0, 25)),
    holdout=st.floats(0.05, 0.9),
    replay=st.floats(0, 2),
)
def test_misleading_clicks_are_neither_learned_nor_held_out_nor_replayed_nor_counted(
    clicks: list[tuple[int, int, int, bool]], until: dict[int, int], holdout: float, replay: float
) -> None:
    window = labelled_window([click[:3] for click in clicks]).snapshot()
    misleading = np.array([click[3] for click in clicks], dtype=np.bool_)
    left_out = {(int(window.partition[place]), int(window.offset[place])) for place in np.flatnonzero(misleading)}
    selection = chosen(window, until, misleading=misleading, holdout=holdout, replay=replay)
    counted = unread(window, until, DEFAULT_IDLE_MS, misleading)
    used = (
        trained_on(selection) + learned(selection, selection.rest) + held_out(selection) + learned(selection, counted)
    )
    assert not left_out & {(partition, offset) for partition, offset, _ in used}


def test_misleading_clicks_lead_up_to_those_that_go_on_from_them() -> None:
    clicks = [(0, 1, step * 1000) for step in range(10)]
    misleading = np.arange(10) < 4
    selection = chosen(labelled_window(clicks).snapshot(), {}, misleading=misleading, holdout=0.34)
    assert [offset for _, offset, _ in played(selection, selection.training)] == list(range(8))
    assert [offset for _, offset, _ in trained_on(selection)] == [4, 5, 6, 7]
    assert [offset for _, offset, _ in learned(selection, selection.rest)] == [8, 9]
    assert selection.new_clicks == 4


def test_nothing_new_selects_nothing() -> None:
    window = window_of(cyclic_clicks("ABC", sessions=100), partitions=1).snapshot()
    selection = chosen(window, {0: 800}, replay=1.0)
    assert (selection.new_clicks, selection.replayed_clicks, int(selection.counted.sum())) == (0, 0, 0)
    assert selection.trained_until == {0: 800}


def test_an_empty_window_selects_nothing() -> None:
    assert chosen(Window(100).snapshot(), {}).new_clicks == 0


def test_of_many_clicks_no_more_are_held_out_than_asked() -> None:
    window = labelled_window([(0, session, session * MINUTE_MS + place) for session in range(50) for place in range(4)])
    selection = select(
        window.snapshot(),
        {},
        holdout_share=0.5,
        holdout_clicks=20,
        replay_share=0.0,
        idle_ms=DEFAULT_IDLE_MS,
        generator=np.random.default_rng(0),
    )
    assert selection.new_clicks == 180
    assert len(learned(selection, selection.rest)) == 20


def test_two_lessons_make_one_with_the_sessions_of_both() -> None:
    clicks = [(0, session, session * MINUTE_MS + place) for session in range(8) for place in range(3)]
    selection = chosen(labelled_window(clicks).snapshot(), {})
    whole = selection.training.followed_by(selection.rest)
    assert learned(selection, whole) == trained_on(selection) + learned(selection, selection.rest)
    assert len(whole.sessions) == len(selection.training.sessions) + len(selection.rest.sessions)
    assert whole.sessions.offsets[-1] == len(whole.sessions.items) == len(whole.learned) == len(whole.is_new)
