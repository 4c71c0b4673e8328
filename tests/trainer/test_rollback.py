import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.announcements import Action, Announcement
from model.errors import DamagedVersionError
from model.gru4rec import GRU4Rec
from model.registry import Registry
from tests.trainer.click_builders import (
    MINUTE_MS,
    SMALL,
    MemoryAnnouncer,
    add_clicks,
    wandering_clicks,
    window_of,
)
from trainer.rejected import misleading_clicks, rejected_spans
from trainer.rollback import Watch, Watched
from trainer.round import Published, Round
from trainer.settings import TrainerSettings
from trainer.window import Window

ITEMS = [f"item-{number}" for number in range(120)]
# What everybody does, and what only the clicks of one round do; the best 20 cannot hold both.
HABIT, LIE = range(1, 16), range(61, 76)
SETTINGS = SMALL.model_copy(update={"rollback_cases": 200, "gate_margin": 0.05})
NOW_MS = itertools.count(1_700_000_000_000)
NAMES = itertools.count()


@dataclass
class Shop:
    """A version that knows the habit, the window that it has learned, and whatever serves after it."""

    registry: Registry
    announcer: MemoryAnnouncer
    window: Window
    first: str

    def watch(self, settings: TrainerSettings = SETTINGS, announcer: Any = None) -> Watch:
        return Watch(settings, self.registry, announcer or self.announcer, lambda: next(NOW_MS))

    def look(self, watch: Watch | None = None) -> Watched | None:
        return (watch or self.watch()).look(self.window.snapshot(), self.window.clicks_added)

    def round(self) -> Any:
        turn = Round(SETTINGS, self.registry, self.announcer, lambda: next(NOW_MS), lambda: f"{next(NAMES):04x}")
        return turn.run(self.window.snapshot())

    def announcement(self, version: str, action: Action = "promote", *, by_operator: bool = False) -> Announcement:
        sha256 = self.registry.manifest_sha256(version)
        return Announcement(version, self.registry.location(version), sha256, action, {}, next(NOW_MS), by_operator)

    def serve_child(self, *, is_worse: bool, **said: Any) -> str:
        """Make a child of the first version serve: as good as that, or with weights of nothing learned."""
        parent = self.registry.load(self.first, training=True)
        network = parent.network
        if is_worse:
            network = GRU4Rec.initialised(network.settings, len(ITEMS), torch.Generator().manual_seed(1))
        name, until = f"child-{next(NAMES)}", self.window.next_offsets
        child = replace(parent, version=name, parent=self.first, network=network, trained_until=until)
        self.registry.write(replace(child, companion=None, transitions=None) if is_worse else child)
        self.announcer.announce(self.announcement(name, **said))
        return name

    def click(self, *, sessions: int = 100, steps: range = HABIT, items: list[str] = ITEMS) -> None:
        """Let clicks arrive, as ever or of other habits."""
        number = len(self.window)
        clicks = wandering_clicks(
            items, steps, np.random.default_rng(number), sessions=sessions, start_ms=number * MINUTE_MS
        )
        add_clicks(self.window, clicks)

    def serving(self) -> str:
        announcement = self.announcer.serving()
        assert announcement is not None
        return announcement.version


def first_window() -> Window:
    return window_of(wandering_clicks(ITEMS, HABIT, np.random.default_rng(0), sessions=500))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    registry, announcer = Registry(str(tmp_path_factory.mktemp("shop") / "registry")), MemoryAnnouncer()
    window = first_window()
    turn = Round(SETTINGS, registry, announcer, lambda: next(NOW_MS), lambda: f"{next(NAMES):04x}")
    result = turn.run(window.snapshot())
    assert isinstance(result, Published)
    assert result.verdict.metrics["recall@20"] > 0.95
    return Shop(registry, announcer, window, result.announcement.version)


@pytest.fixture
def shop(learned: Shop, tmp_path: Path) -> Shop:
    shutil.copytree(learned.registry.location("").rstrip("/"), tmp_path / "registry")
    window = first_window()
    announcer = MemoryAnnouncer(learned.announcer.serving())
    return Shop(Registry(str(tmp_path / "registry")), announcer, window, learned.first)


def outcome(found: Watched | None) -> str | None:
    return found.outcome if found else None


def test_a_version_that_is_worse_on_live_clicks_is_rejected_and_its_parent_serves(shop: Shop) -> None:
    child = shop.serve_child(is_worse=True)
    shop.click()
    found = shop.look()
    assert found is not None
    assert (found.version, found.parent, found.outcome) == (child, shop.first, "worse")
    rejection, rollback = shop.announcer.said[-2:]
    assert (rejection.version, rejection.action) == (child, "reject")
    assert rejection.metrics["recall@20_difference_upper"] < -SETTINGS.rollback_margin
    assert rejection.metrics["parent_recall@20"] > 0.95
    assert rejection.metrics["cases"] >= 400
    assert (rollback.version, rollback.action) == (shop.first, "rollback")
    assert rollback.sha256 == shop.registry.manifest_sha256(shop.first)
    assert not rollback.by_operator
    assert shop.look() is None, "what was gone back to is not watched"


def test_a_version_that_is_as_good_goes_on_serving_and_is_looked_at_again_at_twice_the_cases(shop: Shop) -> None:
    child, watch = shop.serve_child(is_worse=False), shop.watch()
    numbers = []
    for _ in range(8):
        shop.click(sessions=30)
        found = shop.look(watch)
        assert found is None or found.outcome == "kept"
        numbers.append(found.look.number if found and found.look else None)
    assert numbers == [0, 1, None, 2, None, None, None, 3], "with 210 cases each time"
    assert shop.announcer.said[-1].version == child


