from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.baselines.popularity import Popularity


def most_clicked(clicks: list[str], k: int) -> list[tuple[str, int]]:
    """`most_common` puts items with equal counts in the order in which they were first seen."""
    return Counter(clicks).most_common(k)


@given(events=st.lists(st.sampled_from("aaabbbcccde") | st.integers(0, 6), max_size=60), k=st.integers(0, 6))
@example(events=["a", "b", 1, "b", "b", "c", "a", "a"], k=1)  # an equal count, but seen earlier
@example(events=["a", "b", 1, "b", "b", "c", 3, "d", "d"], k=3)  # more asked for than before
def test_best_items_are_always_those_of_a_full_count(events: list[str | int], k: int) -> None:
    """A letter is a click, a number asks for that many items in between, so that what is kept up to date is tested."""
    popularity, clicks = Popularity(), []
    for event in [*events, k]:
        if isinstance(event, str):
            popularity.add(event)
            clicks.append(event)
            continue
        items, scores = popularity.top_k(event)
        assert list(zip(items, scores, strict=True)) == most_clicked(clicks, event)
    assert len(popularity) == len(set(clicks))


def test_adding_many_counts_like_adding_one_by_one() -> None:
    popularity = Popularity()
    popularity.add_many(["a", "b", "a", "c", "b", "a"])
    assert popularity.top_k(2) == (["a", "b"], [3.0, 2.0])
    assert popularity.count("a") == 3
    assert popularity.count("never") == 0
    assert popularity.counts(["b", "never", "c"]).tolist() == [2, 0, 1]


def test_item_that_is_first_seen_late_still_rises() -> None:
    popularity = Popularity()
    popularity.add_many(f"item {number}" for number in range(1000))
    assert popularity.top_k(1)[0] == ["item 0"]
    popularity.add_many(["item 999", "late", "late", "late"])
    assert popularity.top_k(3)[0] == ["late", "item 999", "item 0"]


def test_items_that_are_hardly_clicked_make_room_and_the_best_stay() -> None:
    popularity = Popularity(most_items=100)
    assert popularity.top_k(2) == ([], [])
    popularity.add_many(["first", "first", "second", "second", *(f"junk {number}" for number in range(1000))])
    popularity.add_many(["second"])
    assert len(popularity) <= 100
    assert popularity.top_k(2) == (["second", "first"], [3.0, 2.0])


@pytest.mark.parametrize("most_items", [1, 2])
def test_room_for_fewer_items_than_are_asked_for_gives_as_many(most_items: int) -> None:
    popularity = Popularity(most_items)
    popularity.top_k(3)
    popularity.add_many(["a", "a", "b", "c", "b"])
    assert popularity.top_k(3)[0][:2] == ["a", "b"]


@pytest.mark.parametrize("k", [0, 5])
def test_no_clicks_give_no_items(k: int) -> None:
    assert Popularity().top_k(k) == ([], [])
