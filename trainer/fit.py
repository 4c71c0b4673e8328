"""A version from a table of clicks, without Kafka and without a gate."""

import torch

from model.clicks import ClickTable, sessionise
from model.registry import ModelVersion
from trainer.companion import train_anew
from trainer.fine_tune import OnProgress, ShouldStop, TrainReport
from trainer.learner import as_rows, new_learner
from trainer.settings import TrainerSettings


def fit(
    table: ClickTable,
    settings: TrainerSettings,
    *,
    version: str,
    created_at_ms: int,
    should_stop: ShouldStop = lambda: False,
    on_progress: OnProgress = lambda _done, _total: None,
) -> tuple[ModelVersion, TrainReport]:
    """Train a network from scratch, and its companion; see `trainer.companion.train_anew`.

    Args:
        table: Clicks in arrival order; sessions of one click are left out.
        settings: The network's shape, the recipe, and the device.
        version: The name of the version, see `model.registry.new_version_name`.
        created_at_ms: Milliseconds since the Unix epoch, UTC.
        should_stop: Asked before every mini-batch.
        on_progress: Told now and then how many of how many mini-batches are done.

    Returns:
        The version, ready for the registry, and what training did; where `is_complete` is false, it was told to stop.

    Raises:
        ValueError: No session has two clicks.
        TrainingDivergedError: The loss or a weight is not finite.
    """
    sessions = sessionise(table, idle_ms=settings.idle_ms, minimum_length=2)
    if len(sessions) == 0:
        raise ValueError(f"{len(table)} clicks hold no session of two clicks or more: nothing to learn from")
    generator = torch.Generator().manual_seed(settings.seed)
    learner = new_learner(sessions, table.item_ids, settings, generator)
    report, companion = train_anew(
        learner,
        as_rows(sessions, table.item_ids, learner.vocabulary),
        settings,
        generator=generator,
        should_stop=should_stop,
        on_progress=on_progress,
    )
    model_version = ModelVersion(
        version=version,
        parent=None,
        network=learner.network,
        vocabulary=learner.vocabulary,
        optimizer_state=learner.optimizer.state,
        training_settings=settings.recipe(),
        metrics={"loss": report.loss},
        created_at_ms=created_at_ms,
        companion=companion,
        transitions=learner.transitions if companion else None,
    )
    return model_version, report
