"""Ways to stay up to date: never, by retraining on everything, by plain fine-tuning, by the trainer's rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from model.announcements import Announcement, RefreshAnnouncement
from model.baselines.kinds import BASELINES
from model.baselines.scorer import BaselineScorer
from model.clicks import ClickTable, sessionise
from model.optimizer import SparseAdagrad
from model.registry import ModelVersion, Registry
from model.vocabulary import Vocabulary
from trainer.fine_tune import train
from trainer.fit import fit
from trainer.learner import as_rows, in_order_of_appearance
from trainer.refresh import Refresher
from trainer.retention import Announced
from trainer.round import Published, Round
from trainer.scorers import NetworkScorer, PopularityScorer, Scorer, scorer_of
from trainer.settings import TrainerSettings
from trainer.window import WindowClicks

NETWORK = "-network"
"""Behind a method's name: without the companion."""
REFRESHED = "-refreshed"
"""Behind a method's name: with the refreshes between its rounds."""


@dataclass(frozen=True)
class Answering:
    """A scorer and what the rows that it ranks mean."""

    scorer: Scorer
    vocabulary: Vocabulary


@dataclass(frozen=True)
class Served:
    """What answers at some moment.

    Attributes:
        answering: By the name of what it shows.
        vocabulary: Items that were learned, and not only counted.
        learned_until: Place of the first click of the table that it has not learned.
    """

    answering: Mapping[str, Answering]
    vocabulary: Vocabulary
    learned_until: int


class Method(Protocol):
    """Learns from a table of clicks, more of it each time."""

    def learn(self, end: int) -> Served:
        """Take in the clicks before a place; returns what answers from then on."""


def _served(name: str, version: ModelVersion, until: int) -> Served:
    answering = {name: _as_served(version)}
    if version.companion is not None:
        answering[name + NETWORK] = Answering(NetworkScorer(version.network), version.vocabulary)
    return Served(answering, version.vocabulary, until)


def _as_served(version: ModelVersion) -> Answering:
    return Answering(scorer_of(version.network, version.companion), version.vocabulary)


class Never:
    """Learns once."""

    def __init__(self, table: ClickTable, settings: TrainerSettings) -> None:
        self._table, self._settings = table, settings
        self._served: Served | None = None

    def learn(self, end: int) -> Served:
        """See `Method`."""
        if self._served is None:
            version, _ = fit(self._table.slice(0, end), self._settings, version="never", created_at_ms=0)
            self._served = _served("never", version, end)
        return self._served


class Retrain:
    """Learns everything so far from scratch, every time."""

    def __init__(self, table: ClickTable, settings: TrainerSettings) -> None:
        self._table, self._settings = table, settings

    def learn(self, end: int) -> Served:
        """See `Method`."""
        version, _ = fit(self._table.slice(0, end), self._settings, version="retrain", created_at_ms=0)
        return _served("retrain", version, end)


class Plain:
    """Goes on with the new clicks alone: a network without companion, replay or gate, a new optimizer every time."""

    def __init__(self, table: ClickTable, settings: TrainerSettings) -> None:
        self._table, self._settings = table, settings.model_copy(update={"companion": False})
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._version: ModelVersion | None = None
        self._until = 0

    def learn(self, end: int) -> Served:
        """See `Method`."""
        new = self._table.slice(self._until, end)
        if self._version is None:
            self._version, _ = fit(new, self._settings, version="plain", created_at_ms=0)
        else:
            self._version = self._fine_tuned(self._version, new)
        self._until = end
        return _served("plain", self._version, end)

    def _fine_tuned(self, version: ModelVersion, new: ClickTable) -> ModelVersion:
        settings = self._settings
        sessions = sessionise(new, idle_ms=settings.idle_ms, minimum_length=2)
        vocabulary = version.vocabulary.extended(in_order_of_appearance(sessions, new.item_ids))
        network = version.network.with_items(len(vocabulary), generator=self._generator)
        optimizer = SparseAdagrad(settings.learning_rate, settings.momentum, accumulator=settings.accumulator)
        rows = as_rows(sessions, new.item_ids, vocabulary)
        train(network, optimizer, rows, settings, epochs=settings.epochs_round, generator=self._generator)
        return ModelVersion("plain", None, network, vocabulary)


