import tracemalloc

import numpy as np
import pytest

from model.clicks import Click
from trainer.window import MOST_BYTES_A_CLICK, Window


def numbered(first: int, count: int) -> list[Click]:
    return [Click(f"s{number // 2}", f"i{number % 7}", number) for number in range(first, first + count)]


def fill(window: Window, count: int, *, at_once: int) -> None:
    for first in range(0, count, at_once):
        window.extend(0, range(first, first + at_once), numbered(first, at_once), first + at_once)


def test_the_newest_clicks_stay_as_they_were_read() -> None:
    window = Window(100)
    fill(window, 1000, at_once=10)
    held = window.snapshot()
    assert list(held.table.clicks()) == numbered(900, 100)
    assert held.offset.tolist() == list(range(900, 1000))
    assert held.partition.tolist() == [0] * 100


def test_the_window_never_holds_more_than_its_capacity_plus_the_slack() -> None:
    window = Window(100)
    held = []
    for first in range(0, 1000, 10):
        window.extend(0, range(first, first + 10), numbered(first, 10), first + 10)
        held.append(len(window._item))
        assert len(window) == min(100, first + 10)
    assert max(held) <= 125


@pytest.mark.parametrize(
    ("clicks_a_session", "items", "bound_bytes"),
    [(8, 500, 125), (1, 10**9, MOST_BYTES_A_CLICK + 1.25 * 2 * 16)],
    ids=["usual", "worst"],
)
@pytest.mark.parametrize("capacity", [8_720, 18_938])  # where the tables of ids have just grown
def test_memory_is_bounded_by_the_capacity_whatever_goes_through(
    capacity: int, clicks_a_session: int, items: int, bound_bytes: float
) -> None:
    window, at_once, most_bytes = Window(capacity), 100, 0
    tracemalloc.start()
    try:
        for first in range(0, 4 * capacity, at_once):
            places = range(first, first + at_once)
            clicks = [Click(f"{at // clicks_a_session:016d}", f"{at % items:016d}", at) for at in places]
            tracemalloc.reset_peak()
            window.extend(0, places, clicks, first + at_once)
            most_bytes = max(most_bytes, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    assert most_bytes <= capacity * bound_bytes


def test_ids_of_forgotten_clicks_are_forgotten_too() -> None:
    window = Window(100)
    fill(window, 100_000, at_once=50)
    assert len(window._session_ids) <= 65
    assert len(window._session_codes) == len(window._session_ids)


def test_a_batch_larger_than_the_window_leaves_its_newest_clicks() -> None:
    window = Window(100)
    fill(window, 1000, at_once=1000)
    assert list(window.snapshot().table.clicks()) == numbered(900, 100)


def test_a_snapshot_stays_as_it_was_when_more_clicks_come() -> None:
    window = Window(100)
    fill(window, 120, at_once=10)
    held = window.snapshot()
    before = list(held.table.clicks())
    window.extend(0, range(120, 620), numbered(120, 500), 620)
    assert list(held.table.clicks()) == before
    assert held.next_offsets == {0: 120}


def test_offsets_go_on_past_records_that_are_no_clicks() -> None:
    window = Window(100)
    window.extend(3, [5, 9], numbered(0, 2), 12)
    window.extend(4, [], [], 7)
    assert window.next_offsets == {3: 12, 4: 7}
    assert window.snapshot().offset.tolist() == [5, 9]
    assert window.clicks_added == 2


def test_an_empty_window_has_an_empty_snapshot() -> None:
    held = Window(100).snapshot()
    assert len(held) == 0
    assert held.table.item.dtype == np.int64
