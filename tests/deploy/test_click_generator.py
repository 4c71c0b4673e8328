import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.click_generator import generate_clicks
from deploy.shop import Shop, ShopSettings
from model.clicks import ClickTable, sessionise

HOUR_MS = 60 * 60 * 1000


def shop(seed: int = 1, **settings: float) -> Shop:
    return Shop(ShopSettings(**{"items": 200, "categories": 8, "blocks": 12, **settings}), np.random.default_rng(seed))  # type: ignore[arg-type]


def visit(made: Shop, clicks: int = 20_000, seed: int = 2) -> ClickTable:
    return generate_clicks(made, clicks, np.random.default_rng(seed))


def columns(table: ClickTable) -> list[list[int]]:
    assert table.period is not None
    return [column.tolist() for column in (table.session, table.item, table.timestamp_ms, table.period)]


def transitions(table: ClickTable) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return item, block and next item of every click that has a next one."""
    assert table.period is not None
    order = np.argsort(table.session, kind="stable")
    session, item, block = table.session[order], table.item[order], table.period[order]
    same = session[1:] == session[:-1]
    return item[:-1][same], block[:-1][same], item[1:][same]


def test_one_seed_gives_one_shop_and_one_table_and_another_seed_another() -> None:
    assert columns(visit(shop())) == columns(visit(shop()))
    assert columns(visit(shop())) != columns(visit(shop(), seed=3))
    assert columns(visit(shop())) != columns(visit(shop(seed=3)))


@pytest.mark.parametrize("clicks", [1, 2, 17, 5_000])
def test_there_are_exactly_as_many_clicks_as_asked_for(clicks: int) -> None:
    assert len(visit(shop(), clicks)) == clicks


def test_no_clicks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 click"):
        visit(shop(), 0)


def test_clicks_come_by_time_with_visits_interleaved() -> None:
    table = visit(shop())
    switches = np.count_nonzero(np.diff(table.session))

    assert (np.diff(table.timestamp_ms) >= 0).all()
    assert switches > 0.9 * len(table)


def test_sessions_are_numbered_by_their_begin_and_ids_are_readable() -> None:
    table = visit(shop())
    _, first = np.unique(table.session, return_index=True)

    assert (np.diff(first) > 0).all()
    assert table.session_ids[123] == "s-000123"
    assert table.item_ids[0] == "shoes-0000"
    assert len(set(table.item_ids)) == len(table.item_ids) == 200


def test_ids_stay_different_when_there_are_more_categories_than_names() -> None:
    made = shop(items=700, categories=70)

    assert len(set(made.item_ids)) == 700
    assert made.item_ids[300] == "shoes2-0000"


def test_every_session_is_one_for_the_rule_that_cuts_them() -> None:
    table = visit(shop())
    sessions = sessionise(table)

    assert len(sessions) == len(table.session_ids)
    assert sessions.lengths.max() <= 50


def test_sessions_are_about_as_long_as_asked_for() -> None:
    lengths = sessionise(visit(shop(), 50_000)).lengths

    # A geometric length of mean 5 has deviation 4.5; 10,000 of them miss by more than 0.2 with odds below 1e-5.
    assert lengths.mean() == pytest.approx(5.0, abs=0.2)
    assert np.mean(lengths == 1) == pytest.approx(0.2, abs=0.02)


def test_no_item_is_clicked_outside_its_life() -> None:
    made = shop()
    table = visit(made)
    begin_ms, end_ms = made.life_ms[table.item].T

    assert (table.timestamp_ms >= begin_ms).all()
    assert (table.timestamp_ms < end_ms).all()


def test_items_appear_and_are_gone_while_time_passes() -> None:
    made = shop()
    table = visit(made)
    assert table.period is not None
    early, late = (set(table.item[table.period == block].tolist()) for block in (0, 11))

    assert len(late - early) > 10
    assert len(early - late) > 10


@pytest.mark.parametrize("mean_gap_ms", [0.0, 30_000.0, 3_000_000.0])
def test_a_visit_stays_in_the_block_in_which_it_began(mean_gap_ms: float) -> None:
    made = shop(mean_gap_ms=mean_gap_ms)
    table = visit(made)
    assert table.period is not None
    blocks_of = {(session, block) for session, block in zip(*columns(table)[::3], strict=True)}

    assert len(blocks_of) == len(table.session_ids)
    assert made.block_of(table.timestamp_ms).tolist() == table.period.tolist()


def test_next_clicks_follow_the_stated_chances() -> None:
    made = shop(items=12, categories=2, successors=3, blocks=1)
    item, _, following = transitions(visit(made, 200_000))
    counts = np.zeros((12, 12))
    np.add.at(counts, (item, following), 1)
    chances = np.array([made.next_chances(code, 0) for code in range(12)])
    expected = counts.sum(axis=1, keepdims=True) * chances

    # Chi-square with 12 * 11 degrees of freedom: mean 132, deviation 16; above 250 with odds below 1e-8.
    assert (counts[expected == 0] == 0).all()
    assert (((counts - expected) ** 2)[expected > 0] / expected[expected > 0]).sum() < 250


def test_first_clicks_follow_the_attraction_of_their_block() -> None:
    made = shop(items=24, categories=4, successors=2, blocks=2, block_ms=HOUR_MS)
    table = visit(made, 100_000)
    assert table.period is not None
    _, first = np.unique(table.session, return_index=True)
    counts = np.zeros((2, 24))
    np.add.at(counts, (table.period[first], table.item[first]), 1)
    shares = made.attraction / made.attraction.sum(axis=1, keepdims=True)
    expected = counts.sum(axis=1, keepdims=True) * shares

    # At most 46 degrees of freedom: mean 46, deviation 10; above 120 with odds below 1e-7.
    assert (counts[expected == 0] == 0).all()
    assert (((counts - expected) ** 2)[expected > 0] / expected[expected > 0]).sum() < 120
