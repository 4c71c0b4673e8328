from pathlib import Path

import numpy as np
import pytest

from model.clicks import ClickTable
from model.registry import Registry
from tests.trainer.click_builders import MINUTE_MS, SMALL, cyclic_clicks, table_of
from trainer.simulate import Row, Simulation, simulate
from trainer.timeline import Timeline, by_period, every

ITEMS = [f"item-{number}" for number in range(24)]
DAY_MS = 86_400_000


def rows_of(
    timeline: Timeline, methods: list[str], folder: Path, told: list[dict[str, Row]] | None = None
) -> dict[str, Row]:
    simulation = Simulation(timeline, SMALL)
    rows = simulate(
        simulation, methods, Registry(str(folder)), on_period=lambda rows: told.append(dict(rows)) if told else None
    )
    return {row["method"]: row for row in rows}


def turning() -> ClickTable:
    """A day of going round, then three of going round the other way, with an item more from the second of them on."""
    back = ITEMS[::-1]
    days = [(ITEMS, 0), (back, 1), ([*back, "new"], 2), ([*back, "new"], 3)]
    return table_of(click for items, day in days for click in cyclic_clicks(items, sessions=120, start_ms=day * DAY_MS))


def test_what_goes_on_learning_follows_a_turn_of_taste_and_what_does_not_stays_behind(tmp_path: Path) -> None:
    table = table_of([*cyclic_clicks(ITEMS, sessions=200), *cyclic_clicks(ITEMS[::-1], sessions=400, start_ms=DAY_MS)])
    timeline = every(table, "1600clicks", first_clicks=100)
    rows = rows_of(timeline, ["never", "retrain", "plain", "ours", "popularity", "item-knn"], tmp_path)
    assert set(rows) == {
        "never", "never-network", "retrain", "retrain-network", "plain", "ours", "ours-network", "popularity",
        "item-knn",
    }  # fmt: skip
    last = {name: row["periods"][-1]["mrr@20"] for name, row in rows.items()}
    assert last["never-network"] < 0.5
    assert min(last["plain"], last["ours"], last["ours-network"]) > 0.9
    assert rows["ours"]["rounds"] == {"published": 2}
    for row in rows.values():
        assert row["cases"] == sum(period["cases"] for period in row["periods"]) == 400 * 7
        assert row["seconds"] == pytest.approx(sum(period["seconds"] for period in row["periods"]), abs=0.01)
        assert [period["period"] for period in row["periods"]] == [1, 2]


def test_an_item_is_new_until_what_answers_has_learned_it(tmp_path: Path) -> None:
    rows = rows_of(every(turning(), "1d", first_clicks=100), ["never", "ours"], tmp_path)
    shown = sum(click.item_id == "new" for click in cyclic_clicks([*ITEMS, "new"], sessions=120)[1:])
    never, ours = rows["never"]["new_items"], rows["ours"]["new_items"]
    assert never["cases"] > 1.8 * ours["cases"] > 0.9 * shown
    assert never["recall@20"] == ours["recall@20"] == 0.0, "no version knows them"


def test_recall_is_told_by_the_age_of_what_was_learned_last(tmp_path: Path) -> None:
    table = table_of(cyclic_clicks(ITEMS, sessions=400))
    row = rows_of(every(table, "30m", first_clicks=1000), ["ours"], tmp_path)["ours"]
    ages = {age["upto_s"]: age["cases"] for age in row["by_age"]}
    assert set(ages) == {60, 600, 3600}, "every half hour something was learned"
    assert sum(ages.values()) == row["cases"]
    assert ages[60] < ages[600] < ages[3600]


def test_of_periods_that_stand_alone_each_counts_the_same(tmp_path: Path) -> None:
    table = turning()
    days = np.minimum(table.timestamp_ms // DAY_MS, 2)
    timeline = by_period(ClickTable(**{**vars(table), "period": days}))
    told: list[dict[str, Row]] = [{}]
    row = rows_of(timeline, ["item-knn"], tmp_path, told)["item-knn"]
    assert row["recall@20"] == pytest.approx(np.mean([period["recall@20"] for period in row["periods"]]))
    assert [period["item-knn"] for period in told[1:]] == row["periods"]


def test_before_a_first_version_nothing_is_ranked_well(tmp_path: Path) -> None:
    timeline = every(table_of(cyclic_clicks(ITEMS, sessions=200)), "30clicks", first_clicks=30)
    row = rows_of(timeline, ["ours"], tmp_path)["ours"]
    assert row["periods"][0]["recall@20"] == 0.0
    assert row["rounds"]["skipped: too-few-clicks"] >= 1
    assert row["periods"][-1]["recall@20"] == 1.0


def test_time_goes_on_with_periods_where_clicks_have_none() -> None:
    table = table_of(cyclic_clicks(ITEMS, sessions=20))
    timeline = every(ClickTable(**{**vars(table), "has_times": False}), "40clicks", first_clicks=1)
    simulation = Simulation(timeline, SMALL, period_days=7)
    assert simulation.now_ms(80) - simulation.now_ms(40) == 7 * DAY_MS
    assert simulation.now_ms(80) > MINUTE_MS
