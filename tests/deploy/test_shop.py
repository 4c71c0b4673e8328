import numpy as np
import pytest

from deploy.shop import Shop, ShopSettings


def shop(**settings: float) -> Shop:
    return Shop(ShopSettings(**{"items": 300, "categories": 10, "blocks": 20, **settings}), np.random.default_rng(1))  # type: ignore[arg-type]


def test_successors_are_different_items_of_the_same_category() -> None:
    made = shop()
    own = np.arange(300)[:, None]

    assert (made.category[made.successors] == made.category[:, None]).all()
    assert (made.successors != own).all()
    assert all(len(set(row)) == 5 for row in made.successors.tolist())


def test_habits_lead_mostly_to_items_that_are_alive_with_the_item() -> None:
    made = shop()
    first, end = made.alive_blocks[made.successors].transpose(2, 0, 1)
    own_first, own_end = made.alive_blocks[:, 0, None], made.alive_blocks[:, 1, None]
    shared = np.maximum(np.minimum(end, own_end) - np.maximum(first, own_first), 0)

    assert (shared / (own_end - own_first)).mean() > 0.85


def test_the_chances_of_what_comes_next_sum_to_one_and_leave_out_the_dead() -> None:
    made = shop()
    for block in (0, 19):
        alive = np.flatnonzero(made.attraction[block] > 0)
        chances = np.array([made.next_chances(item, block) for item in alive.tolist()])

        assert chances.sum(axis=1) == pytest.approx(np.ones(len(alive)))
        assert (chances >= 0).all()
        assert (chances[:, made.attraction[block] == 0] == 0).all()


def test_an_item_attracts_exactly_while_it_is_alive() -> None:
    made = shop()
    block = np.arange(20)[:, None]
    alive = (block >= made.alive_blocks[:, 0]) & (block < made.alive_blocks[:, 1])

    assert ((made.attraction > 0) == alive).all()
    assert (made.alive_blocks[:, 1] > made.alive_blocks[:, 0]).all()


def test_an_item_fades_after_its_best() -> None:
    made = shop(blocks=60)
    passing = np.flatnonzero((made.alive_blocks[:, 0] > 0) & (made.alive_blocks[:, 1] < 60))
    assert len(passing) > 50
    for item in passing.tolist():
        course = made.attraction[slice(*made.alive_blocks[item]), item]
        best = int(course.argmax())

        assert best <= 0.2 * len(course)
        assert (np.diff(course[best:]) <= 0).all()
        assert course[-1] < 0.5 * course[best]


def test_attraction_follows_zipf_inside_a_category() -> None:
    made = shop(evergreen=1.0, zipf=1.0)
    first_category = np.sort(made.attraction[0, made.category == 0])[::-1]

    assert first_category == pytest.approx(first_category[0] / np.arange(1, 31))


def test_no_category_is_ever_empty_even_without_evergreens() -> None:
    made = shop(evergreen=0.0)

    assert (np.add.reduceat(made.attraction, made.category_start[:-1], axis=1) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blocks": 0}, "at least 1"),
        ({"items": 60, "categories": 10, "successors": 6}, "more items than an item has successors"),
        ({"habit": 0.8, "browse": 0.3}, "sum to at most 1"),
        ({"habit": -0.1}, "chances"),
        ({"evergreen": 1.1}, "evergreen is a share"),
        ({"mean_length": 0.5}, "mean_length at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShopSettings(**settings)  # type: ignore[arg-type]
