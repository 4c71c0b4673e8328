"""How many clicks a worker answers, what a click costs, and how long an answer takes.

Two phases on one worker. Throughput: clicks are waiting in the topic before the worker starts, so that nothing but the
worker is in the way; its processor time and its answers are read over the middle of the work. Latency: an open loop at
a fixed rate that waits for no answer, from the click's append to the answer's arrival at a subscriber.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from confluent_kafka import Producer

from deploy.bench.against import Site, environment_of_peers, measure, write_model
from deploy.bench.costs import LOOK_S, AnswerCounter, measured
from deploy.bench.environment import environment
from deploy.children import Child
from deploy.click_generator import generate_clicks
from deploy.errors import BrokerError, ChildError
from deploy.local_broker import start_broker
from deploy.local_kafka import LocalKafka
from deploy.observer import Observer
from deploy.replay import Pace, replay
from deploy.settings import Settings
from deploy.shop import Shop, ShopSettings
from model.announcements import SERVING_KEY, Announcement
from model.clicks import ClickTable, sessionise
from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.registry import ModelVersion, Registry
from model.transitions import Transitions
from model.vocabulary import Vocabulary

READY_DEADLINE_S = 120.0
# Starting and the last partial batches are left out.
WINDOW = (0.25, 0.95)
DRAIN_S = 3.0
VERSION = "bench"


@dataclass(frozen=True)
class StreamBench:
    """What is measured.

    Attributes:
        items: Items that the version knows.
        hidden: Width of the hidden vector and of the item vectors.
        clicks: Clicks waiting for the throughput phase.
        rate: Clicks per second of the latency phase.
        seconds: Length of the latency phase.
        partitions: Of the clicks topic.
        broker: `kafka` or `embedded`.
        companion: Whether the version has one, as those that are trained do.
        processes: Workers side by side, on as many of the first cores.
        against: Other engines to measure on the same clicks, of `deploy.bench.against.PEERS`.
        peer_seconds: How long each of them is measured.
        seed: Of weights and clicks.
    """

    items: int = 10_000
    hidden: int = 128
    clicks: int = 200_000
    rate: float = 1_000.0
    seconds: float = 15.0
    partitions: int = 4
    broker: str = "kafka"
    companion: bool = True
    processes: int = 1
    against: tuple[str, ...] = ()
    peer_seconds: float = 15.0
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What one run measured.

    Attributes:
        worker: `events_per_s`, `cpu_us_per_event`, `latency_ms_p50`, `latency_ms_p99`.
        peers: By name, `events_per_s` and `cpu_us_per_event`.
    """

    worker: dict[str, float]
    peers: dict[str, dict[str, float]]


