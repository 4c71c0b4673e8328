"""One round: choose clicks, fine-tune, gate, write the version, announce it. Knows no Kafka.

The version is whole before it is announced, and announcing is the last step: a crash anywhere before leaves the old
version serving.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.announcements import Announcement
from model.clicks import Sessions
from model.companion import Companion
from model.errors import DamagedVersionError
from model.registry import ModelVersion, Registry, new_version_name
from trainer.companion import count_new, train_anew
from trainer.errors import TrainingDivergedError
from trainer.fine_tune import OnProgress, ShouldStop, TrainReport, train
from trainer.gate import Verdict, judge
from trainer.learner import Learner, as_rows, grown_learner, new_learner
from trainer.scorers import PopularityScorer, Scorer, scorer_of
from trainer.selection import Selection, select
from trainer.settings import TrainerSettings
from trainer.window import WindowClicks


class Announcer(Protocol):
    """Knows which version serves, and says that another one does."""

    def serving(self) -> Announcement | None:
        """Return the announcement of the version that serves, or None where none does."""

    def announce(self, announcement: Announcement) -> None:
        """Make this version serve; returns when that is certain."""


@dataclass(frozen=True)
class Published:
    """The candidate serves now."""

    announcement: Announcement
    report: TrainReport
    verdict: Verdict
    selection: Selection


@dataclass(frozen=True)
class Refused:
    """There was a candidate, and it must not serve; `detail` says why in words."""

    reason: Literal["worse", "diverged", "superseded"]
    detail: str
    report: TrainReport | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Skipped:
    """There was nothing to do; `detail` says why in words."""

    reason: Literal["too-few-clicks", "too-few-cases", "pinned"]
    detail: str


@dataclass(frozen=True)
class Stopped:
    """It was told to stop before there was a candidate."""


RoundResult = Published | Refused | Skipped | Stopped


@dataclass(frozen=True)
class Round:
    """Holds rounds with one set of parts.

    Attributes:
        settings: The recipe, the gate's demands and the device.
        registry: Where versions live.
        announcer: Which of them serves.
        clock_ms: Wall clock, milliseconds since the Unix epoch, for names and timestamps.
        random_hex: Tells versions of one second apart.
    """

    settings: TrainerSettings
    registry: Registry
    announcer: Announcer
    clock_ms: Callable[[], int]
    random_hex: Callable[[], str] = field(default=lambda: secrets.token_hex(4))

    def run(
        self,
        window: WindowClicks,
        *,
        should_stop: ShouldStop = lambda: False,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> RoundResult:
        """Hold one round on what the window holds.

        Args:
            window: The newest clicks.
            should_stop: Asked before every mini-batch; once it says so, the round ends without a trace.
            on_progress: Told how many of how many mini-batches are done.

        Raises:
            RegistryUnavailableError: The registry cannot be read or written now.
            DamagedVersionError: The version that serves cannot be fine-tuned.
            UnknownVersionError: The version that serves is not in the registry.
            Exception: What the announcer raises.
        """
        serving = self.announcer.serving()
        if serving is not None and serving.action == "pin":
            return Skipped("pinned", f"version {serving.version} is pinned; unpin it to let new versions serve")
        incumbent = None if serving is None else self._load(serving)
        chosen = self._choose(window, incumbent)
        if isinstance(chosen, Skipped):
            return chosen
        try:
            report, companion = chosen.learn(self.settings, self.clock_ms(), should_stop, on_progress)
        except TrainingDivergedError as error:
            return Refused("diverged", str(error))
        if should_stop():
            return Stopped()
        return self._conclude(chosen, report, companion, serving)

    def _load(self, serving: Announcement) -> ModelVersion:
        if self.registry.manifest_sha256(serving.version) != serving.sha256:
            raise DamagedVersionError(serving.version, "hash", "its manifest is not the one that was announced")
        return self.registry.load(serving.version, training=True)

    def _conclude(
        self,
        candidate: "_Candidate",
        report: TrainReport,
        companion: Companion | None,
        serving: Announcement | None,
    ) -> Published | Refused:
        """Judge a trained candidate; write and announce it if it passes."""
        verdict = candidate.judge(companion, self.settings)
        if not verdict.publish:
            return Refused("worse", verdict.reason, report, verdict)
        manifest = self.registry.write(self._version(candidate, report, companion, verdict))
        if self.announcer.serving() != serving:
            return Refused("superseded", "another version was made to serve meanwhile", report, verdict)
        announcement = Announcement(
            version=manifest.version,
            uri=self.registry.location(manifest.version),
            sha256=manifest.sha256,
            action="promote",
            metrics=manifest.metrics,
            announced_at_ms=self.clock_ms(),
        )
        self.announcer.announce(announcement)
        return Published(announcement, report, verdict, candidate.selection)

    def _choose(self, window: WindowClicks, incumbent: ModelVersion | None) -> "_Candidate | Skipped":
        """Choose the round's clicks and make the untrained candidate for them."""
        settings = self.settings
        # The same window gives the same candidate; another window draws anew.
        seed = np.random.SeedSequence([settings.seed, *window.next_offsets.values()])
        selection = select(
            window,
            {} if incumbent is None else incumbent.trained_until,
            holdout_share=settings.holdout_share,
            replay_share=settings.replay_share,
            idle_ms=settings.idle_ms,
            generator=np.random.default_rng(seed),
        )
        if selection.new_clicks < settings.minimum_clicks:
            return Skipped(
                "too-few-clicks",
                f"{selection.new_clicks} new clicks to train on, minimum_clicks is {settings.minimum_clicks}",
            )
        candidate = _Candidate.untrained(selection, incumbent, settings, int(seed.generate_state(1)[0]))
        cases = int(candidate.cases.sum())
        if cases < settings.minimum_cases:
            return Skipped(
                "too-few-cases",
                f"{cases} held-out next clicks on known items, minimum_cases is {settings.minimum_cases}",
            )
        return candidate

    def _version(
        self, candidate: "_Candidate", report: TrainReport, companion: Companion | None, verdict: Verdict
    ) -> ModelVersion:
        now_ms = self.clock_ms()
        incumbent, learner = candidate.incumbent, candidate.learner
        return ModelVersion(
            version=new_version_name(now_ms, self.random_hex()),
            parent=None if incumbent is None else incumbent.version,
            network=learner.network,
            vocabulary=learner.vocabulary,
            optimizer_state=learner.optimizer.state,
            training_settings=self.settings.recipe(),
            trained_until=candidate.selection.trained_until,
            metrics=verdict.metrics | {"loss": report.loss},
            created_at_ms=now_ms,
            companion=companion,
            transitions=learner.transitions,
        )


