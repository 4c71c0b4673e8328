from model.vocabulary import Vocabulary
from stream.new_items import MOST_WAITING, NewItems


def test_an_item_waits_from_its_first_click_until_a_version_knows_it() -> None:
    items, before, after = NewItems(), Vocabulary(["a"]), Vocabulary(["a", "x"])
    items.clicked(["x", "y"], 1_000)
    items.clicked(["x"], 5_000)
    assert items.known(before, 6_000).tolist() == []
    assert items.known(after, 8_500).tolist() == [7.5]
    assert items.known(Vocabulary(["a", "x", "y"]), 9_000).tolist() == [8.0]


def test_an_item_is_waited_for_once() -> None:
    items, versions = NewItems(), [Vocabulary(["x"]), Vocabulary(["x"])]
    items.clicked(["x"], 0)
    assert [items.known(version, 1_000).tolist() for version in versions] == [[1.0], []]


def test_junk_ids_take_no_more_than_their_share_of_memory() -> None:
    items = NewItems()
    items.clicked([f"junk-{number}" for number in range(MOST_WAITING)], 0)
    items.clicked(["late"], 1_000)
    assert items.known(Vocabulary(["late", "junk-0", "junk-7"]), 2_000).tolist() == [2.0, 1.0]
