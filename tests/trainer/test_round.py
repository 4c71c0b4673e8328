import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from model.announcements import Announcement
from model.clicks import Click
from model.companion import Mixing
from model.errors import DamagedVersionError, UnknownVersionError
from model.recommender import Recommender
from model.registry import ModelVersion, Registry
from tests.trainer.click_builders import (
    MINUTE_MS,
    SMALL,
    MemoryAnnouncer,
    add_clicks,
    cyclic_clicks,
    shuffled_clicks,
    window_of,
)
from trainer import candidate
from trainer.candidate import Candidate
from trainer.errors import TrainingDivergedError
from trainer.fine_tune import train
from trainer.mixing_fit import Cases, FittedMixing, fit_mixing
from trainer.round import Published, Refused, Round, RoundResult, Skipped, Stopped
from trainer.settings import TrainerSettings
from trainer.window import Window

ITEMS = [f"item-{number}" for number in range(24)]
LATER_MS = 1000 * MINUTE_MS
NAMES = itertools.count()
NOW_MS = itertools.count(1_700_000_000_000)


def a_round(registry: Registry, announcer: MemoryAnnouncer, settings: TrainerSettings = SMALL) -> Round:
    return Round(settings, registry, announcer, lambda: next(NOW_MS), lambda: f"{next(NAMES):04x}")


def new_registry(folder: Path) -> Registry:
    return Registry(str(folder / "registry"))


def served(registry: Registry, announcer: MemoryAnnouncer) -> ModelVersion:
    announcement = announcer.serving()
    assert announcement is not None
    assert registry.manifest_sha256(announcement.version) == announcement.sha256
    return registry.load(announcement.version, training=True)


def first_version(folder: Path) -> tuple[Registry, MemoryAnnouncer, Window]:
    """Publish a version of the cycle through ITEMS; returns where, and the window it learnt from."""
    registry, announcer = new_registry(folder), MemoryAnnouncer()
    window = window_of(cyclic_clicks(ITEMS, sessions=300))
    result = a_round(registry, announcer).run(window.snapshot())
    assert isinstance(result, Published)
    return registry, announcer, window


def best_after(version: ModelVersion, item_id: str) -> str:
    recommender = Recommender(version.network, version.vocabulary, version.version)
    forward = recommender.forward(
        np.zeros((1, recommender.state_width), dtype=np.float32),
        np.array([-1]),
        np.array([0]),
        np.array([version.vocabulary.row(item_id)]),
        1,
    )
    best_row: int = forward.top_rows[0, 0]
    return version.vocabulary.item_ids[best_row]


def test_the_first_version_beats_popularity_and_serves(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    version = served(registry, announcer)
    assert announcer.said[-1].action == "promote"
    assert announcer.said[-1].uri == registry.location(version.version)
    assert version.parent is None
    assert version.metrics["recall@20"] == 1.0
    assert version.metrics["mrr@20"] > version.metrics["incumbent_mrr@20"]
    assert version.training_settings["learning_rate"] == SMALL.learning_rate
    assert version.metrics["cases"] == 2400 * SMALL.holdout_share * 7 / 8, "but for the first clicks of sessions"
    assert version.trained_until == window.next_offsets, "what the gate was held on is learned too"


def test_a_first_version_no_better_than_popularity_is_refused(tmp_path: Path) -> None:
    registry, announcer = new_registry(tmp_path), MemoryAnnouncer()
    noise = shuffled_clicks(ITEMS, np.random.default_rng(0), sessions=300)
    result = a_round(registry, announcer).run(window_of(noise).snapshot())
    assert isinstance(result, Refused)
    assert result.reason == "worse"
    assert "must differ by above 0" in result.detail
    assert registry.versions() == []
    assert announcer.serving() is None


def test_weights_are_chosen_on_all_new_clicks_before_they_are_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, announcer, window = first_version(tmp_path)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=LATER_MS))
    chosen_on: list[int] = []

    def noted(cases: Cases, start: Mixing) -> FittedMixing:
        chosen_on.append(len(cases))
        return fit_mixing(cases, start)

    for module in ("trainer.companion", "trainer.candidate"):
        monkeypatch.setattr(f"{module}.fit_mixing", noted)
    result = a_round(registry, announcer).run(window.snapshot())
    assert isinstance(result, Published)
    lesson = result.selection.training
    trained = lesson.is_new.sum() - lesson.is_new[lesson.sessions.offsets[:-1]].sum()
    assert chosen_on == [trained, trained + result.selection.counted.sum()]


