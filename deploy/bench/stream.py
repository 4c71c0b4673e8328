"""How many clicks a worker answers, what a click costs, and how long an answer takes.

Two phases on one worker. Throughput: clicks are waiting in the topic before the worker starts, so that nothing but the
worker is in the way; its processor time and its answers are read over the middle of the work. Latency: an open loop at
a fixed rate that waits for no answer, from when a click is due to when a subscriber can read its answer. Before both,
the worker restores the sessions that are under way.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deploy.bench import open_loop
from deploy.bench.against import Site, environment_of_peers, measure, write_model
from deploy.bench.costs import LOOK_S, AnswerCounter, measured, seconds_told, stages_us
from deploy.bench.environment import environment
from deploy.bench.live_sessions import fill_changelog, session_records, spread_ids
from deploy.bench.measured_worker import REGISTRY, measured_worker
from deploy.bench.served_version import VERSION, publish, trained_version
from deploy.children import Child, cpu_s_of
from deploy.click_generator import generate_clicks
from deploy.errors import BrokerError, ChildError, MeasurementError
from deploy.fleet import worker_ports
from deploy.local_broker import start_broker
from deploy.local_kafka import LocalKafka
from deploy.ports import free_port
from deploy.replay import replay
from deploy.settings import HttpSettings, Settings
from deploy.shop import Shop, ShopSettings
from model.clicks import ClickTable
from model.registry import Registry
from stream.settings import Topics

READY_DEADLINE_S = 120.0
# Starting and the last partial batches are left out.
WINDOW = (0.25, 0.95)
IDLE_S = 3.0


@dataclass(frozen=True)
class StreamBench:
    """What is measured.

    Attributes:
        items: Items that the version knows.
        hidden: Width of the hidden vector and of the item vectors.
        clicks: Clicks waiting for the throughput phase.
        rate: Clicks per second of the latency phase.
        seconds: Length of the latency phase.
        curve: Further rates, each for as long, one after the other.
        partitions: Of the clicks topic.
        broker: `kafka` or `embedded`.
        companion: Whether the version has one, as those that are trained do.
        processes: Workers side by side, on as many of the first cores.
        sessions: Under way before the first click; the clicks are theirs.
        against: Other engines to measure on the same clicks, of `deploy.bench.against.PEERS`.
        peer_seconds: How long each of them is measured.
        seed: Of weights and clicks.
    """

    items: int = 10_000
    hidden: int = 128
    clicks: int = 200_000
    rate: float = 1_000.0
    seconds: float = 15.0
    curve: tuple[float, ...] = ()
    partitions: int = 4
    broker: str = "kafka"
    companion: bool = True
    processes: int = 1
    sessions: int = 0
    against: tuple[str, ...] = ()
    peer_seconds: float = 15.0
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What one run measured.

    Attributes:
        worker: `events_per_s`, `cpu_us_per_event`, `loop_us_STAGE` of the throughput phase; `latency_ms_p50` and so on
            (`open_loop.OpenLoop.to_dict`) and `WHO_core_share` of the latency phase; `idle_core_share` between them;
            where sessions were under way, `restored_per_s`.
        peers: By name, `events_per_s` and `cpu_us_per_event`.
        curve: `rate` and what `worker` says of the latency phase, one for each further rate.
    """

    worker: dict[str, float]
    peers: dict[str, dict[str, float]]
    curve: Sequence[dict[str, float]] = ()


