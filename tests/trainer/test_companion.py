"""The companion of a version: where its counts come from, and that what it is measured on was not known before."""

import itertools

import numpy as np
import pytest
import torch

from model.clicks import Sessions
from model.companion import Mixing
from model.gru4rec import GRU4Rec
from model.registry import ModelVersion
from model.transitions import Neighbours, Transitions
from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer import companion as making
from trainer.companion import count_new, new_cases, train_anew
from trainer.fit import fit
from trainer.learner import Learner, grown_learner, new_learner
from trainer.mixing_fit import Cases, FittedMixing, unseen_cases
from trainer.selection import Lesson
from trainer.settings import TrainerSettings

ITEMS = [f"item-{number}" for number in range(12)]
TABLE = table_of(cyclic_clicks(ITEMS, sessions=60))
DAY_MS = 86_400_000


def sessions_of(*plays: list[int]) -> Sessions:
    offsets = np.cumsum([0, *map(len, plays)])
    return Sessions(np.concatenate(plays).astype(np.int64), offsets, offsets[:-1], offsets[:-1])


def pairs_of(transitions: Transitions) -> dict[tuple[int, int], float]:
    first, second, counts = transitions.pairs()
    return dict(zip(zip(first.tolist(), second.tolist(), strict=True), counts.tolist(), strict=True))


def fresh(settings: TrainerSettings, sessions: Sessions) -> tuple[Learner, torch.Generator]:
    generator = torch.Generator().manual_seed(0)
    return new_learner(sessions, ITEMS, settings, generator), generator


def test_a_fitted_version_has_the_counts_of_all_its_sessions() -> None:
    version, _ = fit(TABLE, SMALL, version="v", created_at_ms=0)
    expected = Transitions(len(version.vocabulary))
    rows = np.concatenate([(start + np.arange(8)) % 12 for start in range(60)])
    expected.add(sessions_of(*rows.reshape(60, 8).tolist()))
    assert version.transitions is not None
    assert version.companion is not None
    assert pairs_of(version.transitions) == pytest.approx(pairs_of(expected))
    neighbours = expected.neighbours()
    assert np.array_equal(version.companion.neighbours.successor_rows, neighbours.successor_rows)


def test_without_a_companion_there_are_no_counts_either() -> None:
    settings = SMALL.model_copy(update={"companion": False})
    version, _ = fit(TABLE, settings, version="v", created_at_ms=0)
    assert (version.companion, version.transitions) == (None, None)


def test_weights_are_chosen_on_the_newest_sessions_beside_counts_that_lack_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plays = [[session % 9, (session + 1) % 9, (session + 2) % 9] for session in range(38)] + [[9, 10, 11]] * 2
    asked: list[list[int]] = []

    def noted(network: GRU4Rec, neighbours: Neighbours, sessions: Sessions) -> Cases:
        asked.append(sessions.items.tolist())
        assert neighbours.successor_offsets[9] == neighbours.successor_offsets[12], "nothing is known of what is new"
        return unseen_cases(network, neighbours, sessions)

    monkeypatch.setattr(making, "unseen_cases", noted)
    monkeypatch.setattr(making, "fit_mixing", lambda _cases: FittedMixing(Mixing(forward=0.123), 1, {}, {}))
    learner, generator = fresh(SMALL, sessions_of(*plays))
    before = learner.network.parameters["embedding"].clone()
    _, companion = train_anew(learner, sessions_of(*plays), SMALL, generator=generator)
    assert asked == [[9, 10, 11] * 2]
    assert companion is not None
    assert companion.mixing.forward == 0.123
    assert pairs_of(learner.transitions or Transitions(0))[9, 10] == 2, "the newest count in the end"
    assert not torch.equal(learner.network.parameters["embedding"][9:], before[9:]), "and are learned from"


def test_too_few_sessions_to_leave_one_out_get_the_default_weights() -> None:
    sessions = sessions_of([0, 1, 2])
    learner, generator = fresh(SMALL, sessions)
    report, companion = train_anew(learner, sessions, SMALL, generator=generator)
    assert report.clicks == 2 * SMALL.epochs_first
    assert companion is not None
    assert companion.mixing == Mixing()


