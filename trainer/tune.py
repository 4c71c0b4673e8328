"""A search for the settings that suit a shop: Optuna over the recipe, judged on clicks that come after the training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainer.errors import TrainingDivergedError
from trainer.evaluate import summary
from trainer.fine_tune import OnProgress
from trainer.fit import fit
from trainer.protocols import Protocol
from trainer.scorers import NetworkScorer
from trainer.settings import TrainerSettings

if TYPE_CHECKING:
    import optuna

CUTOFF = 20
STUDY = "nextclick"
_WIDTHS = (64, 96, 128, 192, 256)
# From where to where each setting is varied, on a logarithmic scale where it starts above zero.
_VARIED: Mapping[str, tuple[float, float]] = {
    "cosine_scale": (6.0, 20.0),
    "skip_weight": (0.25, 4.0),
    "trace_decay": (0.0, 0.9),
    "label_smoothing": (0.0, 0.4),
    "batch_size": (16, 256),
    "negative_samples": (128, 4096),
    "sampling_alpha": (0.0, 1.0),
    "learning_rate": (0.02, 0.3),
    "embedding_dropout": (0.0, 0.6),
    "hidden_dropout": (0.0, 0.5),
    "epochs_first": (2, 12),
}


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        settings: The best trial's values, by the trainer setting's name.
        metrics: What they reached on the validation clicks.
        trials: Trials that came to an end, earlier searches in the same journal included.
    """

    settings: dict[str, Any]
    metrics: dict[str, float]
    trials: int


def tune(
    protocol: Protocol,
    settings: TrainerSettings,
    *,
    trials: int,
    journal: Path,
    on_trial: Callable[[int, float], None] = lambda _trial, _best: None,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Tuned:
    """Train with one choice of settings after the other, and return the best by Recall@20 + MRR@20.

    The first trial takes the settings as they are, so that what is found is never worse on the validation clicks.

    Args:
        protocol: Clicks to learn from, and later ones, which judge.
        settings: Where the search begins; what it does not vary stays so.
        trials: How many to add.
        journal: File that every trial is written to as it ends; the same file goes on where an earlier search stopped.
        on_trial: Told after each trial its number and the best value so far.
        on_progress: See `trainer.fit.fit`; starts anew with each trial.

    Raises:
        ValueError: The training clicks hold no session of two clicks, or no trial came to an end.
    """
    # Here and not above: nothing else needs it, and it takes a second to import.
    import optuna  # noqa: PLC0415
    from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
        study_name=STUDY,
        direction="maximize",
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(_as_trial(settings))

    def run(trial: "optuna.Trial") -> float:
        metrics = _metrics(protocol, _chosen(trial, settings), on_progress)
        for name, value in metrics.items():
            trial.set_user_attr(name, value)
        return metrics[f"recall@{CUTOFF}"] + metrics[f"mrr@{CUTOFF}"]

    study.optimize(
        run,
        n_trials=trials,
        catch=(TrainingDivergedError, ValidationError),
        callbacks=[lambda study, trial: on_trial(trial.number, _best_value(study))],
    )
    return _tuned(study)


def _best_value(study: "optuna.Study") -> float:
    ended = [trial.value for trial in study.trials if trial.value is not None]
    return max(ended, default=float("nan"))


def _tuned(study: "optuna.Study") -> Tuned:
    ended = [trial for trial in study.trials if trial.value is not None]
    if not ended:
        raise ValueError("no trial came to an end: every choice of settings diverged; start from a lower learning_rate")
    best = study.best_trial
    return Tuned(_as_settings(best.params), dict(best.user_attrs), len(ended))


def _as_trial(settings: TrainerSettings) -> dict[str, Any]:
    """Return the settings as the parameters of a trial."""
    values = settings.model_dump(include=set(_VARIED))
    return values | {"width": settings.embedding_size}


def _as_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's parameters as settings, which a file can keep."""
    values = dict(parameters)
    width = values.pop("width")
    return values | {"embedding_size": width, "hidden_sizes": [width]}


def _chosen(trial: "optuna.Trial", settings: TrainerSettings) -> TrainerSettings:
    """Return the settings of one trial."""
    width = trial.suggest_categorical("width", sorted({*_WIDTHS, settings.embedding_size}))
    parameters: dict[str, Any] = {"width": width}
    for name, (lowest, highest) in _VARIED.items():
        start = getattr(settings, name)
        low, high = min(lowest, start), max(highest, start)  # the first trial takes the settings as they are
        suggest = trial.suggest_int if isinstance(lowest, int) else trial.suggest_float
        parameters[name] = suggest(name, low, high, log=low > 0)
    return TrainerSettings.model_validate(settings.model_dump() | _as_settings(parameters))


def _metrics(protocol: Protocol, settings: TrainerSettings, on_progress: OnProgress) -> dict[str, float]:
    # The network alone: a companion would be worth about the same beside each, and costs time.
    alone = settings.model_copy(update={"companion": False})
    version, _ = fit(protocol.train, alone, version="trial", created_at_ms=0, on_progress=on_progress)
    sessions, counted = protocol.cases(version.vocabulary)
    return summary(NetworkScorer(version.network).next_click_ranks(sessions, counted, "conservative"), (CUTOFF,))
