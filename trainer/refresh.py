"""Between two rounds: count what came since and append new items, without training; write that and announce it.

It takes the time of counting the newest clicks, so new items can be recommended within seconds of their first. Knows no
Kafka.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from model.announcements import Announcement, RefreshAnnouncement
from model.refresh import Refresh
from model.refreshes import Refreshes
from model.registry import ModelVersion, Registry, new_version_name
from model.transitions import Neighbours
from trainer.incumbent import load_incumbent
from trainer.learner import as_rows, in_order_of_appearance, with_new_items
from trainer.rejected import Span, misleading_clicks, rejected_spans
from trainer.retention import Announced
from trainer.selection import Lesson, unread
from trainer.settings import TrainerSettings
from trainer.window import WindowClicks

KEPT = 3
"""Refreshes that stay in the registry: a worker may still be about to read the one before the newest."""


def refreshed(
    base: ModelVersion,
    lesson: Lesson,
    item_ids: list[str],
    *,
    name: str,
    read_until: Mapping[int, int],
    now_ms: int,
) -> Refresh | None:
    """Return what the clicks of a lesson change about a version; None where they change nothing.

    A new item starts where a round would start it, see `trainer.learner.Learner.grown`.

    Args:
        base: Loaded with its counts.
        lesson: The clicks that it has not learned, with those that lead up to them; of codes.
        item_ids: What the codes mean.
        name: Of the refresh.
        read_until: See `Refresh`.
        now_ms: Wall clock.

    Raises:
        ValueError: The version was loaded without counts, or has none.
    """
    if base.transitions is None:
        raise ValueError(f"version {base.version} was loaded without its counts, or has no companion")
    if not len(lesson.sessions):
        return None
    new_ids = in_order_of_appearance(lesson.sessions, item_ids)
    generator = torch.Generator().manual_seed(base.created_at_ms % 2**63)
    network, vocabulary = with_new_items(
        base.network, base.vocabulary, new_ids, sessions=lesson.sessions, item_ids=item_ids, generator=generator
    )
    sessions = as_rows(lesson.sessions, item_ids, vocabulary)
    rows = np.unique(np.concatenate([sessions.items, np.arange(len(base.vocabulary), len(vocabulary))]))
    counts = base.transitions.around(rows[rows < len(base.vocabulary)])
    counts.grow(len(vocabulary))
    counts.add(sessions, lesson.is_new)
    return Refresh(
        name=name,
        base=base.version,
        item_ids=vocabulary.item_ids[len(base.vocabulary) :],
        vectors={table: vectors[len(base.vocabulary) :] for table, vectors in network.item_tables.items()},
        rows=rows,
        # Of other items that were copied only some pairs are there.
        neighbours=Neighbours.none(len(vocabulary)).replaced(rows, counts.neighbours()),
        read_until=dict(read_until),
        created_at_ms=now_ms,
    )


def with_unlearned(version: ModelVersion, lesson: Lesson, item_ids: list[str]) -> ModelVersion:
    """Return a version as it serves once it is refreshed; itself where it has no companion.

    Args:
        version: Loaded with its counts.
        lesson: See `refreshed`.
        item_ids: What the codes mean.
    """
    if version.transitions is None:
        return version
    refresh = refreshed(version, lesson, item_ids, name="refresh", read_until={}, now_ms=version.created_at_ms)
    return version if refresh is None else refresh.applied_to(version)


class RefreshAnnouncer(Protocol):
    """Knows which version serves, and says that there is a refresh of it."""

    def announced(self) -> Announced:
        """Return what serves, and what was last said about every version."""

    def announce_refresh(self, announcement: RefreshAnnouncement) -> None:
        """Let workers hear of a refresh; returns when that is certain."""


@dataclass
class Refresher:
    """Makes refreshes with one set of parts.

    Attributes:
        settings: The recipe.
        registry: Where versions live, and refreshes beside them.
        announcer: Which of them serves.
        clock_ms: Wall clock, milliseconds since the Unix epoch, for names and timestamps.
        random_hex: Tells refreshes of one second apart.
    """

    settings: TrainerSettings
    registry: Registry
    announcer: RefreshAnnouncer
    clock_ms: Callable[[], int]
    random_hex: Callable[[], str] = field(default=lambda: secrets.token_hex(4))
    _base: ModelVersion | None = field(default=None, init=False)
    _announced: str = field(default="", init=False)
    _read_until: dict[int, int] = field(default_factory=dict, init=False)
    _rejected: frozenset[str] = field(default=frozenset(), init=False)
    _spans: list[Span] = field(default_factory=list, init=False)

    def run(self, window: WindowClicks) -> Refresh | None:
        """Write and announce what the window holds that the serving version has not learned, nor a rejected one.

        None where nothing serves or what serves is pinned, has no companion, or has taken in every click already.

        Raises:
            RegistryUnavailableError: The registry cannot be read or written now.
            DamagedVersionError: The version that serves is not whole.
            UnknownVersionError: The version that serves is not in the registry.
            Exception: What the announcer raises.
        """
        announced = self.announcer.announced()
        serving = announced.serving
        if serving is None or serving.action == "pin":
            return None
        base = self._loaded(serving)
        if self._read_until == window.next_offsets:
            return None
        if self._rejected != announced.rejected:
            self._rejected, self._spans = announced.rejected, rejected_spans(self.registry, announced.rejected)
        refresh = self.refresh_of(base, window)
        if refresh is None:
            return None
        refreshes = Refreshes(self.registry.url)
        # Before there is one more: where announcing fails time and again, they would pile up.
        refreshes.make_room(keep=KEPT - 1, announced=self._announced)
        sha256 = refreshes.write(refresh, base.vocabulary.extended(refresh.item_ids))
        self.announcer.announce_refresh(RefreshAnnouncement(refresh.name, refresh.base, sha256, self.clock_ms()))
        self._announced, self._read_until = refresh.name, window.next_offsets
        return refresh

    def refresh_of(self, base: ModelVersion, window: WindowClicks) -> Refresh | None:
        """Return what the window holds that a version has not learned; None where that changes nothing.

        Args:
            base: Loaded with its counts; one without a companion is never changed.
            window: The newest clicks.
        """
        if base.transitions is None:
            return None
        now_ms = self.clock_ms()
        return refreshed(
            base,
            unread(window, base.trained_until, self.settings.idle_ms, misleading_clicks(window, self._spans)),
            window.table.item_ids,
            name=new_version_name(now_ms, self.random_hex()),
            read_until=window.next_offsets,
            now_ms=now_ms,
        )

    def _loaded(self, serving: Announcement) -> ModelVersion:
        if self._base is None or self._base.version != serving.version:
            self._base, self._read_until = None, {}  # the old one first: not both in memory
            loaded = load_incumbent(self.registry, serving, mend=False)
            assert loaded is not None  # only mending ends without a version
            self._base = replace(loaded, optimizer_state={})
        return self._base