@pytest.mark.parametrize("mini_batches", [0, 3, 30])
def test_training_told_to_stop_asks_no_further_and_is_not_complete(mini_batches: int) -> None:
    sessions = sessions_of(*[[session % 9, (session + 1) % 9, (session + 2) % 9] for session in range(100)])
    learner, generator = fresh(SMALL, sessions)
    asked = itertools.count()
    report, _ = train_anew(
        learner, sessions, SMALL, generator=generator, should_stop=lambda: next(asked) >= mini_batches
    )
    assert not report.is_complete
    assert next(asked) == mini_batches + 1


def test_progress_never_goes_back_and_ends_at_its_total() -> None:
    sessions = sessions_of(*[[session % 9, (session + 1) % 9] for session in range(300)])
    learner, generator = fresh(SMALL, sessions)
    told: list[tuple[int, int]] = []
    train_anew(learner, sessions, SMALL, generator=generator, on_progress=lambda *seen: told.append(seen))
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def parent() -> ModelVersion:
    return fit(TABLE, SMALL, version="parent", created_at_ms=0)[0]


def grown(version: ModelVersion, settings: TrainerSettings = SMALL) -> Learner:
    sessions = sessions_of([12, 0])
    item_ids = [*version.vocabulary.item_ids, "new"]
    return grown_learner(version, sessions, item_ids, settings, torch.Generator().manual_seed(0))


def counted(version: ModelVersion, learner: Learner, *, age_days: float = 0.0) -> dict[tuple[int, int], float]:
    sessions, is_new = sessions_of([0, 12, 1], [3, 4]), np.array([False, True, True, False, False])
    lesson = Lesson(sessions, is_new, is_new)
    cases = new_cases(version, learner, lesson)
    made = count_new(version, learner, lesson, cases, age_ms=int(age_days * DAY_MS), half_life_days=10.0)
    assert made is not None
    assert made.neighbours.item_count == 13
    return pairs_of(learner.transitions or Transitions(0))


def test_only_new_clicks_are_added_to_what_the_parent_counted() -> None:
    version = parent()
    before = pairs_of(version.transitions or Transitions(0))
    after = counted(version, grown(version))
    assert {pair: after[pair] - before.get(pair, 0) for pair in after if after[pair] != before.get(pair)} == (
        pytest.approx({(0, 12): 1, (12, 1): 1, (0, 1): 0.7})
    )
    assert pairs_of(version.transitions or Transitions(0)) == before, "the parent stays as it was"


def test_what_the_parent_counted_is_worth_half_after_the_half_life() -> None:
    version = parent()
    before = pairs_of(version.transitions or Transitions(0))
    after = counted(version, grown(version), age_days=10.0)
    assert after[3, 4] == pytest.approx(before[3, 4] / 2)
    assert after[0, 12] == 1


def test_a_parent_made_in_the_future_by_another_clock_loses_nothing() -> None:
    version = parent()
    before = pairs_of(version.transitions or Transitions(0))
    assert counted(version, grown(version), age_days=-3.0)[3, 4] == before[3, 4]


def test_a_parent_without_a_companion_gets_one_and_one_that_is_not_wanted_ends() -> None:
    alone = fit(TABLE, SMALL.model_copy(update={"companion": False}), version="v", created_at_ms=0)[0]
    assert counted(alone, grown(alone)) == pytest.approx({(0, 12): 1, (12, 1): 1, (0, 1): 0.7})
    version = parent()
    learner = grown(version, SMALL.model_copy(update={"companion": False}))
    assert learner.transitions is None
    both = np.array([True, True])
    lesson = Lesson(sessions_of([0, 1]), both, both)
    assert new_cases(version, learner, lesson) is None
    ended = count_new(version, learner, lesson, None, age_ms=0, half_life_days=1.0)
    assert ended is None
