from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.batches import session_parallel
from model.clicks import Sessions

lengths_lists = st.lists(st.integers(1, 7), max_size=30)
batch_sizes = st.integers(1, 9)


def sessions_of(lengths: list[int]) -> Sessions:
    """Sessions whose items are all different, so that a transition says where it came from."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    nothing = np.zeros(len(lengths), dtype=np.int64)
    return Sessions(np.arange(offsets[-1]) + 1000, offsets, nothing, nothing)


def listed(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.items, sessions.offsets[1:-1])] if len(sessions) else []


@given(lengths=lengths_lists, batch_size=batch_sizes, moments=st.integers(1, 5))
def test_every_transition_occurs_exactly_once(lengths: list[int], batch_size: int, moments: int) -> None:
    sessions = sessions_of(lengths)
    schedule = session_parallel(sessions, batch_size, moments)
    found = [pair for step in schedule for pair in zip(step.inputs.tolist(), step.targets.tolist(), strict=True)]
    expected = [pair for items in listed(sessions) for pair in pairwise(items)]
    assert sorted(found) == expected
    assert schedule.transitions == len(expected)


@given(lengths=lengths_lists, batch_size=batch_sizes)
def test_carried_state_holds_exactly_the_earlier_clicks_of_its_session(lengths: list[int], batch_size: int) -> None:
    """A lane that is reset too often, too seldom or at the wrong step would carry another history."""
    sessions = sessions_of(lengths)
    history = {item: items[: place + 1] for items in listed(sessions) for place, item in enumerate(items)}
    carried: dict[int, list[int]] = {}
    for step in session_parallel(sessions, batch_size):
        for lane, item, reset in zip(step.lanes.tolist(), step.inputs.tolist(), step.resets.tolist(), strict=True):
            if reset:
                carried[lane] = []
            carried[lane].append(item)
            assert carried[lane] == history[item]


@given(lengths=lengths_lists, batch_size=batch_sizes)
def test_lanes_are_distinct_and_all_busy_while_a_session_waits(lengths: list[int], batch_size: int) -> None:
    schedule = session_parallel(sessions_of(lengths), batch_size)
    begun = 0
    for step in schedule:
        assert np.all(np.diff(step.lanes) > 0)
        assert 0 <= step.lanes.min() <= step.lanes.max() < batch_size
        begun += int(step.resets.sum())
        waiting = sum(length > 1 for length in lengths) - begun
        assert len(step.inputs) == batch_size or waiting == 0


@given(lengths=lengths_lists, batch_size=batch_sizes)
def test_steps_only_grow_smaller(lengths: list[int], batch_size: int) -> None:
    sizes = np.diff(session_parallel(sessions_of(lengths), batch_size).offsets)
    assert np.all(np.diff(sizes) <= 0)


@given(lengths=lengths_lists, batch_size=batch_sizes)
def test_sessions_begin_in_their_order(lengths: list[int], batch_size: int) -> None:
    sessions = sessions_of(lengths)
    schedule = session_parallel(sessions, batch_size)
    first_items = [items[0] for items in listed(sessions) if len(items) > 1]
    assert schedule.inputs[schedule.resets].tolist() == first_items


@given(lengths=lengths_lists, batch_size=batch_sizes, moments=st.integers(1, 5), data=st.data())
def test_what_only_leads_up_is_played_and_not_learned(
    lengths: list[int], batch_size: int, moments: int, data: st.DataObject
) -> None:
    sessions = sessions_of(lengths)
    learned = np.array([data.draw(st.booleans()) for _ in sessions.items], dtype=np.bool_)
    wanted = dict(zip(sessions.items.tolist(), learned.tolist(), strict=True))
    whole = session_parallel(sessions, batch_size, moments)
    schedule = session_parallel(sessions, batch_size, moments, learned)
    assert np.array_equal(schedule.targets, whole.targets)
    assert schedule.learned.tolist() == [wanted[item] for item in schedule.targets.tolist()]
    session_of = dict(zip(sessions.items.tolist(), np.repeat(np.arange(len(lengths)), lengths).tolist(), strict=True))
    for step in schedule:
        true = np.array([session_of[item] for item in step.inputs[step.learned].tolist()], dtype=np.int64)
        assert np.array_equal(step.sessions[:, None] == step.sessions, true[:, None] == true)
        assert set(step.sessions.tolist()) == set(range(len(set(true.tolist()))))


def test_fewer_sessions_than_lanes_still_play() -> None:
    schedule = session_parallel(sessions_of([3, 2]), 100)
    assert [step.targets.tolist() for step in schedule] == [[1001, 1004], [1002]]
    assert [step.lanes.tolist() for step in schedule] == [[0, 1], [0]]


def test_sessions_of_one_click_give_no_step() -> None:
    assert len(session_parallel(sessions_of([1, 1]), 4)) == 0


@given(lengths=lengths_lists, batch_size=batch_sizes, moments=st.integers(1, 5))
def test_mini_batches_of_several_moments_are_the_moments_in_order(
    lengths: list[int], batch_size: int, moments: int
) -> None:
    sessions = sessions_of(lengths)
    one_by_one = list(session_parallel(sessions, batch_size))
    found = []
    steps = list(session_parallel(sessions, batch_size, moments))
    assert all(len(step.moments) == moments for step in steps[:-1])
    for step in steps:
        for start, stop in step.moments:
            columns = (step.lanes, step.inputs, step.targets, step.resets)
            found.append([column[start:stop].tolist() for column in columns])
    assert found == [
        [column.tolist() for column in (step.lanes, step.inputs, step.targets, step.resets)] for step in one_by_one
    ]


@given(lengths=lengths_lists, batch_size=batch_sizes, moments=st.integers(1, 5))
def test_transitions_of_a_mini_batch_are_of_one_session_exactly_where_their_items_are(
    lengths: list[int], batch_size: int, moments: int
) -> None:
    sessions = sessions_of(lengths)
    session_of = dict(zip(sessions.items.tolist(), np.repeat(np.arange(len(lengths)), lengths).tolist(), strict=True))
    for step in session_parallel(sessions, batch_size, moments):
        true = np.array([session_of[item] for item in step.inputs.tolist()])
        assert np.array_equal(step.sessions[:, None] == step.sessions, true[:, None] == true)
        assert set(step.sessions.tolist()) == set(range(step.sessions.max() + 1))
