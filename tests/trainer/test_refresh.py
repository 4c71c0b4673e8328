from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from model.announcements import Announcement, RefreshAnnouncement
from model.clicks import Click
from model.companion import Companion, Mixing
from model.recommender import Played, Recommender
from model.refresh import Refresh
from model.refreshes import Refreshes
from model.registry import ModelVersion, Registry
from model.transitions import Neighbours
from tests.trainer.click_builders import MINUTE_MS, SMALL, MemoryAnnouncer, add_clicks, cyclic_clicks, window_of
from trainer.errors import KafkaUnavailableError
from trainer.learner import as_rows
from trainer.refresh import KEPT, Refresher
from trainer.round import Published, Round
from trainer.selection import unread
from trainer.settings import TrainerSettings

ITEMS = [f"item-{number}" for number in range(24)]
LATER_MS = 1_000 * MINUTE_MS


class Announcer(MemoryAnnouncer):
    """The models topic as two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.refreshes: list[RefreshAnnouncement] = []

    def announce_refresh(self, announcement: RefreshAnnouncement) -> None:
        self.refreshes.append(announcement)


class Trainer:
    """Rounds and refreshes of one window."""

    def __init__(self, folder: Path, settings: TrainerSettings = SMALL) -> None:
        self.registry, self.announcer, self.settings = Registry(str(folder)), Announcer(), settings
        self.window = window_of(cyclic_clicks(ITEMS, sessions=200))
        self.now_ms = 0
        self.refresher = self.anew()
        assert isinstance(self.round().run(self.window.snapshot()), Published)

    def anew(self) -> Refresher:
        return Refresher(self.settings, self.registry, self.announcer, self.tick)

    def round(self) -> Round:
        return Round(self.settings, self.registry, self.announcer, self.tick)

    def tick(self) -> int:
        self.now_ms += 1000
        return self.now_ms

    def read(self, *sessions: list[str]) -> None:
        for number, items in enumerate(sessions):
            start_ms = LATER_MS + (self.now_ms + number) * MINUTE_MS
            add_clicks(self.window, [Click(f"s{start_ms}", item, start_ms + at) for at, item in enumerate(items)])

    def refresh(self) -> Refresh | None:
        return self.refresher.run(self.window.snapshot())

    @property
    def serving(self) -> ModelVersion:
        announcement = self.announcer.serving()
        assert announcement is not None
        return self.registry.load(announcement.version, training=True)

    def served(self) -> ModelVersion:
        """Return what a worker serves that has heard of everything."""
        newest = self.announcer.refreshes[-1]
        version = self.serving
        return Refreshes(self.registry.url).load(newest.refresh, newest.sha256, version.vocabulary).applied_to(version)


def entries(neighbours: Neighbours, row: int) -> list[list[tuple[int, float]]]:
    """Return an item's successors and predecessors with their shares, by row."""
    found = []
    for side in ("successor", "predecessor"):
        offsets, rows, shares = (getattr(neighbours, f"{side}_{part}") for part in ("offsets", "rows", "shares"))
        own = slice(offsets[row], offsets[row + 1])
        found.append(sorted(zip(rows[own].tolist(), shares[own].tolist(), strict=True)))
    return found


def answer(version: ModelVersion, *items: str) -> list[str]:
    """Return the best items after a session; with the default mixing, for what cyclic clicks fit needs no counts."""
    assert version.companion is not None
    companion = Companion(version.companion.neighbours, Mixing())
    recommender = Recommender(version.network, version.vocabulary, "v", companion=companion)
    rows = version.vocabulary.rows(items)
    states = np.zeros((1, recommender.state_width), np.float32)
    clicks = len(rows)
    forward = recommender.forward(
        states,
        np.array([-1]),
        np.zeros(clicks, dtype=np.int64),
        rows,
        5,
        played=Played(Played.anew(1).before, np.ones(clicks, dtype=np.bool_)),
    )
    return [version.vocabulary.item_ids[row] for row in forward.top_rows[-1]]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path)


def test_a_new_item_is_recommended_where_it_was_clicked_before(trainer: Trainer) -> None:
    trainer.read(*[[ITEMS[3], "new", ITEMS[7]]] * 60)
    refresh = trainer.refresh()
    assert refresh is not None
    assert refresh.item_ids == ["new"]
    assert "new" not in answer(trainer.serving, ITEMS[3])
    assert "new" in answer(trainer.served(), ITEMS[3])
    assert ITEMS[7] in answer(trainer.served(), "new")


def test_the_items_clicked_since_have_the_neighbours_that_a_round_would_give_them(trainer: Trainer) -> None:
    trainer.read([ITEMS[0], ITEMS[5], "new"], ["new", ITEMS[1]])
    trainer.refresh()
    served, version, window = trainer.served(), trainer.serving, trainer.window.snapshot()
    lesson = unread(window, version.trained_until, SMALL.idle_ms)
    assert version.transitions is not None
    version.transitions.grow(len(served.vocabulary))
    version.transitions.add(as_rows(lesson.sessions, window.table.item_ids, served.vocabulary), lesson.is_new)
    assert served.companion is not None
    for item in (ITEMS[0], ITEMS[5], ITEMS[1], "new"):
        row = served.vocabulary.row(item)
        assert entries(served.companion.neighbours, row) == entries(version.transitions.neighbours(), row)
    untouched = served.vocabulary.row(ITEMS[9])
    assert version.companion is not None
    assert entries(served.companion.neighbours, untouched) == entries(version.companion.neighbours, untouched)


