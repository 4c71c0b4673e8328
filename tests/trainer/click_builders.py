"""Clicks whose best possible recommender is known, and the parts that rounds are tested with."""

from collections.abc import Iterable, Sequence

import numpy as np

from model.announcements import Announcement
from model.clicks import Click, ClickTable
from trainer.retention import Announced
from trainer.settings import TrainerSettings
from trainer.window import Window

MINUTE_MS = 60_000

# A network that learns a handful of items in well under a second.
SMALL = TrainerSettings(
    embedding_size=16,
    hidden_sizes=(16,),
    skip_weight=1.0,
    trace_decay=0.0,
    batch_size=16,
    negative_samples=8,
    embedding_dropout=0.0,
    hidden_dropout=0.0,
    label_smoothing=0.0,
    learning_rate=0.1,
    cosine_scale=0.0,
    epochs_first=8,
    epochs_round=8,
    minimum_clicks=50,
    first_round_clicks=100,
    round_clicks=100,
    window_clicks=10_000,
    minimum_cases=20,
)


def cyclic_clicks(items: Sequence[str], *, sessions: int, clicks: int = 8, start_ms: int = 0) -> list[Click]:
    """Return sessions that go round the items in order, each from another one, a minute apart."""
    return [
        Click(f"s{start_ms + session}", items[(session + step) % len(items)], start_ms + session * MINUTE_MS + step)
        for session in range(sessions)
        for step in range(clicks)
    ]


def shuffled_clicks(
    items: Sequence[str], generator: np.random.Generator, *, sessions: int, clicks: int = 8, start_ms: int = 0
) -> list[Click]:
    """Return sessions in which every item is drawn anew, all equally likely: nothing can be learnt."""
    drawn = generator.integers(len(items), size=(sessions, clicks))
    return [
        Click(f"s{start_ms + session}", items[drawn[session, step]], start_ms + session * MINUTE_MS + step)
        for session in range(sessions)
        for step in range(clicks)
    ]


def wandering_clicks(
    items: Sequence[str], steps: range, generator: np.random.Generator, *, sessions: int, start_ms: int = 0
) -> list[Click]:
    """Return sessions of 8 clicks that go round the items, each time by another of the steps.

    Whoever has learned such clicks knows that any of the steps may be next; other steps are other habits.
    """
    begins = generator.integers(len(items), size=(sessions, 1))
    walked = np.cumsum(np.hstack([begins, generator.choice(steps, size=(sessions, 7))]), axis=1) % len(items)
    return [
        Click(f"s{start_ms + session}", items[walked[session, step]], start_ms + session * MINUTE_MS + step)
        for session in range(sessions)
        for step in range(8)
    ]


def table_of(clicks: Iterable[Click]) -> ClickTable:
    return ClickTable.from_clicks(clicks)


def window_of(clicks: Sequence[Click], *, partitions: int = 2, capacity: int = 10_000) -> Window:
    """Return a window over clicks that were produced in this order, a session's clicks to one partition."""
    window = Window(capacity)
    add_clicks(window, clicks, partitions=partitions)
    return window


def add_clicks(window: Window, clicks: Sequence[Click], *, partitions: int = 2) -> None:
    """Let more clicks arrive in a window."""
    for partition in range(partitions):
        its_clicks = [click for click in clicks if sum(click.session_id.encode()) % partitions == partition]
        first = window.next_offsets.get(partition, 0)
        offsets = range(first, first + len(its_clicks))
        window.extend(partition, offsets, its_clicks, first + len(its_clicks))


class MemoryAnnouncer:
    """The models topic as a list."""

    def __init__(self, serving: Announcement | None = None) -> None:
        self.said = [serving] if serving else []

    def serving(self) -> Announcement | None:
        return next((said for said in reversed(self.said) if said.action != "reject"), None)

    def announced(self) -> Announced:
        last = {said.version: said.action for said in self.said}
        held, rejected = ({name for name in last if last[name] == action} for action in ("pin", "reject"))
        return Announced(self.serving(), frozenset(last), frozenset(held), frozenset(rejected))

    def announce(self, announcement: Announcement) -> None:
        self.said.append(announcement)

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        if self.serving() != serving:
            return False
        self.announce(announcement)
        return True
