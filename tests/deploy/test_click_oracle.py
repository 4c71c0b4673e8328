import numpy as np
import pytest

from deploy.click_generator import generate_clicks
from deploy.click_oracle import best_possible, likeliest_next, next_click_cases
from deploy.shop import Shop, ShopSettings
from model.clicks import Click, ClickTable

SETTINGS = ShopSettings(items=400, categories=10, blocks=12)


@pytest.fixture(scope="module")
def shop() -> Shop:
    return Shop(SETTINGS, np.random.default_rng(1))


@pytest.fixture(scope="module")
def table(shop: Shop) -> ClickTable:
    return generate_clicks(shop, 60_000, np.random.default_rng(2))


@pytest.mark.parametrize("k", [1, 5, 20, 400])
def test_the_likeliest_are_those_of_the_full_distribution(shop: Shop, table: ClickTable, k: int) -> None:
    item, block, _ = next_click_cases(shop, table)
    item, block = item[::500], block[::500]
    codes, chances = likeliest_next(shop, item, block, k)

    for row, (one_item, one_block) in enumerate(zip(item.tolist(), block.tolist(), strict=True)):
        full = shop.next_chances(one_item, one_block)
        assert chances[row] == pytest.approx(np.sort(full)[::-1][:k], abs=1e-12)
        named = codes[row][codes[row] >= 0]
        assert full[named] == pytest.approx(chances[row][: len(named)], abs=1e-12)
        assert len(set(named.tolist())) == len(named) == min(k, np.count_nonzero(full))


@pytest.mark.parametrize("categories", [1, 40])
def test_they_are_also_when_one_category_holds_all_items_or_few(categories: int) -> None:
    made = Shop(ShopSettings(items=400, categories=categories, blocks=3), np.random.default_rng(3))
    alive = np.flatnonzero(made.attraction[1] > 0)
    _, chances = likeliest_next(made, alive, np.ones_like(alive), 20)
    full = np.array([made.next_chances(item, 1) for item in alive.tolist()])

    assert chances == pytest.approx(np.sort(full, axis=1)[:, ::-1][:, :20], abs=1e-12)


@pytest.mark.parametrize("k", [1, 20])
def test_what_really_came_next_agrees_with_the_stated_recall_and_mrr(shop: Shop, table: ClickTable, k: int) -> None:
    stated = best_possible(shop, table, k)
    item, block, following = next_click_cases(shop, table)
    codes, _ = likeliest_next(shop, item, block, k)
    hits = codes == following[:, None]
    reciprocal = (hits / np.arange(1, k + 1)).sum(axis=1)

    # Each case is a draw in [0, 1] of its own, with deviation at most 0.5. Five deviations of the mean: odds of 1e-6.
    allowed = 5 * 0.5 / np.sqrt(stated.cases)
    assert hits.any(axis=1).mean() == pytest.approx(stated.recall, abs=allowed)
    assert reciprocal.mean() == pytest.approx(stated.mrr, abs=allowed)
    assert allowed < 0.012


def test_popularity_stays_far_below_the_best_possible(shop: Shop, table: ClickTable) -> None:
    _, _, following = next_click_cases(shop, table)
    popular = np.argsort(-np.bincount(table.item, minlength=SETTINGS.items))[:20]

    assert np.isin(following, popular).mean() < 0.45 * best_possible(shop, table, 20).recall


def test_counting_pairs_comes_near_the_best_possible_on_later_clicks(shop: Shop, table: ClickTable) -> None:
    item, block, following = next_click_cases(shop, table)
    is_old = block < 10
    pairs = np.zeros((SETTINGS.items, SETTINGS.items))
    np.add.at(pairs, (item[is_old], following[is_old]), 1)
    guesses = np.argsort(-pairs, axis=1)[:, :20][item[~is_old]]
    recall = (guesses == following[~is_old][:, None]).any(axis=1).mean()
    assert table.period is not None

    assert 0.85 < recall / best_possible(shop, table.select(table.period >= 10), 20).recall < 1.0


def test_certain_habits_can_be_known_for_certain() -> None:
    made = Shop(
        ShopSettings(items=40, categories=4, successors=1, habit=1.0, browse=0.0, evergreen=1.0),
        np.random.default_rng(1),
    )
    table = generate_clicks(made, 1_000, np.random.default_rng(1))

    assert best_possible(made, table, 1).recall == pytest.approx(1.0)
    assert best_possible(made, table, 1).mrr == pytest.approx(1.0)


def test_a_slice_is_judged_by_its_own_next_clicks(shop: Shop, table: ClickTable) -> None:
    part = table.select(np.arange(1_000, 3_000))
    item, block, _ = next_click_cases(shop, part)
    expected = [np.sort(shop.next_chances(*case))[::-1][:20].sum() for case in zip(item, block, strict=True)]

    assert best_possible(shop, part, 20).cases == len(expected) < 2_000
    assert best_possible(shop, part, 20).recall == pytest.approx(np.mean(expected))


def test_a_table_with_other_codes_for_the_same_items_is_judged_alike(shop: Shop, table: ClickTable) -> None:
    part = table.select(np.arange(2_000))

    assert best_possible(shop, ClickTable.from_clicks(part.clicks()), 5) == best_possible(shop, part, 5)


def test_items_of_another_shop_are_refused_by_name(shop: Shop) -> None:
    strange = ClickTable.from_clicks([Click("s-1", "unheard-of", SETTINGS.start_ms)] * 2)

    with pytest.raises(ValueError, match="'unheard-of' is not of this shop"):
        best_possible(shop, strange, 5)


def test_a_table_without_a_second_click_is_refused(shop: Shop) -> None:
    single = ClickTable.from_clicks([Click("s-1", "shoes-0000", SETTINGS.start_ms)])

    with pytest.raises(ValueError, match="nothing to predict"):
        best_possible(shop, single, 5)


@pytest.mark.parametrize("k", [0, 401])
def test_a_length_outside_the_shop_is_refused(shop: Shop, table: ClickTable, k: int) -> None:
    with pytest.raises(ValueError, match="k must be from 1 to the shop's 400 items"):
        best_possible(shop, table, k)
