"""How many clicks a second training takes in, beside the plain step and beside PyTorch's own parts.

All three train on the same generated clicks and take turns, so that whatever else the machine does meets them alike.
One thread on the CPU is timed by the processor's clock, which stands still while others have the core; everything
else by the wall's. Compiling, drawing clicks and the first mini-batches are not timed.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
import torch

from deploy.bench.environment import environment
from deploy.bench.plain_torch import PlainTorchStep
from deploy.click_generator import generate_clicks
from deploy.shop import Shop, ShopSettings
from model.batches import Schedule, Step, session_parallel
from model.clicks import Sessions, sessionise
from model.gru4rec import GRU4Rec
from model.losses import LossName
from model.optimizer import SparseAdagrad
from trainer.fine_tune import MiniBatchStep, choose_step
from trainer.plain_step import TrainingStep
from trainer.settings import MatmulPrecision, TrainerSettings

WARM_UP_STEPS = 20


@dataclass(frozen=True)
class TrainBench:
    """What is measured.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        hidden: Width of the hidden vector and of the item vectors.
        batch: Sessions side by side.
        samples: Items drawn for each mini-batch.
        loss: What is minimised.
        clicks: Clicks to train on, over and over.
        seconds: Of each turn.
        repeats: Turns of each.
        items: Items of the shop.
        threads: Of the tensor library.
        matmul_precision: Of its products of matrices, see `trainer.settings.TrainerSettings`.
        seed: Of weights and clicks.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    hidden: int = 96
    batch: int = 64
    samples: int = 512
    loss: LossName = "cross_entropy"
    clicks: int = 100_000
    seconds: float = 5.0
    repeats: int = 3
    items: int = 10_000
    threads: int = 1
    matmul_precision: MatmulPrecision = "highest"
    seed: int = 0


def run(bench: TrainBench, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure, and return the medians with minimum and maximum, the settings and the environment.

    Args:
        bench: What is measured.
        note: Told what happens now.

    Returns:
        `events_per_s` and `spread` of the step that training takes, `rows` with those of all three (`nextclick`,
        `plain` and `torch`), how many times as fast as `torch` each is (the median over turns), and the `clock`.

    Raises:
        DeviceUnavailableError: `cuda` was asked for, and torch finds none.
    """
    torch.manual_seed(bench.seed)
    settings = TrainerSettings(
        embedding_size=bench.hidden,
        hidden_sizes=(bench.hidden,),
        batch_size=bench.batch,
        negative_samples=bench.samples,
        loss=bench.loss,
        device=bench.device,
        threads=bench.threads,
        matmul_precision=bench.matmul_precision,
        # What the row of torch's own parts has: inner products, and the clicked item's vector added to the query.
        cosine_scale=0.0,
        trace_decay=0.0,
        own_session_negatives=False,
    )
    settings.prepare_torch()
    note(f"{bench.clicks:,} clicks")
    sessions = _sessions(bench)
    schedule = session_parallel(sessions, bench.batch)
    is_one_core = settings.torch_device().type == "cpu" and bench.threads == 1
    clock = time.process_time if is_one_core else time.perf_counter
    runners = {name: _Runner(step_of, schedule, clock) for name, step_of in _steps(bench, sessions, settings).items()}
    speeds: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(bench.repeats):
        note(f"turn {turn + 1} of {bench.repeats}")
        for name, runner in runners.items():
            speeds[name].append(runner.events_per_s(bench.seconds))
    rows = {name: _row(turns, speeds["torch"]) for name, turns in speeds.items()}
    return {
        "events_per_s": rows["nextclick"]["events_per_s"],
        "spread": rows["nextclick"]["spread"],
        "rows": rows,
        "clock": "processor" if is_one_core else "wall",
        "settings": vars(bench) | {"device": settings.torch_device().type},
        "environment": environment(),
    }


def _sessions(bench: TrainBench) -> Sessions:
    generator = np.random.default_rng(bench.seed)
    shop = Shop(ShopSettings(items=bench.items, categories=max(bench.items // 100, 1)), generator)
    return sessionise(generate_clicks(shop, bench.clicks, generator), minimum_length=2)


def _steps(bench: TrainBench, sessions: Sessions, settings: TrainerSettings) -> dict[str, MiniBatchStep]:
    device = settings.torch_device()

    def ours(kind: Callable[..., MiniBatchStep]) -> MiniBatchStep:
        generator = torch.Generator().manual_seed(bench.seed)
        network = GRU4Rec.initialised(settings.network(), bench.items, generator).to(device)
        return kind(network, SparseAdagrad(settings.learning_rate, settings.momentum), sessions, settings, generator)

    return {
        "nextclick": ours(choose_step),
        "plain": ours(TrainingStep),
        "torch": PlainTorchStep(bench.items, sessions, settings, device),
    }


class _Runner:
    """Goes on with one kind of step, turn after turn, epoch after epoch."""

    def __init__(self, step_of: MiniBatchStep, schedule: Schedule, clock: Callable[[], float]) -> None:
        self._step_of, self._clock = step_of, clock
        self._steps = self._endless(schedule)
        for _ in range(WARM_UP_STEPS):
            self._step_of(next(self._steps))

    def _endless(self, schedule: Schedule) -> Iterator[Step]:
        for _ in cycle([None]):
            self._step_of.start_epoch()
            yield from schedule

    def events_per_s(self, seconds: float) -> float:
        """Train for some seconds; return transitions per second."""
        self._wait()
        started_s, events = self._clock(), 0
        while self._clock() - started_s < seconds:
            step = next(self._steps)
            self._step_of(step)
            events += len(step.inputs)
        self._wait()
        return events / (self._clock() - started_s)

    def _wait(self) -> None:
        if self._step_of.device.type == "cuda":
            torch.cuda.synchronize()


def _row(turns: list[float], yardstick: list[float]) -> dict[str, Any]:
    return {
        "events_per_s": float(np.median(turns)),
        "spread": [min(turns), max(turns)],
        "times_torch": float(np.median(np.array(turns) / np.array(yardstick))),
    }
