"""The training loop on one page: session-parallel mini-batches, sampled candidates, sparse Adagrad."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Step, session_parallel
from model.clicks import Sessions
from model.gru4rec import GRU4Rec
from model.optimizer import SparseAdagrad
from trainer.averaging import WeightAverage
from trainer.errors import TrainingDivergedError
from trainer.plain_step import TrainingStep
from trainer.settings import TrainerSettings

_CHECK_EVERY_STEPS = 200  # looking at the loss makes a GPU wait, so it is looked at only now and then

_log = structlog.get_logger(__name__)

ShouldStop = Callable[[], bool]
OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class TrainReport:
    """What training did.

    Attributes:
        loss: Mean over the mini-batches of the last epoch.
        clicks: Transitions learned from, each epoch counted.
        seconds: Wall time.
        is_complete: False where it was told to stop before the end.
    """

    loss: float
    clicks: int
    seconds: float
    is_complete: bool

    def followed_by(self, other: "TrainReport") -> "TrainReport":
        """Return the report of both trainings, this one the first."""
        return TrainReport(
            other.loss, self.clicks + other.clicks, self.seconds + other.seconds, is_complete=other.is_complete
        )

    @property
    def clicks_per_second(self) -> float:
        """Transitions learned from in a second."""
        return self.clicks / self.seconds if self.seconds else 0.0


def train(
    network: GRU4Rec,
    optimizer: SparseAdagrad,
    sessions: Sessions,
    settings: TrainerSettings,
    *,
    epochs: int,
    generator: torch.Generator,
    learned: NDArray[np.bool_] | None = None,
    should_stop: ShouldStop = lambda: False,
    on_progress: OnProgress = lambda _done, _total: None,
) -> TrainReport:
    """Train the network in place.

    Args:
        network: On the device to train on; its tensors change.
        optimizer: With what earlier rounds left in it; it changes too.
        sessions: Of rows, in the order in which they are played.
        settings: The recipe.
        epochs: Passes over the sessions.
        generator: On the CPU; source of every random choice.
        learned: bool, one for each of `sessions.items`, false for those that only lead up to others; by default all
            true.
        should_stop: Asked before every mini-batch.
        on_progress: Told now and then how many of how many mini-batches are done.

    Raises:
        TrainingDivergedError: The loss or a weight is not finite; the network is useless now.
    """
    schedule = session_parallel(sessions, settings.batch_size, settings.backprop_steps, learned)
    average = WeightAverage.of(network, settings)
    step_of = choose_step(network, optimizer, sessions, settings, generator)
    started_s, clicks, total = time.perf_counter(), 0, len(schedule) * epochs
    loss, stopped = torch.zeros((), device=step_of.device), False
    for epoch in range(epochs):
        step_of.start_epoch()
        loss = torch.zeros((), device=step_of.device)
        for done, step in enumerate(schedule, start=epoch * len(schedule)):
            if stopped := should_stop():
                break
            loss += step_of(step)
            average.note_step()
            clicks += int(np.count_nonzero(step.learned))
            if done % _CHECK_EVERY_STEPS == 0:
                _require_finite_loss(loss)
                on_progress(done, total)
        if stopped:
            break
    average.apply()
    _require_finite_loss(loss)
    require_finite(network)
    if not stopped:
        on_progress(total, total)
    return TrainReport(
        float(loss) / max(1, len(schedule)), clicks, time.perf_counter() - started_s, is_complete=not stopped
    )


class MiniBatchStep(Protocol):
    """Trains on one mini-batch after the other; holds the states that lanes carry."""

    device: torch.device

    def start_epoch(self) -> None:
        """Forget the carried states."""

    def __call__(self, step: Step) -> Tensor:
        """Train on one mini-batch; returns its loss, a scalar that the next call may overwrite."""


def choose_step(
    network: GRU4Rec,
    optimizer: SparseAdagrad,
    sessions: Sessions,
    settings: TrainerSettings,
    generator: torch.Generator,
) -> MiniBatchStep:
    """Return the fast step where it covers the network and the recipe, the plain one elsewhere; compiled and ready."""
    # Here and not above: only who trains on a CPU needs a compiler in memory.
    from trainer.fast_step import FastStep, compile_kernels, uncovered  # noqa: PLC0415

    if reason := uncovered(network, optimizer, settings):
        _log.info("training without compiled kernels", not_covered=reason)
        return TrainingStep(network, optimizer, sessions, settings, generator)
    compile_kernels()
    return FastStep(network, optimizer, sessions, settings, generator)


def _require_finite_loss(loss: Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise TrainingDivergedError(f"the loss became {float(loss)}; lower the learning rate")


def require_finite(network: GRU4Rec) -> None:
    """Raise `TrainingDivergedError` where a weight is not a finite number."""
    for name, tensor in network.parameters.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingDivergedError(f"the parameter {name!r} is no longer finite; lower the learning rate")