def test_what_a_rejected_version_was_made_from_is_not_counted(trainer: Trainer) -> None:
    parent, said = trainer.serving, trainer.announcer.said[-1]
    trainer.read([ITEMS[3], "bait"], [ITEMS[4], "bait"])
    assert trainer.refresh() is not None
    rejected = replace(parent, version="rejected", parent=parent.version, trained_until=trainer.window.next_offsets)
    trainer.registry.write(rejected)
    trainer.announcer.said += [
        Announcement("rejected", "", "", "reject", {}, 0),
        structs.replace(said, action="rollback"),
    ]
    trainer.read([ITEMS[5], "new"])
    refresh = trainer.refresh()
    assert refresh is not None
    assert refresh.item_ids == ["new"]
    assert refresh.rows.tolist() == sorted([parent.vocabulary.row(ITEMS[5]), len(parent.vocabulary)])


def test_states_and_weights_stay_what_they_are(trainer: Trainer) -> None:
    trainer.read([ITEMS[3], "new"])
    trainer.refresh()
    before, after = trainer.serving, trainer.served()
    assert after.version == before.version
    for name, tensor in before.network.parameters.items():
        assert (after.network.parameters[name][: len(tensor)] == tensor).all()


def test_each_refresh_holds_everything_since_the_version(trainer: Trainer) -> None:
    trainer.read([ITEMS[0], "new-1"])
    trainer.refresh()
    trainer.read([ITEMS[1], "new-2"])
    assert trainer.refresh() is not None
    assert set(trainer.served().vocabulary.item_ids) == {*ITEMS, "new-1", "new-2"}


def test_nothing_read_since_is_nothing_to_say(trainer: Trainer) -> None:
    assert trainer.refresh() is None
    trainer.read([ITEMS[0], "new"])
    assert trainer.refresh() is not None
    assert trainer.refresh() is None
    assert len(trainer.announcer.refreshes) == 1


def test_after_a_round_it_goes_on_from_the_new_version(trainer: Trainer) -> None:
    trainer.read([ITEMS[0], "new"])
    trainer.refresh()
    add_clicks(trainer.window, cyclic_clicks(ITEMS, sessions=100, start_ms=2 * LATER_MS))
    assert isinstance(trainer.round().run(trainer.window.snapshot()), Published)
    trainer.read([ITEMS[0], "newer"])
    refresh = trainer.refresh()
    assert refresh is not None
    assert refresh.base == trainer.serving.version
    assert refresh.item_ids == ["newer"]


def test_few_stay_in_the_registry_and_none_counts_as_a_version(trainer: Trainer) -> None:
    for number in range(KEPT + 2):
        trainer.read([ITEMS[0], f"new-{number}"])
        trainer.refresh()
    names = [said.refresh for said in trainer.announcer.refreshes]
    assert Refreshes(trainer.registry.url).names() == names[-KEPT:]
    assert trainer.registry.versions() == [trainer.serving.version]


def test_a_pinned_version_and_one_without_companion_are_left_alone(tmp_path: Path) -> None:
    plain = Trainer(tmp_path / "plain", SMALL.model_copy(update={"companion": False}))
    plain.read([ITEMS[0], "new"])
    assert plain.refresh() is None
    pinned = Trainer(tmp_path / "pinned")
    said = pinned.announcer.serving()
    assert said is not None
    pinned.announcer.announce(
        Announcement(said.version, said.uri, said.sha256, "pin", said.metrics, said.announced_at_ms)
    )
    pinned.read([ITEMS[0], "new"])
    assert pinned.refresh() is None
    assert Refresher(SMALL, pinned.registry, Announcer(), pinned.tick).run(pinned.window.snapshot()) is None


def test_what_was_announced_stays_though_the_clock_goes_back(trainer: Trainer) -> None:
    for number in range(KEPT + 1):
        trainer.read([ITEMS[0], f"new-{number}"])
        trainer.refresh()
    trainer.now_ms = -1_000_000
    trainer.refresher = trainer.anew()
    for number in range(KEPT + 1):
        trainer.read([ITEMS[1], f"newer-{number}"])
        trainer.refresh()
        assert trainer.announcer.refreshes[-1].refresh in Refreshes(trainer.registry.url).names()


def test_refreshes_that_cannot_be_announced_do_not_pile_up(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: RefreshAnnouncement) -> None:
        raise KafkaUnavailableError("gone fishing")

    monkeypatch.setattr(trainer.announcer, "announce_refresh", away)
    for number in range(3 * KEPT):
        trainer.read([ITEMS[0], f"new-{number}"])
        with pytest.raises(KafkaUnavailableError):
            trainer.refresh()
    assert len(Refreshes(trainer.registry.url).names()) <= KEPT