@dataclass(frozen=True)
class _Candidate:
    """What a round is about: who learns, from which clicks, and who serves so far."""

    learner: Learner
    incumbent: ModelVersion | None
    selection: Selection
    held_out: Sessions
    cases: NDArray[np.bool_]
    generator: torch.Generator

    @staticmethod
    def untrained(
        selection: Selection, incumbent: ModelVersion | None, settings: TrainerSettings, seed: int
    ) -> "_Candidate":
        """Return a candidate that knows the selection's items and has yet to learn from them."""
        generator = torch.Generator().manual_seed(seed)
        training, item_ids = selection.training, selection.item_ids
        if incumbent is None:
            learner = new_learner(training, item_ids, settings, generator)
        else:
            learner = grown_learner(incumbent, training, item_ids, settings, generator)
        held_out = as_rows(selection.held_out, item_ids, learner.vocabulary)
        cases = selection.counted & (held_out.items >= 0)
        return _Candidate(learner, incumbent, selection, held_out, cases, generator)

    def learn(
        self, settings: TrainerSettings, now_ms: int, should_stop: ShouldStop, on_progress: OnProgress
    ) -> tuple[TrainReport, Companion | None]:
        """Train on the selection and count its new clicks; see `trainer.fine_tune.train` and `trainer.companion`."""
        rows = as_rows(self.selection.training, self.selection.item_ids, self.learner.vocabulary)
        if self.incumbent is None:
            return train_anew(
                self.learner,
                rows,
                settings,
                generator=self.generator,
                should_stop=should_stop,
                on_progress=on_progress,
            )
        companion = count_new(
            self.incumbent,
            self.learner,
            rows,
            self.selection.is_new,
            age_ms=now_ms - self.incumbent.created_at_ms,
            half_life_days=settings.companion_half_life_days,
        )
        report = train(
            self.learner.network,
            self.learner.optimizer,
            rows,
            settings,
            epochs=settings.epochs_round,
            generator=self.generator,
            should_stop=should_stop,
            on_progress=on_progress,
        )
        return report, companion

    def judge(self, companion: Companion | None, settings: TrainerSettings) -> Verdict:
        """Rank the held-out clicks with the candidate, as it would serve, and with what it must beat or match."""
        ours, theirs = (
            scorer.next_click_ranks(self.held_out, self.cases, "conservative")
            for scorer in (scorer_of(self.learner.network, companion), self._opponent(settings))
        )
        session = np.repeat(np.arange(len(self.held_out)), self.held_out.lengths)[self.cases]
        return judge(
            ours,
            theirs,
            session,
            confidence=settings.gate_confidence,
            margin=settings.gate_margin,
            must_win=self.incumbent is None,
        )

    def _opponent(self, settings: TrainerSettings) -> Scorer:
        """Return the incumbent as it serves, or popularity before the first version."""
        if self.incumbent is not None:
            return scorer_of(self.incumbent.network.to(settings.torch_device()), self.incumbent.companion)
        rows = as_rows(self.selection.training, self.selection.item_ids, self.learner.vocabulary).items
        return PopularityScorer(np.bincount(rows, minlength=self.learner.network.item_count))
