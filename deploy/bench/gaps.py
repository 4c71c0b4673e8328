"""For how long answers stand still when something else happens in the worker: the longest gap, cause by cause.

Clicks come at a fixed rate all the while. After a stretch that only warms everything up, the causes are brought about
one at a time, each in a stretch of its own: nothing (but the commits of offsets, twice a second, and collections of
garbage, which are in every stretch), the sweep of ended sessions, a swap, and a rebalance of another group on the same
broker. RocksDB compacts when it likes; with many sessions to restore it does so in the stretches after that.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer

from deploy.bench import open_loop
from deploy.bench.compactions import compaction_s
from deploy.bench.costs import counts_told, longest_s
from deploy.bench.environment import environment
from deploy.bench.live_sessions import fill_changelog, session_records, spread_ids
from deploy.bench.measured_worker import REGISTRY, measured_worker
from deploy.bench.served_version import VERSION, announce, publish, trained_version
from deploy.click_generator import generate_clicks
from deploy.errors import ChildError
from deploy.local_broker import start_broker
from deploy.ports import free_port
from deploy.settings import HttpSettings, Settings
from deploy.shop import Shop, ShopSettings
from model.clicks import ClickTable
from model.registry import Registry

NEXT_VERSION = "bench-next"
WARM_UP = "warm-up"
GARBAGE = "garbage_collection"
STRETCHES, SWEEP_AT = 5, 2
READY_DEADLINE_S = 120.0
# From the start of a stretch, when everything runs evenly.
CAUSE_AT_S = open_loop.LEAD_S + 2 * open_loop.WARM_UP_S
MEMBERS = 2
_MEMBERS_STAY_S = 2.0
_POLL_S = 0.05
# Sweeps begin by the worker's own clock, but at least one in each stretch; only those in its own find what to delete.
_SWEEPS = 2
# Event time from click to click between stretches: sessions that click do not end meanwhile.
_CLICK_MS = 20


@dataclass(frozen=True)
class GapsBench:
    """What is measured.

    Attributes:
        items: Items that the versions know.
        hidden: Width of the hidden vector and of the item vectors.
        rate: Clicks per second.
        seconds: Length of each stretch.
        ended: Sessions that have ended and are swept.
        partitions: Of the clicks topic.
        companion: Whether the versions have one.
        seed: Of weights and clicks.
    """

    items: int = 10_000
    hidden: int = 128
    rate: float = 1_000.0
    seconds: float = 10.0
    ended: int = 50_000
    partitions: int = 4
    companion: bool = True
    seed: int = 0


def run(bench: GapsBench, settings: Settings, note: Callable[[str], None]) -> dict[str, Any]:
    """Return, by cause, `longest_gap_ms` and the latencies of its stretch, its longest collection, and its compactions.

    Raises:
        BrokerError: The broker did not start or did not take the rate.
        ChildError: The worker ended or did not become ready.
    """
    http = HttpSettings(worker_port=free_port())
    settings = settings.model_copy(update={"partitions": bench.partitions, "http": http})
    generator = np.random.default_rng(bench.seed)
    shop = Shop(ShopSettings(items=bench.items, categories=max(bench.items // 100, 1)), generator)
    stretch = int(bench.rate * bench.seconds)
    table, ended = _clicks(bench, shop, STRETCHES * stretch, generator)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-bench-")))
        note(f"broker and two versions of {bench.items:,} items")
        broker = stack.enter_context(start_broker("kafka", settings.topic_plan(), folder / "kafka"))
        connection = {"bootstrap.servers": broker.bootstrap}
        registry = Registry(str(folder / REGISTRY))
        version = trained_version(bench.hidden, shop, companion=bench.companion, seed=bench.seed)
        registry.write(replace(version, version=NEXT_VERSION))
        publish(version, registry, settings, connection)
        records = session_records(
            shop.item_ids,
            version=VERSION,
            hidden=bench.hidden,
            k=settings.worker.top_k,
            # Over when the clicks of the sweep's stretch come.
            event_ms=int(table.timestamp_ms[SWEEP_AT * stretch]) - settings.worker.idle_ms - 1,
            generator=generator,
        )
        fill_changelog(settings.topic_plan().sessions_changelog, ended, records, connection)
        swept = {"sweep_interval_s": bench.seconds / _SWEEPS}
        worker = stack.enter_context(measured_worker(settings, broker.bootstrap, folder, swept))
        worker.wait_until_ready(f"127.0.0.1:{http.worker_port}", READY_DEADLINE_S)
        causes: dict[str, Callable[[], None]] = {
            WARM_UP: lambda: None,
            "commits": lambda: None,
            "sweep": lambda: None,
            "swap": lambda: announce(NEXT_VERSION, registry, settings, connection),
            "rebalance of another group": lambda: _rebalance(connection, settings.topics.clicks),
        }
        found: dict[str, dict[str, float]] = {}
        spans: dict[str, tuple[float, float]] = {}
        for place, (cause, bring_about) in enumerate(causes.items()):
            note(cause)
            before, begin_s = counts_told(http.worker_port, GARBAGE), time.time()
            bringing = threading.Timer(CAUSE_AT_S, bring_about)
            bringing.start()
            clicks = table.slice(place * stretch, (place + 1) * stretch)
            measured = open_loop.measure(
                clicks, bench.rate, connection, settings.topics.clicks, settings.topics.recommendations
            )
            bringing.join()
            worker.check()
            garbage_ms = 1000 * longest_s(before, counts_told(http.worker_port, GARBAGE))
            spans[cause] = begin_s, time.time()
            if cause != WARM_UP:
                gaps = {"longest_gap_ms": measured.longest_gap_ms(), "garbage_ms_at_most": garbage_ms}
                found[cause] = gaps | measured.to_dict()
        for cause, row in found.items():
            row["compaction_s"] = compaction_s(folder / "worker", *spans[cause])
        _check_swap(folder / "worker.log")
    return {"causes": found, "settings": vars(bench), "environment": environment()}


def _clicks(bench: GapsBench, shop: Shop, count: int, generator: np.random.Generator) -> tuple[ClickTable, list[str]]:
    """Return clicks at an even pace of event time, and ids of sessions that none of them is of."""
    table = generate_clicks(shop, count, generator)
    ids = spread_ids(len(table.session_ids), len(table.session_ids) + bench.ended, generator)
    event_ms = int(table.timestamp_ms[0]) + _CLICK_MS * np.arange(len(table))
    table = replace(table, timestamp_ms=event_ms, session_ids=ids[: len(table.session_ids)])
    return table, ids[len(table.session_ids) :]


def _rebalance(connection: dict[str, str], topic: str) -> None:
    """Let members of another group come, share the partitions, and leave."""
    settings = {**connection, "group.id": "bench-another", "auto.offset.reset": "latest"}
    members = [Consumer(settings) for _ in range(MEMBERS)]
    for member in members:
        member.subscribe([topic])
    until_s = time.monotonic() + _MEMBERS_STAY_S
    while time.monotonic() < until_s:
        for member in members:
            member.poll(_POLL_S)
    for member in members:
        member.close()


def _check_swap(log: Path) -> None:
    if f'"version": "{NEXT_VERSION}"' not in log.read_text():
        raise ChildError(f"the worker did not swap to {NEXT_VERSION} in its stretch: measure for more seconds")