def run(bench: StreamBench, settings: Settings, note: Callable[[str], None]) -> Found:
    """Measure once, with a broker, a worker and state of its own.

    Args:
        bench: What is measured.
        settings: Names of topics and the like; the worker's defaults.
        note: Told what happens now.

    Raises:
        BrokerError: Peers are asked for without a real Kafka.
        ChildError: A process ended or did not become ready.
        MeasurementError: There are too few clicks.
    """
    if bench.against and bench.broker != "kafka":
        raise BrokerError("the peers need what the embedded broker cannot do: measure them with --broker kafka")
    python = environment_of_peers(note) if bench.against else None
    http = HttpSettings(worker_port=free_port())
    settings = settings.model_copy(update={"partitions": bench.partitions, "http": http})
    generator = np.random.default_rng(bench.seed)
    shop = Shop(ShopSettings(items=bench.items, categories=max(bench.items // 100, 1)), generator)
    rates = (bench.rate, *bench.curve)
    table = generate_clicks(shop, bench.clicks + sum(int(rate * bench.seconds) for rate in rates), generator)
    ids = spread_ids(len(table.session_ids), bench.sessions, generator)
    table = replace(table, session_ids=ids[: len(table.session_ids)])
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-bench-")))
        note(f"a version of {bench.items:,} items")
        version = trained_version(bench.hidden, shop, companion=bench.companion, seed=bench.seed)
        note(f"broker ({bench.broker}) and {bench.clicks:,} clicks")
        broker = stack.enter_context(start_broker(bench.broker, settings.topic_plan(), folder / "kafka"))
        if isinstance(broker, LocalKafka) and broker.pid:
            _pin(broker.pid, _other_cores(bench))
        connection = {"bootstrap.servers": broker.bootstrap}
        publish(version, Registry(str(folder / REGISTRY)), settings, connection)
        if bench.sessions:
            note(f"{bench.sessions:,} sessions under way")
            records = session_records(
                shop.item_ids,
                version=VERSION,
                hidden=bench.hidden,
                k=settings.worker.top_k,
                event_ms=int(table.timestamp_ms[0]),
                generator=generator,
            )
            fill_changelog(settings.topic_plan().sessions_changelog, ids[: bench.sessions], records, connection)
        replay(table.slice(0, bench.clicks), connection, topic=settings.topics.clicks)
        note("worker, throughput")
        with _worker(broker.bootstrap, folder, settings, bench) as worker:
            throughput = _throughput(worker, bench, settings, broker.bootstrap)
            idle = _idle(worker)
            pids = {"worker": worker.pid, "broker": broker.pid if isinstance(broker, LocalKafka) else None}
            begin, latencies = bench.clicks, []
            for rate in rates:
                note(f"latency at {rate:,.0f} clicks/s")
                end = begin + int(rate * bench.seconds)
                latencies.append(_latency(table.slice(begin, end), rate, settings.topics, connection, pids))
                begin = end
        peers = {}
        if python:
            write_model(version.network, shop.item_ids, settings.worker.top_k, folder / "model.npz")
            model, seconds = folder / "model.npz", bench.peer_seconds
            site = Site(
                broker.bootstrap, settings.topics.clicks, bench.partitions, model, folder, _cores(bench)[:1], seconds
            )
            for peer in bench.against:
                note(peer)
                peers[peer] = measure(peer, python, site).to_dict()
    curve = [{"rate": rate} | latency for rate, latency in zip(rates, latencies, strict=True)]
    return Found(throughput | idle | latencies[0], peers, curve[1:])


def summary(bench: StreamBench, runs: list[Found]) -> dict[str, Any]:
    """Return medians with minimum and maximum, the settings and the environment.

    `peers` holds the same for each peer, and `times_cpu`: what a click costs there, as a multiple of the worker's in
    the same run.
    """
    peers = {
        peer: _medians(
            [
                found.peers[peer]
                | {"times_cpu": found.peers[peer]["cpu_us_per_event"] / found.worker["cpu_us_per_event"]}
                for found in runs
            ]
        )
        for peer in bench.against
    }
    return {
        **_medians([found.worker for found in runs]),
        **({"peers": peers} if peers else {}),
        **(
            {"curve": [_medians(list(rows)) for rows in zip(*(found.curve for found in runs), strict=True)]}
            if bench.curve
            else {}
        ),
        "runs": len(runs),
        "settings": vars(bench),
        "environment": environment(),
    }


def _medians(rows: list[dict[str, float]]) -> dict[str, Any]:
    names = rows[0].keys()
    return {
        **{name: float(np.median([row[name] for row in rows])) for name in names},
        "spread": {name: [min(row[name] for row in rows), max(row[name] for row in rows)] for name in names},
    }


def _worker(bootstrap: str, folder: Path, settings: Settings, bench: StreamBench) -> Child:
    # See `deploy.demo`: the embedded broker answers a fetch only after its whole wait.
    changed = {"fetch_max_wait_ms": 5, "gather_ms": 0} if bench.broker == "embedded" else {}
    return measured_worker(settings, bootstrap, folder, changed, processes=bench.processes, cores=_cores(bench))


def _throughput(worker: Child, bench: StreamBench, settings: Settings, bootstrap: str) -> dict[str, float]:
    """Return what the middle of the waiting clicks costs."""
    first, last = (share * bench.clicks for share in WINDOW)
    ports = worker_ports(settings, bench.processes)
    deadline = time.monotonic() + READY_DEADLINE_S
    with AnswerCounter(bootstrap, settings.topics.recommendations, bench.partitions) as counted:
        while counted() < first:
            worker.check()
            if time.monotonic() > deadline and not counted():
                raise ChildError(f"no answer within {READY_DEADLINE_S:g} s; the worker says:\n{worker.log_tail()}")
            time.sleep(LOOK_S)
        before = seconds_told(ports)
        costs = measured(worker, counted, lambda answers, _seconds: answers >= last - first)
        told = seconds_told(ports)
        while counted() < bench.clicks:
            worker.check()
            time.sleep(LOOK_S)
    if not costs.seconds:
        raise MeasurementError(f"{bench.clicks:,} clicks are answered between two looks; measure with more --clicks")
    stages = stages_us(before, told, costs.answers)
    restored = {"restored_per_s": bench.sessions * bench.processes / told["recovery"]} if bench.sessions else {}
    return costs.to_dict() | {f"loop_us_{stage}": spent for stage, spent in stages.items()} | restored


def _idle(worker: Child) -> dict[str, float]:
    before = worker.cpu_s()
    time.sleep(IDLE_S)
    return {"idle_core_share": (worker.cpu_s() - before) / IDLE_S}


def _latency(
    table: ClickTable, rate: float, topics: Topics, connection: dict[str, str], pids: dict[str, int | None]
) -> dict[str, float]:
    """Send at the asked-for rate and read the answers as a subscriber; beside it, what it costs each process."""
    running = {name: pid for name, pid in pids.items() if pid}
    before = {name: cpu_s_of(pid) for name, pid in running.items()}
    found = open_loop.measure(table, rate, connection, topics.clicks, topics.recommendations)
    seconds = len(table) / rate
    return found.to_dict() | {
        f"{name}_core_share": (cpu_s_of(pid) - before[name]) / seconds for name, pid in running.items()
    }


def _cores(bench: StreamBench) -> list[int]:
    """Return the cores of the workers."""
    return list(range(min(bench.processes, os.cpu_count() or 1)))


def _other_cores(bench: StreamBench) -> list[int]:
    """Return the cores beside the workers'; all where there is no other."""
    every = range(os.cpu_count() or 1)
    return sorted(set(every) - set(_cores(bench))) or list(every)


def _pin(pid: int, cores: list[int]) -> None:
    """Keep every thread of a process off the worker's core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
