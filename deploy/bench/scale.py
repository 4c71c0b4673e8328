"""What a click costs as one thing grows at a time: items, sessions under way, clicks of a micro-batch, workers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.bench import stream
from deploy.bench.environment import environment
from deploy.bench.stream import StreamBench
from deploy.settings import Settings

AXES = ("items", "sessions", "batches", "processes")
_RATE_SECONDS = 2.0


@dataclass(frozen=True)
class ScaleBench:
    """What is measured; all but the one that grows are as in `StreamBench` and the worker's settings.

    Attributes:
        items: That the version knows.
        sessions: Under way before.
        batches: Most clicks of a micro-batch.
        processes: Workers side by side, of which each has so many `clicks`.
        hidden: Width of the hidden vector and of the item vectors.
        clicks: Waiting.
        broker: `kafka` or `embedded`.
        companion: Whether the version has one.
        repeats: Runs of each; medians are kept.
        seed: Of weights and clicks.
    """

    items: Sequence[int] = (10_000, 100_000, 1_000_000)
    sessions: Sequence[int] = (1_000, 100_000, 1_000_000)
    batches: Sequence[int] = (16, 128, 1024)
    processes: Sequence[int] = (1, 2)
    hidden: int = 128
    clicks: int = 100_000
    broker: str = "kafka"
    companion: bool = True
    repeats: int = 1
    seed: int = 0


def run(bench: ScaleBench, settings: Settings, note: Callable[[str], None]) -> dict[str, Any]:
    """Measure each size of each axis with a broker and a worker of its own.

    Returns:
        `rows`, each with `axis`, `size`, the `events_per_s` of all workers, `cpu_us_per_event` and where sessions were
        under way `restored_per_s`; the settings and the environment.

    Raises:
        BrokerError: The broker did not start.
        ChildError: A worker ended or did not become ready.
        MeasurementError: There are too few clicks.
    """
    rows = []
    for axis in AXES:
        for size in getattr(bench, axis):
            note(f"{axis}: {size:,}")
            asked, its_settings = _asked(bench, settings, axis, size)
            found = stream.summary(asked, [stream.run(asked, its_settings, note) for _ in range(bench.repeats)])
            names = ("events_per_s", "cpu_us_per_event", "restored_per_s")
            rows.append({"axis": axis, "size": size} | {name: found[name] for name in names if name in found})
    return {"rows": rows, "settings": vars(bench), "environment": environment()}


def _asked(bench: ScaleBench, settings: Settings, axis: str, size: int) -> tuple[StreamBench, Settings]:
    shared: dict[str, Any] = {
        "hidden": bench.hidden,
        "clicks": bench.clicks,
        "broker": bench.broker,
        "companion": bench.companion,
        "seed": bench.seed,
        "seconds": _RATE_SECONDS,
    }
    if axis == "batches":
        worker = settings.worker.model_copy(update={"batch_cap": size})
        return StreamBench(**shared), settings.model_copy(update={"worker": worker})
    if axis == "processes":
        shared["clicks"] *= size
    return StreamBench(**shared | {axis: size}), settings
