"""The companion of a version in the making: its counts grow from version to version, its weights suit unseen clicks."""

from functools import partial

import numpy as np
import torch

from model.clicks import DAY_MS, Sessions
from model.companion import Companion, Mixing
from model.registry import ModelVersion
from trainer.fine_tune import OnProgress, ShouldStop, TrainReport, train
from trainer.learner import Learner
from trainer.mixing_fit import Cases, fit_mixing, unseen_cases
from trainer.selection import Lesson
from trainer.settings import TrainerSettings

NEWEST_SHARE = 0.05
"""Newest share of the first sessions, which the weights are chosen on before it is learned from."""


def train_anew(
    learner: Learner,
    sessions: Sessions,
    settings: TrainerSettings,
    *,
    generator: torch.Generator,
    should_stop: ShouldStop = lambda: False,
    on_progress: OnProgress = lambda _done, _total: None,
) -> tuple[TrainReport, Companion | None]:
    """Train an untrained learner for `epochs_first` epochs; returns the companion that goes with it, if one is wanted.

    The newest sessions wait until the others have had all epochs but the last. So there is a network, nearly as good as
    it will be, and there are counts to choose the weights with on clicks that neither knows. Then the newest catch up,
    and the last epoch plays all. A single epoch is played twice.

    Args:
        learner: It changes.
        sessions: Of rows, by their start.
        settings: The recipe.
        generator: Source of every random choice.
        should_stop: Asked before every mini-batch.
        on_progress: Told now and then how many of how many mini-batches are done.

    Raises:
        TrainingDivergedError: The loss or a weight is not finite.
    """
    learn = partial(
        train, learner.network, learner.optimizer, settings=settings, generator=generator, should_stop=should_stop
    )
    newest = np.arange(len(sessions)) >= len(sessions) - max(1, int(len(sessions) * NEWEST_SHARE))
    if learner.transitions is None:
        return learn(sessions=sessions, epochs=settings.epochs_first, on_progress=on_progress), None
    if newest.all():
        report = learn(sessions=sessions, epochs=settings.epochs_first, on_progress=on_progress)
        learner.transitions.add(sessions)
        return report, Companion(learner.transitions.neighbours(), Mixing())
    older, unseen, epochs = sessions.subset(~newest), sessions.subset(newest), max(1, settings.epochs_first - 1)
    report = learn(
        sessions=older, epochs=epochs, on_progress=lambda done, total: on_progress(done, total + total // epochs)
    )
    if not report.is_complete:
        return report, None
    learner.transitions.add(older)
    mixing = fit_mixing(unseen_cases(learner.network, learner.transitions.neighbours(), unseen)).mixing
    learner.transitions.add(unseen)
    report = report.followed_by(learn(sessions=unseen, epochs=epochs))
    if report.is_complete:
        report = report.followed_by(
            learn(
                sessions=sessions,
                epochs=1,
                on_progress=lambda done, total: on_progress(epochs * total + done, (epochs + 1) * total),
            )
        )
    return report, Companion(learner.transitions.neighbours(), mixing)


def new_cases(parent: ModelVersion, learner: Learner, lesson: Lesson) -> Cases | None:
    """Return a round's new clicks as its parent, which has not seen them, would have met them.

    Args:
        parent: What the learner was grown from.
        learner: Where it learns is where the parent is asked.
        lesson: Of the learner's rows.

    Returns:
        None where no companion is wanted or the parent has none.
    """
    if learner.transitions is None or parent.companion is None:
        return None
    network = parent.network.to(learner.network.input_table.device)
    return unseen_cases(network, parent.companion.neighbours, lesson.sessions, counted=lesson.is_new)


def count_new(
    parent: ModelVersion,
    learner: Learner,
    lesson: Lesson,
    cases: Cases | None,
    *,
    age_ms: int,
    half_life_days: float,
) -> Companion | None:
    """Add a round's new clicks to what a learner has counted; returns the companion of its version, if one is wanted.

    Args:
        parent: What the learner was grown from.
        learner: Its counts change.
        lesson: Of the learner's rows.
        cases: What the weights are chosen on, see `new_cases`.
        age_ms: Time since the parent was made.
        half_life_days: Age at which what the parent counted is worth half.
    """
    if learner.transitions is None:
        return None
    mixing = Mixing()
    if cases is not None and parent.companion is not None:
        mixing = fit_mixing(cases, parent.companion.mixing).mixing
    learner.transitions.decay(0.5 ** (max(0, age_ms) / (half_life_days * DAY_MS)))
    return count(learner, lesson, mixing)


def count(learner: Learner, lesson: Lesson, mixing: Mixing) -> Companion | None:
    """Add a lesson's new clicks to what a learner has counted; returns its companion, if one is wanted."""
    if learner.transitions is None:
        return None
    learner.transitions.add(lesson.sessions, lesson.is_new)
    return Companion(learner.transitions.neighbours(), mixing)