def test_no_look_is_due_before_its_cases_can_have_come(shop: Shop) -> None:
    watch = shop.watch()
    shop.serve_child(is_worse=False)
    assert watch.is_due(shop.window.clicks_added)
    shop.click(sessions=10)
    assert shop.look(watch) is None
    at = shop.window.clicks_added
    assert not watch.is_due(at + 200 - 70 - 1)
    assert watch.is_due(at + 200 - 70)
    watch.hurry()
    assert watch.is_due(at)


def test_where_it_is_turned_off_no_look_is_ever_due(shop: Shop) -> None:
    assert not shop.watch(SETTINGS.model_copy(update={"auto_rollback": False})).is_due(10**9)


@pytest.mark.parametrize(
    "said",
    [{"by_operator": True}, {"action": "rollback", "by_operator": True}, {"action": "rollback"}, {"action": "pin"}],
    ids=["promoted by hand", "gone back to by hand", "gone back to", "pinned"],
)
def test_what_a_person_chose_or_was_gone_back_to_is_left_alone(shop: Shop, said: dict[str, Any]) -> None:
    child = shop.serve_child(is_worse=True, **said)
    shop.click()
    assert shop.look() is None
    assert shop.announcer.said[-1].version == child


def test_a_version_without_a_parent_in_the_registry_is_left_alone(shop: Shop) -> None:
    shop.click()
    assert shop.look() is None, "the first version has none"
    child = shop.serve_child(is_worse=True)
    shop.registry.remove(shop.first)
    shop.click()
    assert shop.look() is None
    assert shop.serving() == child


def test_a_rejected_parent_is_not_gone_back_to(shop: Shop) -> None:
    shop.announcer.announce(shop.announcement(shop.first, "reject"))
    child = shop.serve_child(is_worse=True)
    shop.click()
    assert shop.look() is None
    assert shop.serving() == child


def test_a_damaged_parent_is_not_gone_back_to(shop: Shop) -> None:
    child = shop.serve_child(is_worse=True)
    (Path(shop.registry.location(shop.first)) / "weights.safetensors").write_bytes(b"")
    shop.click()
    with pytest.raises(DamagedVersionError):
        shop.look()
    assert shop.announcer.said[-1].version == child


class Steps:
    """The announcer, with something done before its n-th announcement."""

    def __init__(self, announcer: MemoryAnnouncer, before: dict[int, Callable[[], None]]) -> None:
        self._announcer = announcer
        self._before = before
        self._announced = itertools.count()
        self.announced = announcer.announced
        self.serving = announcer.serving

    def announce(self, announcement: Announcement) -> None:
        self._before.get(next(self._announced), lambda: None)()
        self._announcer.announce(announcement)

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        self._before.get(next(self._announced), lambda: None)()
        return self._announcer.replace(serving, announcement)


class Crash(BaseException):
    """The process is gone; nothing may catch it."""


def crash() -> None:
    raise Crash


def test_a_crash_between_rejection_and_rollback_is_repaired_at_the_next_look(shop: Shop) -> None:
    child = shop.serve_child(is_worse=True)
    shop.click()
    with pytest.raises(Crash):
        shop.look(shop.watch(announcer=Steps(shop.announcer, {1: crash})))
    assert shop.serving() == child
    assert shop.announcer.announced().rejected == {child}
    assert shop.look() == Watched(child, shop.first, "unfinished", None)
    assert shop.serving() == shop.first
    assert [said.action for said in shop.announcer.said[-2:]] == ["reject", "rollback"], "rejected once"


def test_a_version_that_an_operator_chose_during_the_look_goes_on_serving(shop: Shop) -> None:
    shop.serve_child(is_worse=True)
    shop.click()
    chosen = shop.announcement(shop.first, "pin", by_operator=True)

    class ChosenMeanwhile(Steps):
        def __init__(self) -> None:
            super().__init__(shop.announcer, {})
            self.serving = lambda: chosen

    said = list(shop.announcer.said)
    assert shop.look(shop.watch(announcer=ChosenMeanwhile())) is None
    assert shop.announcer.said == said


def test_what_misled_a_rejected_version_is_not_learned_again(shop: Shop) -> None:
    """The lie is in the held-out clicks too, so its version passes the gate; live clicks are as ever."""
    shop.click(steps=LIE, items=[*ITEMS, "bait"])
    misled = shop.round()
    assert isinstance(misled, Published)
    assert "bait" in shop.registry.load(shop.serving()).vocabulary.item_ids
    shop.click(sessions=300)
    assert outcome(shop.look()) == "worse"
    result = shop.round()
    assert isinstance(result, Published)
    child = shop.registry.load(shop.serving())
    assert child.parent == shop.first
    assert result.selection.new_clicks == 300 * 8 * 0.8, "as ever, but for those held out"
    assert "bait" not in child.vocabulary.item_ids
    assert child.trained_until == shop.window.next_offsets
    shop.click()
    assert outcome(shop.look()) == "kept"


def test_what_is_known_of_misleading_clicks_are_the_offsets_between_a_rejected_version_and_its_parent(
    shop: Shop,
) -> None:
    parent_until = shop.window.next_offsets
    shop.click(sessions=20)
    child = shop.serve_child(is_worse=True)
    child_until = shop.window.next_offsets
    shop.click(sessions=20)
    window = shop.window.snapshot()
    found = misleading_clicks(window, rejected_spans(shop.registry, [child, "removed"]))
    for partition, offset, is_misleading in zip(window.partition, window.offset, found, strict=True):
        assert is_misleading == (parent_until[partition] <= offset < child_until[partition])
    made_anew = replace(window, next_offsets={0: 1, 1: 1})
    assert not misleading_clicks(made_anew, rejected_spans(shop.registry, [child])).any()