class Ours:
    """The trainer's rounds: the same code, with a table for a topic and a folder for a registry.

    Attributes:
        results: How many rounds came to what.
    """

    def __init__(
        self,
        table: ClickTable,
        settings: TrainerSettings,
        registry: Registry,
        clock_ms: Callable[[int], int],
        *,
        refreshes: bool,
    ) -> None:
        self._table, self._settings, self._registry = table, settings, registry
        self._clock_ms = clock_ms
        self._refreshes = refreshes
        self._serving: ModelVersion | None = None
        self._announcer = _Announcer()
        self._rounds = 0
        self.results: dict[str, int] = {}

    def learn(self, end: int) -> Served:
        """See `Method`; before the first version nothing is ranked well."""
        self._rounds += 1
        turn = Round(
            self._settings,
            self._registry,
            self._announcer,
            lambda: self._clock_ms(end),
            lambda: f"{self._rounds:06x}",
        )
        result = turn.run(self._window(end))
        kind = type(result).__name__.lower()
        reason = kind if isinstance(result, Published) else f"{kind}: {getattr(result, 'reason', '')}"
        self.results[reason] = self.results.get(reason, 0) + 1
        serving = self._announcer.serving()
        if serving is None:
            nothing = Answering(PopularityScorer(np.empty(0, dtype=np.int64)), Vocabulary([]))
            return Served(dict.fromkeys(self._names(), nothing), nothing.vocabulary, 0)
        if self._serving is None or serving.version != self._serving.version:
            self._serving = self._registry.load(serving.version, training=True)
        return self.refreshed(end)

    def refreshed(self, end: int) -> Served:
        """Take in the clicks before a place without a round; returns what answers from then on."""
        version = self._serving
        if version is None:
            return self.learn(end)
        served = _served("ours", version, version.trained_until[0])
        if not self._refreshes or version.companion is None:
            return served
        refresher = Refresher(self._settings, self._registry, self._announcer, lambda: self._clock_ms(end))
        refresh = refresher.refresh_of(version, self._window(end))
        if refresh is not None:
            version = refresh.applied_to(version)
        return replace(served, answering={**served.answering, "ours" + REFRESHED: _as_served(version)})

    def _names(self) -> list[str]:
        return ["ours", "ours" + NETWORK, *(["ours" + REFRESHED] if self._refreshes else [])]

    def _window(self, end: int) -> WindowClicks:
        start = max(0, end - self._settings.window_clicks)
        table = self._table.slice(start, end)
        return WindowClicks(table, np.zeros(len(table), dtype=np.int64), np.arange(start, end), {0: end})


class _Announcer:
    """Remembers what was announced."""

    def __init__(self) -> None:
        self._serving: Announcement | None = None

    def serving(self) -> Announcement | None:
        """See `trainer.round.Announcer`."""
        return self._serving

    def announced(self) -> Announced:
        """See `trainer.round.Announcer`; nothing is ever rejected here."""
        return Announced(self._serving)

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        """See `trainer.round.Announcer`."""
        replaced = self._serving == serving
        self._serving = announcement if replaced else self._serving
        return replaced

    def announce_refresh(self, announcement: RefreshAnnouncement) -> None:
        """See `trainer.refresh.RefreshAnnouncer`; nobody here hears of refreshes."""


class Counted:
    """A baseline that is fitted on everything so far, every time."""

    def __init__(self, name: str, table: ClickTable, settings: TrainerSettings) -> None:
        self._name, self._table, self._settings = name, table, settings

    def learn(self, end: int) -> Served:
        """See `Method`."""
        so_far = self._table.slice(0, end)
        sessions = sessionise(so_far, idle_ms=self._settings.idle_ms, minimum_length=2)
        vocabulary = Vocabulary(in_order_of_appearance(sessions, so_far.item_ids))
        kind = BASELINES[self._name]
        rows = as_rows(sessions, so_far.item_ids, vocabulary)
        generator = torch.Generator().manual_seed(self._settings.seed)
        baseline = kind.fit(rows, len(vocabulary), kind.settings_type(), generator)
        return Served({self._name: Answering(BaselineScorer(baseline), vocabulary)}, vocabulary, end)