def run(bench: StreamBench, settings: Settings, note: Callable[[str], None]) -> Found:
    """Measure once, with a broker, a worker and state of its own.

    Args:
        bench: What is measured.
        settings: Names of topics and the like; the worker's defaults.
        note: Told what happens now.

    Raises:
        BrokerError: Peers are asked for without a real Kafka.
        ChildError: A process ended or did not become ready.
    """
    if bench.against and bench.broker != "kafka":
        raise BrokerError("the peers need what the embedded broker cannot do: measure them with --broker kafka")
    python = environment_of_peers(note) if bench.against else None
    settings = settings.model_copy(update={"partitions": bench.partitions})
    generator = np.random.default_rng(bench.seed)
    shop = Shop(ShopSettings(items=bench.items, categories=max(bench.items // 100, 1)), generator)
    table = generate_clicks(shop, bench.clicks + int(bench.rate * bench.seconds), generator)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-bench-")))
        note(f"broker ({bench.broker}) and {bench.clicks:,} clicks")
        broker = stack.enter_context(start_broker(bench.broker, settings.topic_plan(), folder / "kafka"))
        if isinstance(broker, LocalKafka) and broker.pid:
            _pin(broker.pid, _other_cores(bench))
        connection = {"bootstrap.servers": broker.bootstrap}
        version = _version(bench, shop.item_ids, table)
        _publish(version, Registry(str(folder / "registry")), settings, connection)
        replay(table.slice(0, bench.clicks), connection, topic=settings.topics.clicks)
        note("worker, throughput")
        with _worker(broker.bootstrap, folder, settings, bench) as worker:
            throughput = _throughput(worker, bench, settings, broker.bootstrap)
            note(f"latency at {bench.rate:,.0f} clicks/s")
            latency = _latency(table.slice(bench.clicks, len(table)), bench, settings, connection)
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
    return Found(throughput | latency, peers)


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


def _version(bench: StreamBench, item_ids: list[str], table: ClickTable) -> ModelVersion:
    """Return an untrained version of the asked-for size, as arithmetic does not mind the weights, with real counts."""
    shape = GRU4RecSettings(embedding_size=bench.hidden, hidden_sizes=(bench.hidden,))
    network = GRU4Rec.initialised(shape, len(item_ids), torch.Generator().manual_seed(bench.seed))
    vocabulary, transitions = Vocabulary(item_ids), Transitions(len(item_ids))
    sessions = sessionise(table)
    transitions.add(replace(sessions, items=vocabulary.rows(table.item_ids)[sessions.items]))
    return ModelVersion(
        VERSION,
        None,
        network,
        vocabulary,
        created_at_ms=time.time_ns() // 1_000_000,
        companion=Companion(transitions.neighbours(), Mixing()) if bench.companion else None,
        transitions=transitions if bench.companion else None,
    )


def _publish(version: ModelVersion, registry: Registry, settings: Settings, connection: dict[str, str]) -> None:
    """Write a version and announce it."""
    registry.write(version)
    announcement = Announcement(
        VERSION, registry.location(VERSION), registry.manifest_sha256(VERSION), "promote", {}, version.created_at_ms
    )
    producer = Producer({**connection, "acks": "all"})
    producer.produce(settings.topics.models, announcement.encode(), SERVING_KEY)
    producer.flush()


def _worker(bootstrap: str, folder: Path, settings: Settings, bench: StreamBench) -> Child:
    return Child(
        ["worker", "--processes", str(bench.processes)],
        {
            "KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "REGISTRY": str(folder / "registry"),
            "PARTITIONS": str(settings.partitions),
            "HTTP__WORKER_PORT": "0",
            "WORKER__DATA_DIR": str(folder / "worker"),
            "WORKER__BATCH_CAP": str(settings.worker.batch_cap),
            "WORKER__FETCH_MAX_WAIT_MS": "5" if bench.broker == "embedded" else "100",
            "LOG_FORMAT": "json",
        },
        folder / "worker.log",
        cores=_cores(bench),
    )


def _throughput(worker: Child, bench: StreamBench, settings: Settings, bootstrap: str) -> dict[str, float]:
    """Return what the middle of the waiting clicks costs."""
    first, last = (share * bench.clicks for share in WINDOW)
    deadline = time.monotonic() + READY_DEADLINE_S
    with AnswerCounter(bootstrap, settings.topics.recommendations, bench.partitions) as counted:
        while counted() < first:
            worker.check()
            if time.monotonic() > deadline and not counted():
                raise ChildError(f"no answer within {READY_DEADLINE_S:g} s; the worker says:\n{worker.log_tail()}")
            time.sleep(LOOK_S)
        costs = measured(worker, counted, lambda answers, _seconds: answers >= last - first)
        while counted() < bench.clicks:
            worker.check()
            time.sleep(LOOK_S)
    return costs.to_dict()


def _latency(table: ClickTable, bench: StreamBench, settings: Settings, connection: dict[str, str]) -> dict[str, float]:
    """Produce at the asked-for rate and watch the answers as a subscriber."""
    observer = Observer(connection, settings.topics, settings.worker.idle_ms)
    observer.start()
    try:
        replay(table, connection, topic=settings.topics.clicks, pace=Pace(rate=bench.rate))
        deadline = time.monotonic() + DRAIN_S
        while observer.view().answers < len(table) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        p50, p99 = observer.view().latency_all_ms
    finally:
        observer.stop()
    return {"latency_ms_p50": p50, "latency_ms_p99": p99}


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
