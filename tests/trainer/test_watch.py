import numpy as np
import pytest
from numpy.typing import NDArray

from tests.trainer.click_builders import MINUTE_MS, SMALL, cyclic_clicks, window_of
from trainer.settings import TrainerSettings
from trainer.watch import MOST_CASES, LiveCases, cases_of, compared, live_cases, newest_look

ITEMS = [f"item-{number}" for number in range(24)]
SETTINGS = SMALL.model_copy(update={"rollback_cases": 500, "rollback_confidence": 0.9, "rollback_margin": 0.0})
LOOKS = 5


def live(until: dict[int, int], *, sessions: int = 100, partitions: int = 2) -> LiveCases:
    window = window_of(cyclic_clicks(ITEMS, sessions=sessions), partitions=partitions, capacity=100_000)
    return live_cases(window.snapshot(), until, SETTINGS)


def test_live_cases_are_the_next_clicks_that_were_not_learned_with_what_leads_up_to_them() -> None:
    assert len(live({})) == 100 * 7
    some = live({0: 28}, partitions=1)
    assert len(some) == 4 + 96 * 7, "half of the fourth session was learned"
    assert some.sessions.lengths[0] == 8
    assert some.counted[:8].tolist() == [False] * 4 + [True] * 4
    assert some.item_ids == ITEMS


def test_the_first_cases_are_those_of_the_first_sessions() -> None:
    everything = live({})
    first = everything.first(50)
    assert len(first) == 56, "whole sessions"
    assert first.sessions.start_ms.tolist() == [session * MINUTE_MS for session in range(8)]
    assert np.array_equal(first.sessions.items, everything.sessions.items[:64])
    assert first.counted.sum() == 56
    assert len(everything.first(700)) == 700


def test_a_look_ranks_the_newest_of_its_own_cases_where_they_are_many() -> None:
    everything = live({}, sessions=3000)
    newest = everything.first(14_000)
    assert MOST_CASES <= len(newest) < MOST_CASES + 8
    assert newest.sessions.start_ms[-1] == 1999 * MINUTE_MS


@pytest.mark.parametrize(("cases", "number"), [(0, -1), (499, -1), (500, 0), (999, 0), (1000, 1), (3999, 2), (4000, 3)])
def test_each_look_needs_twice_the_cases_of_the_one_before(cases: int, number: int) -> None:
    assert newest_look(cases, SETTINGS) == number
    assert number < 0 or cases_of(number, SETTINGS) <= cases < cases_of(number + 1, SETTINGS)


def drawn(
    generator: np.random.Generator, *, worse_by: float, cases: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return ranks of two versions that agree on most cases, and the sessions: of 5 cases that are hard together.

    The hit rate of the first is lower by `worse_by`; cases of one session are mostly hit or missed together.
    """
    session = np.arange(cases) // 5
    easy = generator.random(cases // 5)[session] < 0.5
    theirs = generator.random(cases) < np.where(easy, 0.7, 0.2)
    differs = generator.random(cases) < 0.2
    ours = np.where(differs, generator.random(cases) < np.where(easy, 0.7, 0.2) - worse_by / 0.2, theirs)
    return np.where(ours, 1, 100), np.where(theirs, 1, 100), session


def ever_worse(
    generator: np.random.Generator, settings: TrainerSettings, *, worse_by: float, corrected: bool = True
) -> bool:
    """Whether any of the looks at one stream of live clicks finds the version worse."""
    ours, theirs, session = drawn(generator, worse_by=worse_by, cases=cases_of(LOOKS - 1, settings))
    for number in range(LOOKS):
        n = cases_of(number, settings)
        if compared(ours[:n], theirs[:n], session[:n], number if corrected else 0, settings).is_worse:
            return True
    return False


@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_a_version_worse_by_no_more_than_the_margin_is_ever_rejected_no_more_often_than_stated(margin: float) -> None:
    settings = SETTINGS.model_copy(update={"rollback_margin": margin})
    repeats, generator = 1000, np.random.default_rng(7)
    false_alarms = sum(ever_worse(generator, settings, worse_by=margin) for _ in range(repeats))
    assert 0 < false_alarms / repeats <= 1 - settings.rollback_confidence


def test_without_a_correction_repeated_looks_would_reject_more_often_than_stated() -> None:
    """Each look has the whole 10 % to spend: the first one has half of what the settings say."""
    settings = SETTINGS.model_copy(update={"rollback_confidence": 1 - 2 * (1 - SETTINGS.rollback_confidence)})
    repeats, generator = 500, np.random.default_rng(7)
    false_alarms = sum(ever_worse(generator, settings, worse_by=0.0, corrected=False) for _ in range(repeats))
    assert false_alarms / repeats > 0.2


def test_a_version_clearly_worse_is_nearly_always_rejected() -> None:
    repeats, generator = 200, np.random.default_rng(9)
    assert sum(ever_worse(generator, SETTINGS, worse_by=0.03) for _ in range(repeats)) / repeats > 0.95