def test_the_next_round_goes_on_from_the_version_that_serves(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    parent = served(registry, announcer)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=LATER_MS))
    result = a_round(registry, announcer).run(window.snapshot())
    child = served(registry, announcer)
    assert isinstance(result, Published)
    assert child.parent == parent.version
    assert child.vocabulary.is_extension_of(parent.vocabulary)
    assert sum(child.trained_until.values()) > sum(parent.trained_until.values())
    grown = child.optimizer_state["accumulator.embedding"] - parent.optimizer_state["accumulator.embedding"]
    assert bool((grown >= 0).all()), "accumulators are carried, and only grow"
    assert bool((grown > 0).any())


def test_new_items_are_appended_and_recommended_where_they_belong(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    parent = served(registry, announcer)
    longer_cycle = [*ITEMS, "new-1", "new-2"]
    add_clicks(window, cyclic_clicks(longer_cycle, sessions=300, start_ms=LATER_MS))
    assert isinstance(a_round(registry, announcer).run(window.snapshot()), Published)
    child = served(registry, announcer)
    assert child.vocabulary.item_ids[: len(ITEMS)] == parent.vocabulary.item_ids
    assert sorted(child.vocabulary.item_ids[len(ITEMS) :]) == ["new-1", "new-2"]
    assert best_after(parent, ITEMS[-1]) == ITEMS[0]
    assert best_after(child, ITEMS[-1]) == "new-1"
    assert best_after(child, "new-1") == "new-2"


def test_a_candidate_that_unlearnt_is_refused_and_the_old_version_serves_on(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    before = announcer.serving()
    other_order = [ITEMS[5 * place % len(ITEMS)] for place in range(len(ITEMS))]
    add_clicks(window, cyclic_clicks(other_order, sessions=1600, clicks=2, start_ms=LATER_MS))
    # The held-out fifth is mostly in the old order again, which the candidate has just unlearnt.
    add_clicks(window, cyclic_clicks(ITEMS, sessions=350, clicks=2, start_ms=4 * LATER_MS))
    settings = SMALL.model_copy(update={"replay_share": 0.0})
    result = a_round(registry, announcer, settings).run(window.snapshot())
    assert isinstance(result, Refused)
    assert result.reason == "worse"
    assert result.verdict is not None
    assert result.verdict.metrics["mrr@20"] < result.verdict.metrics["incumbent_mrr@20"]
    assert announcer.serving() == before
    assert len(registry.versions()) == 1


def test_items_that_only_the_newest_clicks_are_on_are_in_the_version_too(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=300, start_ms=LATER_MS))
    add_clicks(window, cyclic_clicks([*ITEMS, "newest"], sessions=50, start_ms=2 * LATER_MS))
    assert isinstance(a_round(registry, announcer).run(window.snapshot()), Published)
    child = served(registry, announcer)
    assert child.vocabulary.item_ids[len(ITEMS) :] == ["newest"]
    assert best_after(child, ITEMS[-1]) == "newest"
    assert child.companion is not None
    assert child.companion.neighbours.item_count == len(ITEMS) + 1


def test_poisoned_clicks_are_refused(tmp_path: Path) -> None:
    """Four in five new clicks are on items drawn at random; the newest are as ever."""
    registry, announcer, window = first_version(tmp_path)
    before, generator = announcer.serving(), np.random.default_rng(3)
    right = cyclic_clicks(ITEMS, sessions=1200, start_ms=LATER_MS)
    drawn = generator.integers(len(ITEMS), size=len(right)).tolist()
    poisoned = [
        Click(click.session_id, ITEMS[row], click.timestamp_ms) for click, row in zip(right, drawn, strict=True)
    ]
    add_clicks(window, [*poisoned[: 8 * 960], *right[8 * 960 :]])
    result = a_round(registry, announcer).run(window.snapshot())
    assert isinstance(result, Refused)
    assert result.reason == "worse"
    assert announcer.serving() == before


def test_a_version_that_breaks_while_it_learns_the_rest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, announcer, window = first_version(tmp_path)
    before = announcer.serving()
    add_clicks(window, cyclic_clicks(ITEMS, sessions=300, start_ms=LATER_MS))
    teach = Candidate.taught_rest

    def break_it(candidate: Candidate, should_stop: Callable[[], bool]) -> Any:
        taught, report = teach(candidate, should_stop)
        taught.learner.network.parameters["embedding"].neg_()
        return taught, report

    monkeypatch.setattr(Candidate, "taught_rest", break_it)
    result = a_round(registry, announcer).run(window.snapshot())
    assert isinstance(result, Refused)
    assert result.reason == "broken"
    assert announcer.serving() == before


def test_too_few_new_clicks_are_skipped_with_their_number(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=50, start_ms=LATER_MS))
    settings = SMALL.model_copy(update={"minimum_clicks": 500})
    again = a_round(registry, announcer, settings).run(window.snapshot())
    assert again == Skipped("too-few-clicks", "320 new clicks to train on, minimum_clicks is 500")


