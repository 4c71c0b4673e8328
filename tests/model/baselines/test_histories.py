import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.baselines.histories import Histories, spans, starts_of

RAGGED = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)


def lists_of(histories: Histories) -> list[list[int]]:
    return [part.tolist() for part in np.split(histories.rows, histories.offsets[1:-1])][: len(histories)]


@given(clicks=RAGGED, most=st.integers(0, 7))
def test_ragged_histories_are_the_lists_they_were_made_of(clicks: list[list[int]], most: int) -> None:
    histories = Histories.of(clicks)
    assert lists_of(histories) == clicks
    assert histories.lengths.tolist() == [len(history) for history in clicks]
    assert histories.owners.tolist() == [place for place, history in enumerate(clicks) for _ in history]
    assert histories.ages.tolist() == [age for history in clicks for age in reversed(range(len(history)))]
    assert lists_of(histories.latest(most)) == [history[max(0, len(history) - most) :] for history in clicks]


@given(clicks=RAGGED, data=st.data())
def test_selected_histories_keep_the_order_asked_for(clicks: list[list[int]], data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, len(clicks) - 1), max_size=5)) if clicks else []
    histories = Histories.of(clicks, users=range(len(clicks)))
    chosen = histories.select(np.array(places, dtype=np.int64))
    assert lists_of(chosen) == [clicks[place] for place in places]
    assert chosen.users is not None
    assert chosen.users.tolist() == places


@given(clicks=RAGGED, size=st.integers(1, 4))
def test_blocks_are_the_histories_in_order(clicks: list[list[int]], size: int) -> None:
    blocks = list(Histories.of(clicks).blocks(size))
    assert [history for block in blocks for history in lists_of(block)] == clicks
    assert all(len(block) <= size for block in blocks)


@given(clicks=RAGGED)
def test_padding_stands_behind_each_history(clicks: list[list[int]]) -> None:
    rows, is_row = Histories.of(clicks).padded()
    longest = max(map(len, clicks), default=0)
    assert rows.tolist() == [history + [0] * (longest - len(history)) for history in clicks]
    assert is_row.tolist() == [[place < len(history) for place in range(longest)] for history in clicks]


def test_spans_are_places_one_after_the_other() -> None:
    starts, lengths = np.array([5, 0, 7, 2]), np.array([2, 0, 1, 3])
    assert spans(starts, lengths).tolist() == [5, 6, 7, 2, 3, 4]
    assert starts_of(lengths).tolist() == [0, 2, 2, 3, 6]
