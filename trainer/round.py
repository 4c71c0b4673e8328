"""One round: choose clicks, fine-tune, gate, learn the rest, write the version, announce it. Knows no Kafka.

The version is whole before it is announced, and announcing is the last step: a crash anywhere before leaves the old
version serving.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.announcements import Announcement
from model.registry import ModelVersion, Registry, new_version_name
from trainer.candidate import Candidate
from trainer.fine_tune import OnProgress, ShouldStop, TrainReport
from trainer.gate import Verdict
from trainer.incumbent import load_incumbent
from trainer.rejected import misleading_clicks, rejected_spans
from trainer.retention import Announced
from trainer.selection import Selection, select
from trainer.settings import TrainerSettings
from trainer.window import WindowClicks


class Announcer(Protocol):
    """Knows which version serves, and says that another one does."""

    def serving(self) -> Announcement | None:
        """Return the announcement of the version that serves, or None where none does."""

    def announced(self) -> Announced:
        """Return what serves, and what was last said about every version."""

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        """Make a version serve in place of `serving`; returns when that is certain.

        Returns:
            False where that may not be: another version was made to serve meanwhile, or another trainer is at work.
        """


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

    reason: Literal["worse", "broken", "superseded"]
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
        mend: bool = False,
        should_stop: ShouldStop = lambda: False,
        on_progress: OnProgress = lambda _done, _total: None,
    ) -> RoundResult:
        """Hold one round on what the window holds.

        Args:
            window: The newest clicks.
            mend: Go on from an earlier version, or from scratch, where the one that serves is damaged or gone.
            should_stop: Asked before every mini-batch; once it says so, the round ends without a trace.
            on_progress: Told how many of how many mini-batches are done.

        Raises:
            RegistryUnavailableError: The registry cannot be read or written now.
            DamagedVersionError: The version that serves cannot be fine-tuned; never with `mend`.
            UnknownVersionError: The version that serves is not in the registry; never with `mend`.
            TrainingDivergedError: The candidate's loss or a weight is not finite; it is thrown away.
            Exception: What the announcer raises.
        """
        announced = self.announcer.announced()
        serving, rejected = announced.serving, announced.rejected
        if serving is not None and serving.action == "pin":
            return Skipped("pinned", f"version {serving.version} is pinned; unpin it to let new versions serve")
        incumbent = None
        if serving is not None:
            incumbent = load_incumbent(self.registry, serving, mend=mend, rejected=rejected)
        chosen = self._choose(window, incumbent, misleading_clicks(window, rejected_spans(self.registry, rejected)))
        if isinstance(chosen, Skipped):
            return chosen
        return self._held(chosen, serving, should_stop, on_progress)

    def _held(
        self, chosen: Candidate, serving: Announcement | None, should_stop: ShouldStop, on_progress: OnProgress
    ) -> RoundResult:
        """Let a candidate learn and be judged."""
        trained, report = chosen.trained(self.clock_ms(), should_stop, on_progress)
        if should_stop():
            return Stopped()
        ranks = trained.ranks()
        verdict = trained.judged(ranks)
        if not verdict.publish:
            return Refused("worse", verdict.reason, report, verdict)
        taught, rest = trained.taught_rest(should_stop)
        if not rest.is_complete:
            return Stopped()
        unbroken = taught.unbroken(ranks)
        report = report.followed_by(rest)
        if not unbroken.publish:
            return Refused("broken", f"after the held-out clicks were learned: {unbroken.reason}", report, unbroken)
        return self._publish(taught, report, verdict, serving)

    def _publish(
        self, candidate: Candidate, report: TrainReport, verdict: Verdict, serving: Announcement | None
    ) -> Published | Refused:
        """Write and announce a candidate that passed, unless another version was made to serve meanwhile."""
        manifest = self.registry.write(self._version(candidate, report, verdict))
        announcement = Announcement(
            version=manifest.version,
            uri=self.registry.location(manifest.version),
            sha256=manifest.sha256,
            action="promote",
            metrics=manifest.metrics,
            announced_at_ms=self.clock_ms(),
        )
        if not self.announcer.replace(serving, announcement):
            detail = "another version was made to serve meanwhile, or another trainer took over"
            return Refused("superseded", detail, report, verdict)
        return Published(announcement, report, verdict, candidate.selection)

    def _choose(
        self, window: WindowClicks, incumbent: ModelVersion | None, misleading: NDArray[np.bool_]
    ) -> Candidate | Skipped:
        """Choose the round's clicks and make the untrained candidate for them."""
        settings = self.settings
        # The same window gives the same candidate; another window draws anew.
        seed = np.random.SeedSequence([settings.seed, *window.next_offsets.values()])
        selection = select(
            window,
            {} if incumbent is None else incumbent.trained_until,
            misleading=misleading,
            holdout_share=settings.holdout_share,
            holdout_clicks=settings.holdout_clicks,
            replay_share=settings.replay_share,
            idle_ms=settings.idle_ms,
            generator=np.random.default_rng(seed),
        )
        if selection.new_clicks < settings.minimum_clicks:
            return Skipped(
                "too-few-clicks",
                f"{selection.new_clicks} new clicks to train on, minimum_clicks is {settings.minimum_clicks}",
            )
        candidate = Candidate.untrained(selection, incumbent, settings, int(seed.generate_state(1)[0]))
        cases = int(candidate.counted.sum())
        if cases < settings.minimum_cases:
            return Skipped(
                "too-few-cases",
                f"{cases} held-out next clicks on known items, minimum_cases is {settings.minimum_cases}",
            )
        return candidate

    def _version(self, candidate: Candidate, report: TrainReport, verdict: Verdict) -> ModelVersion:
        now_ms = self.clock_ms()
        incumbent, learner = candidate.incumbent, candidate.learner
        return ModelVersion(
            version=new_version_name(now_ms, self.random_hex()),
            parent=None if incumbent is None else incumbent.version,
            network=learner.network,
            vocabulary=learner.vocabulary,
            optimizer_state=learner.optimizer.state,
            training_settings=self.settings.recipe(),
            trained_until=candidate.selection.read_until,
            metrics=verdict.metrics | {"loss": report.loss},
            created_at_ms=now_ms,
            companion=candidate.companion,
            transitions=learner.transitions,
        )