def test_too_few_cases_are_skipped_with_their_number(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"minimum_cases": 10_000})
    window = window_of(cyclic_clicks(ITEMS, sessions=100))
    result = a_round(new_registry(tmp_path), MemoryAnnouncer(), settings).run(window.snapshot())
    assert isinstance(result, Skipped)
    assert result.reason == "too-few-cases"


def test_no_round_is_held_while_a_version_is_pinned(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    pinned = Announcement(served(registry, announcer).version, "uri", "00", "pin", {}, 0)
    announcer.announce(pinned)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=LATER_MS))
    result = a_round(registry, announcer).run(window.snapshot())
    assert isinstance(result, Skipped)
    assert result.reason == "pinned"
    assert announcer.serving() == pinned


def test_a_serving_version_that_is_not_the_one_announced_is_not_built_upon(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    announcer.announce(Announcement(served(registry, announcer).version, "uri", "00", "promote", {}, 0))
    with pytest.raises(DamagedVersionError, match="not the one that was announced"):
        a_round(registry, announcer).run(window.snapshot())


def three_versions(folder: Path) -> tuple[Registry, MemoryAnnouncer, Window]:
    """Publish three versions, each the child of the one before, and let clicks arrive for a fourth."""
    registry, announcer, window = first_version(folder)
    for number in (1, 2):
        add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=number * LATER_MS))
        assert isinstance(a_round(registry, announcer).run(window.snapshot()), Published)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=3 * LATER_MS))
    return registry, announcer, window


def damage(registry: Registry, version: str, file_name: str = "weights.safetensors") -> None:
    (Path(registry.location(version)) / file_name).write_bytes(b"{")


@pytest.mark.parametrize(
    ("damaged", "goes_on_from"), [((2,), 1), ((1, 2), 0), ((0, 1, 2), None)], ids=["parent", "grandparent", "scratch"]
)
def test_a_damaged_serving_version_is_mended_from_its_newest_whole_ancestor_when_told_to(
    tmp_path: Path, damaged: tuple[int, ...], goes_on_from: int | None
) -> None:
    registry, announcer, window = three_versions(tmp_path)
    versions = [said.version for said in announcer.said]
    for number in damaged:
        damage(registry, versions[number])
    with pytest.raises(DamagedVersionError):
        a_round(registry, announcer).run(window.snapshot())
    assert isinstance(a_round(registry, announcer).run(window.snapshot(), mend=True), Published)
    mended = served(registry, announcer)
    assert mended.parent == (None if goes_on_from is None else versions[goes_on_from])
    assert mended.trained_until == window.next_offsets, "what the damaged versions had learned is learned again"


def test_a_serving_version_without_a_readable_manifest_is_mended_from_the_newest_other(tmp_path: Path) -> None:
    registry, announcer, window = three_versions(tmp_path)
    versions = [said.version for said in announcer.said]
    damage(registry, versions[2], "manifest.json")
    assert isinstance(a_round(registry, announcer).run(window.snapshot(), mend=True), Published)
    assert served(registry, announcer).parent == versions[1]


def test_a_serving_version_that_is_gone_is_mended_from_the_newest_other(tmp_path: Path) -> None:
    registry, announcer, window = three_versions(tmp_path)
    versions = [said.version for said in announcer.said]
    registry.remove(versions[2])
    with pytest.raises(UnknownVersionError):
        a_round(registry, announcer).run(window.snapshot())
    assert isinstance(a_round(registry, announcer).run(window.snapshot(), mend=True), Published)
    assert served(registry, announcer).parent == versions[1]


def test_a_rejected_version_is_not_gone_on_from_instead(tmp_path: Path) -> None:
    registry, announcer, window = three_versions(tmp_path)
    first, second, third = announcer.said
    announcer.said = [replace(second, action="reject"), first, third]
    registry.remove(third.version)
    assert isinstance(a_round(registry, announcer).run(window.snapshot(), mend=True), Published)
    assert served(registry, announcer).parent == first.version


def test_a_whole_serving_version_is_gone_on_from_even_when_told_to_mend(tmp_path: Path) -> None:
    registry, announcer, window = three_versions(tmp_path)
    serving = announcer.said[-1].version
    assert isinstance(a_round(registry, announcer).run(window.snapshot(), mend=True), Published)
    assert served(registry, announcer).parent == serving


def test_weights_that_are_not_finite_fail_the_round(tmp_path: Path) -> None:
    registry, announcer = new_registry(tmp_path), MemoryAnnouncer()
    settings = SMALL.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(TrainingDivergedError, match="lower the learning rate"):
        a_round(registry, announcer, settings).run(window_of(cyclic_clicks(ITEMS, sessions=100)).snapshot())
    assert registry.versions() == []
    assert announcer.serving() is None


