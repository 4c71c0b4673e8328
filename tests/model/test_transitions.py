import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.clicks import Sessions
from model.transitions import Neighbours, Transitions

ITEMS = 5
PLAYS = st.lists(st.lists(st.integers(-1, ITEMS - 1), min_size=1, max_size=12), min_size=1, max_size=6)


def sessions_of(plays: list[list[int]]) -> Sessions:
    offsets = np.cumsum([0, *map(len, plays)])
    times = np.arange(len(plays))
    return Sessions(items=np.concatenate(plays).astype(np.int64), offsets=offsets, start_ms=times, end_ms=times)


def dense(transitions: Transitions) -> np.ndarray:
    table = np.zeros((transitions.item_count, transitions.item_count))
    first, second, counts = transitions.pairs()
    table[first, second] = counts
    return table


@given(PLAYS)
def test_click_by_click_counts_what_a_whole_file_counts(plays: list[list[int]]) -> None:
    whole, single = Transitions(ITEMS), Transitions(ITEMS)
    whole.add(sessions_of(plays))
    for play in plays:
        for place in range(len(play)):
            single.add(sessions_of([play[: place + 1]]), np.arange(place + 1) == place)
    np.testing.assert_allclose(dense(single), dense(whole), rtol=1e-12)
    np.testing.assert_array_equal(single.clicks, whole.clicks)


@given(PLAYS, PLAYS)
def test_counts_add_up_over_any_grouping_of_the_sessions(first: list[list[int]], second: list[list[int]]) -> None:
    whole, parts = Transitions(ITEMS), Transitions(ITEMS)
    whole.add(sessions_of(first + second))
    parts.add(sessions_of(first))
    parts.add(sessions_of(second))
    np.testing.assert_allclose(dense(parts), dense(whole), rtol=1e-12)


def test_a_pair_counts_less_with_each_click_between() -> None:
    transitions = Transitions(3)
    transitions.add(sessions_of([[0, 1, 2]]))
    np.testing.assert_allclose(dense(transitions), [[0, 1, 0.7], [0, 0, 1], [0, 0, 0]])


def test_neighbours_are_shares_of_the_clicks_and_four_more_in_both_directions() -> None:
    transitions = Transitions(3)
    transitions.add(sessions_of([[0, 1, 2]]))
    neighbours = transitions.neighbours(kept=1)
    assert neighbours.successor_offsets.tolist() == [0, 1, 2, 2]
    assert neighbours.successor_rows.tolist() == [1, 2]
    np.testing.assert_allclose(neighbours.successor_shares, [0.2, 0.2])
    assert neighbours.predecessor_offsets.tolist() == [0, 0, 1, 2]
    assert neighbours.predecessor_rows.tolist() == [0, 1]


def test_decay_makes_older_clicks_worth_less_and_new_items_start_at_nothing() -> None:
    transitions = Transitions(2)
    transitions.add(sessions_of([[0, 1]]))
    transitions.decay(0.5)
    transitions.grow(3)
    transitions.add(sessions_of([[0, 1], [2]]))
    np.testing.assert_allclose(dense(transitions), [[0, 1.5, 0], [0, 0, 0], [0, 0, 0]])
    assert transitions.clicks.tolist() == [1.5, 1.5, 1]
    with pytest.raises(ValueError, match="cannot shrink"):
        transitions.grow(2)


@given(PLAYS)
def test_neighbours_survive_the_way_through_tensors(plays: list[list[int]]) -> None:
    transitions = Transitions(ITEMS)
    transitions.add(sessions_of(plays))
    before = transitions.neighbours().to_tensors()
    after = Neighbours.from_tensors(before).to_tensors()
    assert all(before[name].equal(after[name]) for name in before)


def test_pairs_that_have_faded_are_dropped_and_those_clicked_again_are_not() -> None:
    transitions = Transitions(3)
    transitions.add(sessions_of([[0, 1], [1, 2]]))
    for _ in range(7):
        transitions.decay(0.5)
        transitions.add(sessions_of([[1, 2]]))
    first, second, _ = transitions.pairs()
    assert (first.tolist(), second.tolist()) == ([1], [2])
    assert transitions.neighbours().successor_offsets.tolist() == [0, 0, 1, 1]


def test_damaged_neighbours_are_refused() -> None:
    transitions = Transitions(2)
    transitions.add(sessions_of([[0, 1]]))
    tensors = transitions.neighbours().to_tensors()
    with pytest.raises(ValueError, match="between 0 and 1"):
        Neighbours.from_tensors(tensors | {"successor_rows": tensors["successor_rows"] + 5})
    del tensors["successor_rows"]
    with pytest.raises(ValueError, match="expected the tensors"):
        Neighbours.from_tensors(tensors)
