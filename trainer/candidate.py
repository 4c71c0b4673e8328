"""A version in the making: it learns, is compared with the version that serves, and learns the rest."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.clicks import Sessions
from model.companion import Companion, Mixing
from model.registry import ModelVersion
from trainer.companion import count, count_new, new_cases, train_anew
from trainer.fine_tune import OnProgress, ShouldStop, TrainReport, train
from trainer.gate import Verdict, judge
from trainer.learner import Learner, as_rows, grown_learner, new_learner
from trainer.mixing_fit import Cases, fit_mixing, unseen_cases
from trainer.refresh import with_unlearned
from trainer.scorers import PopularityScorer, Scorer, scorer_of
from trainer.selection import Lesson, Selection
from trainer.settings import TrainerSettings

BROKEN_MARGIN = 0.05
"""How much worse, in Recall@20 and MRR@20, a candidate may become on clicks that it has learned since."""


@dataclass(frozen=True)
class Candidate:
    """What a round is about: who learns, from which clicks, and who serves so far.

    Attributes:
        settings: The recipe and the gate's demands.
        learner: What learns.
        companion: What goes with it once it has learned; None where none is wanted.
        incumbent: The version that serves, loaded with its optimizer state; None before the first.
        selection: The round's clicks.
        held_out: Those of the gate as rows, -1 for items that no training click is on.
        counted: bool, one for each of `held_out.items`: whether it is a case.
        generator: Source of every random choice.
        cases: The new training clicks as the incumbent would have met them, for the companion's weights; None where
            there are none.
    """

    settings: TrainerSettings
    learner: Learner
    companion: Companion | None
    incumbent: ModelVersion | None
    selection: Selection
    held_out: Sessions
    counted: NDArray[np.bool_]
    generator: torch.Generator
    cases: Cases | None = None

    @staticmethod
    def untrained(
        selection: Selection, incumbent: ModelVersion | None, settings: TrainerSettings, seed: int
    ) -> "Candidate":
        """Return a candidate that knows the training clicks' items and has yet to learn from them."""
        generator = torch.Generator().manual_seed(seed)
        training, item_ids = selection.training.sessions, selection.item_ids
        if incumbent is None:
            learner = new_learner(training, item_ids, settings, generator)
        else:
            learner = grown_learner(incumbent, training, item_ids, settings, generator)
        held_out = as_rows(selection.held_out, item_ids, learner.vocabulary)
        counted = selection.counted & (held_out.items >= 0)
        return Candidate(settings, learner, None, incumbent, selection, held_out, counted, generator)

    def trained(self, now_ms: int, should_stop: ShouldStop, on_progress: OnProgress) -> tuple["Candidate", TrainReport]:
        """Learn and count the training clicks; see `trainer.fine_tune.train` and `trainer.companion`.

        Args:
            now_ms: Wall clock, for how much the incumbent's counts have faded.
            should_stop: Asked before every mini-batch.
            on_progress: Told how many of how many mini-batches are done.

        Raises:
            TrainingDivergedError: The loss or a weight is not finite.
        """
        lesson = _as_rows(self.selection.training, self.selection, self.learner)
        if self.incumbent is None:
            report, companion = train_anew(
                self.learner,
                lesson.sessions,
                self.settings,
                generator=self.generator,
                should_stop=should_stop,
                on_progress=on_progress,
            )
            return replace(self, companion=companion), report
        cases = new_cases(self.incumbent, self.learner, lesson)
        companion = count_new(
            self.incumbent,
            self.learner,
            lesson,
            cases,
            age_ms=now_ms - self.incumbent.created_at_ms,
            half_life_days=self.settings.companion_half_life_days,
        )
        report = _learn(self, lesson, self.settings.epochs_round, should_stop, on_progress)
        return replace(self, companion=companion, cases=cases), report

    def taught_rest(self, should_stop: ShouldStop) -> tuple["Candidate", TrainReport]:
        """Learn and count the held-out clicks too, their new items appended; the gate has no more use for them.

        Before that the mixing weights are chosen once more, on them too: they are the newest clicks, and still unseen,
        but alone too few. Then they catch up with the others, and a last epoch plays all: the newest alone would drive
        out what was learned before.

        Raises:
            TrainingDivergedError: The loss or a weight is not finite.
        """
        mixing = self._mixing_of_held_out()
        learner = self.learner.grown(self.selection.rest.sessions, self.selection.item_ids, self.generator)
        lesson = _as_rows(self.selection.rest, self.selection, learner)
        taught = replace(self, learner=learner, companion=count(learner, lesson, mixing))
        epochs = self.settings.epochs_first if self.incumbent is None else self.settings.epochs_round
        report = _learn(taught, lesson, max(1, epochs - 1), should_stop)
        if report.is_complete:
            whole = _as_rows(self.selection.training, self.selection, learner).followed_by(lesson)
            report = report.followed_by(_learn(taught, whole, 1, should_stop))
        return taught, report

    def _mixing_of_held_out(self) -> Mixing:
        if self.companion is None:
            return Mixing()
        cases = unseen_cases(self.learner.network, self.companion.neighbours, self.held_out, counted=self.counted)
        if self.cases is not None:
            cases = Cases.joined([self.cases, cases])
        return fit_mixing(cases, self.companion.mixing).mixing

    def ranks(self) -> NDArray[np.int64]:
        """Rank the held-out clicks as it would serve, int64 [cases]."""
        scorer = scorer_of(self.learner.network, self.companion)
        return scorer.next_click_ranks(self.held_out, self.counted, "conservative")

    def judged(self, ranks: NDArray[np.int64]) -> Verdict:
        """Compare its ranks with those of what it must beat or match."""
        theirs = self._opponent().next_click_ranks(self.held_out, self.counted, "conservative")
        return self._compared(ranks, theirs, margin=self.settings.gate_margin, must_win=self.incumbent is None)

    def unbroken(self, before: NDArray[np.int64]) -> Verdict:
        """Compare its ranks, now that it has learned the held-out clicks, with those from before that.

        Learning moves them a little either way; only what falls far is broken.
        """
        return self._compared(self.ranks(), before, margin=BROKEN_MARGIN)

    def _compared(
        self, ours: NDArray[np.int64], theirs: NDArray[np.int64], *, margin: float, must_win: bool = False
    ) -> Verdict:
        session = np.repeat(np.arange(len(self.held_out)), self.held_out.lengths)[self.counted]
        return judge(
            ours,
            theirs,
            session,
            confidence=self.settings.gate_confidence,
            margin=margin,
            must_win=must_win,
        )

    def _opponent(self) -> Scorer:
        """Return the incumbent as it serves, refreshed on the training clicks, or popularity before the first."""
        if self.incumbent is not None:
            serving = self.incumbent
            if self.settings.refresh_interval_s is not None:
                serving = with_unlearned(serving, self.selection.training, self.selection.item_ids)
            return scorer_of(serving.network.to(self.settings.torch_device()), serving.companion)
        rows = _as_rows(self.selection.training, self.selection, self.learner).sessions.items
        return PopularityScorer(np.bincount(rows, minlength=self.learner.network.item_count))


def _as_rows(lesson: Lesson, selection: Selection, learner: Learner) -> Lesson:
    return replace(lesson, sessions=as_rows(lesson.sessions, selection.item_ids, learner.vocabulary))


def _learn(
    candidate: Candidate,
    lesson: Lesson,
    epochs: int,
    should_stop: ShouldStop,
    on_progress: OnProgress = lambda _done, _total: None,
) -> TrainReport:
    return train(
        candidate.learner.network,
        candidate.learner.optimizer,
        lesson.sessions,
        candidate.settings if candidate.incumbent is None else candidate.settings.of_rounds(),
        epochs=epochs,
        generator=candidate.generator,
        learned=lesson.learned,
        should_stop=should_stop,
        on_progress=on_progress,
    )