def test_a_version_made_to_serve_meanwhile_is_not_overruled(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=LATER_MS))
    by_hand = Announcement(served(registry, announcer).version, "uri", "00", "rollback", {}, 1)

    def operator_acts() -> bool:
        if announcer.serving() != by_hand:
            announcer.announce(by_hand)
        return False

    result = a_round(registry, announcer).run(window.snapshot(), should_stop=operator_acts)
    assert isinstance(result, Refused)
    assert result.reason == "superseded"
    assert announcer.serving() == by_hand


@pytest.mark.parametrize("mini_batches", [0, 1, 5])
def test_a_round_told_to_stop_ends_between_two_mini_batches_without_a_trace(tmp_path: Path, mini_batches: int) -> None:
    registry, announcer = new_registry(tmp_path), MemoryAnnouncer()
    asked = itertools.count()
    window = window_of(cyclic_clicks(ITEMS, sessions=300)).snapshot()
    result = a_round(registry, announcer).run(window, should_stop=lambda: next(asked) >= mini_batches)
    assert result == Stopped()
    assert next(asked) == mini_batches + 2, "asked once more after training, and not before any further mini-batch"
    assert registry.versions() == []
    assert announcer.serving() is None


class Crash(BaseException):
    """The process is gone; nothing may catch it."""


class CrashingParts:
    """Counts the moments between two steps of a round, and crashes at the one asked for."""

    def __init__(self, registry: Registry, announcer: MemoryAnnouncer, crash_at: int) -> None:
        self._registry = registry
        self._announcer = announcer
        self._left = crash_at

    def moment(self) -> None:
        if self._left == 0:
            raise Crash
        self._left -= 1

    def between(self, step: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        self.moment()
        result = step(*arguments, **keywords)
        self.moment()
        return result

    def load(self, version: str, *, training: bool = False) -> Any:
        return self.between(self._registry.load, version, training=training)

    def manifest_sha256(self, version: str) -> Any:
        return self.between(self._registry.manifest_sha256, version)

    def write(self, version: ModelVersion) -> Any:
        return self.between(self._registry.write, version)

    def location(self, version: str) -> str:
        return self._registry.location(version)

    def serving(self) -> Any:
        return self.between(self._announcer.serving)

    def announced(self) -> Any:
        return self.between(self._announcer.announced)

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        self.moment()
        return self._announcer.replace(serving, announcement)

    def should_stop(self) -> bool:
        self.moment()
        return False


def test_fine_tuning_takes_the_dropout_of_rounds_and_the_first_training_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[float, float]] = []

    def noted(*args: Any, **options: Any) -> Any:
        settings = args[3]
        taken.append((settings.embedding_dropout, settings.hidden_dropout))
        return train(*args, **options)

    monkeypatch.setattr(candidate, "train", noted)
    registry, announcer, window = (
        new_registry(tmp_path),
        MemoryAnnouncer(),
        window_of(cyclic_clicks(ITEMS, sessions=300)),
    )
    own = SMALL.model_copy(update={"embedding_dropout": 0.1, "hidden_dropout": 0.2, "dropout_round": 0.4})
    assert isinstance(a_round(registry, announcer, own).run(window.snapshot()), Published)
    assert set(taken) == {(0.1, 0.2)}
    taken.clear()
    add_clicks(window, cyclic_clicks(ITEMS, sessions=200, start_ms=LATER_MS))
    assert isinstance(a_round(registry, announcer, own).run(window.snapshot()), Published)
    assert set(taken) == {(0.4, 0.4)}


def run_crashing(registry: Registry, announcer: MemoryAnnouncer, window: Window, crash_at: int) -> RoundResult | None:
    parts: Any = CrashingParts(registry, announcer, crash_at)
    settings = SMALL.model_copy(update={"epochs_round": 1, "batch_size": 64})
    turn = Round(settings, parts, parts, lambda: 1_700_000_000_000 + crash_at, lambda: f"crash-{crash_at}")
    try:
        return turn.run(window.snapshot(), should_stop=parts.should_stop)
    except Crash:
        return None


def test_a_crash_between_any_two_steps_leaves_the_old_version_serving_and_no_half_version(tmp_path: Path) -> None:
    registry, announcer, window = first_version(tmp_path)
    old = announcer.serving()
    add_clicks(window, cyclic_clicks(ITEMS, sessions=200, start_ms=LATER_MS))
    for crash_at in itertools.count():
        result = run_crashing(registry, announcer, window, crash_at)
        for version in registry.versions():
            registry.load(version, training=True)
        if result is not None:
            break
        assert announcer.serving() == old
        assert served(registry, announcer).parent is None
    assert isinstance(result, Published), "after all those crashes a round still goes through"
    assert crash_at > 15
    assert served(registry, announcer).parent == (old.version if old else None)
