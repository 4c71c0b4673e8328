from pathlib import Path

import pytest

from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer.protocols import Protocol
from trainer.settings import TrainerSettings
from trainer.tune import tune

ITEMS = [f"item-{number}" for number in range(12)]
CLICKS = Protocol(
    table_of(cyclic_clicks(ITEMS, sessions=60)),
    table_of(cyclic_clicks(ITEMS, sessions=12, start_ms=10**10)),
    last_only=False,
)
WEAK = SMALL.model_copy(update={"epochs_first": 2, "learning_rate": 0.02})


def test_the_first_trial_is_the_settings_as_they_are(tmp_path: Path) -> None:
    tuned = tune(CLICKS, WEAK, trials=1, journal=tmp_path / "j")
    assert tuned.trials == 1
    assert TrainerSettings.model_validate(WEAK.model_dump() | tuned.settings) == WEAK


def test_what_is_found_is_at_least_as_good_as_the_start_and_can_be_trained_with(tmp_path: Path) -> None:
    seen: list[float] = []
    tuned = tune(CLICKS, WEAK, trials=4, journal=tmp_path / "j", on_trial=lambda _trial, best: seen.append(best))
    assert len(seen) == 4
    assert seen == sorted(seen)
    assert tuned.metrics["recall@20"] + tuned.metrics["mrr@20"] == pytest.approx(seen[-1])
    TrainerSettings.model_validate(tuned.settings)


def test_a_search_goes_on_where_an_earlier_one_stopped(tmp_path: Path) -> None:
    numbers: list[int] = []
    for _ in range(2):
        tuned = tune(
            CLICKS,
            WEAK,
            trials=2,
            journal=tmp_path / "j",
            on_trial=lambda trial, _best: numbers.append(trial),
        )
    assert numbers == [0, 1, 2, 3]
    assert tuned.trials == 4
