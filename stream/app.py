"""The worker process: a Faust app that keeps group, assignment, recovery and signals around the worker's loop."""

import asyncio
import fcntl
import gc
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import faust
import mode
import structlog
import torch
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faust.types import TP

from model.baselines.popularity import Popularity
from model.errors import RecommenderError
from model.registry import Registry
from stream import faust_seams
from stream.credentials import credentials
from stream.deliveries import BATCH_BYTES, REQUEST_BYTES
from stream.hot_swap import HotSwap
from stream.intake import Intake
from stream.metrics import WorkerMetrics
from stream.processor import Processor
from stream.settings import Topics, WorkerSettings
from stream.state_table import ROCKSDB_OPTIONS, StateTable
from stream.worker import Worker

TABLE = "sessions"
# Several micro-batches may wait, so that the next one is always there.
QUEUED_BATCHES = 8
STOP_MARGIN_S = 5.0

# Under the name of this module, Faust speaks of the services that are defined here.
log = structlog.get_logger("stream.process")


class DataDirInUseError(RecommenderError):
    """Another process uses this data directory."""


def changelog_topic(app_id: str) -> str:
    """Return the name of the sessions changelog of a worker group."""
    return f"{app_id}-{TABLE}-changelog"


def build_worker(
    *,
    settings: WorkerSettings,
    topics: Topics,
    partitions: int,
    kafka_options: Mapping[str, Any],
    registry: Registry,
    metrics: WorkerMetrics,
) -> tuple[faust.App, Worker]:
    """Put a worker and its Faust app together, on a new event loop of this thread; nothing is opened yet.

    Args:
        settings: This worker's settings.
        topics: Names of the topics, which must exist.
        partitions: Partitions of the clicks topic, and so of the changelog.
        kafka_options: aiokafka keyword arguments: `bootstrap_servers` and security.
        registry: Where versions are read from.
        metrics: What is counted.
    """
    # Faust binds parts of an app to the loop that is current when they are made.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    intake = Intake(settings.batch_cap * QUEUED_BATCHES)
    app = _build_app(settings, kafka_options)
    table = StateTable(
        app.Table(
            TABLE,
            partitions=partitions,
            key_type=bytes,
            value_type=bytes,
            options=dict(ROCKSDB_OPTIONS),
        ),
        settings.state_dtype,
    )
    app.transport = faust_seams.ClickTransport(
        app,
        topics.clicks,
        intake,
        fetch_max_wait_ms=settings.fetch_max_wait_ms,
        gather_ms=settings.gather_ms,
        restore=table.restore,
        offset_key=table.offset_key,
    )
    clicks = app.topic(topics.clicks, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")
    app.topics.add(clicks)

    def new_model_consumer() -> AIOKafkaConsumer:
        return AIOKafkaConsumer(auto_offset_reset="earliest", enable_auto_commit=False, **kafka_options)

    def new_producer() -> AIOKafkaProducer:
        return AIOKafkaProducer(
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
            request_timeout_ms=int(settings.delivery_timeout_s * 1000),
            **kafka_options,
        )

    worker = Worker(
        settings=settings,
        topics=topics,
        changelog=changelog_topic(settings.app_id),
        intake=intake,
        table=table,
        processor=Processor(top_k=settings.top_k, idle_ms=settings.idle_ms, popularity=Popularity()),
        hot_swap=HotSwap(
            registry=registry,
            new_consumer=new_model_consumer,
            topic=topics.models,
            metrics=metrics,
            top_k=settings.top_k,
            device=settings.device,
            versions_kept=settings.versions_kept,
        ),
        new_producer=new_producer,
        metrics=metrics,
        end_offset=lambda partition: app.consumer.highwater(TP(topics.clicks, partition)),
        is_recovering=lambda: bool(app.in_recovery),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    app.service(_service(worker))
    faust_seams.on_assigned(app, worker.assigned)
    return app, worker


def _build_app(settings: WorkerSettings, kafka_options: Mapping[str, Any]) -> faust.App:
    return faust.App(
        settings.app_id,
        broker=[f"kafka://{server}" for server in kafka_options["bootstrap_servers"].split(",")],
        broker_credentials=credentials(kafka_options),
        broker_commit_interval=settings.commit_interval_s,
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=settings.session_timeout_s / 5,
        producer_request_timeout=settings.delivery_timeout_s,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=settings.instance_id,
        table_standby_replicas=settings.standby_replicas,
        store="rocksdb://",
        datadir=settings.data_dir,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )


def _service(worker: Worker) -> type[mode.Service]:
    """Return the service that Faust starts once the state is recovered, and stops before it disconnects."""

    class Answering(mode.Service):  # type: ignore[misc]
        async def on_start(self) -> None:
            await worker.start()

        @mode.Service.task  # type: ignore[untyped-decorator]
        async def _answer(self) -> None:
            while not self.should_stop:
                await worker.step()

        @mode.Service.task  # type: ignore[untyped-decorator]
        async def _follow_models(self) -> None:
            await worker.follow_models()

        async def on_stop(self) -> None:
            await worker.stop()

    return Answering


def run_worker(app: faust.App, settings: WorkerSettings, *, stop_margin_s: float = STOP_MARGIN_S) -> None:
    """Run until SIGTERM or SIGINT, which drain and return; a failure is raised.

    Args:
        app: From `build_worker`.
        settings: This worker's settings.
        stop_margin_s: How long stopping may take, beyond the delivery of a batch in flight where nothing has failed.
            After that the process exits with status 1 from here.

    Raises:
        DataDirInUseError: Another process uses the data directory.
    """
    torch.set_num_threads(settings.threads)
    # Recovery makes millions of objects, and each collection would walk all that was imported.
    gc.freeze()
    with _lock(settings.data_dir):
        process = _Process(app, stop_margin_s, settings.delivery_timeout_s)
        try:
            process.execute_from_commandline()
        except SystemExit as ended:
            # mode turns every end into an exit without a word; what went wrong stands behind it.
            if ended.code:
                raise ended.__context__ or ended from None
        finally:
            process.cancel_last_resort()


class _Process(faust.Worker):  # type: ignore[misc]
    """Faust's worker, which ends whatever happens: a supervisor can only restart what has ended."""

    def __init__(self, app: faust.App, stop_margin_s: float, delivery_timeout_s: float) -> None:
        super().__init__(app, loop=asyncio.get_event_loop(), override_logging=False, redirect_stdouts=False, quiet=True)
        # It writes terminal escapes, also where there is no terminal.
        self.spinner = None
        self._stop_margin_s = stop_margin_s
        self._delivery_timeout_s = delivery_timeout_s
        self._last_resort: threading.Timer | None = None

    def on_worker_shutdown(self) -> None:
        """Begin to wait for the end: with Kafka gone, some of its clients wait for it for ever."""
        super().on_worker_shutdown()
        wait_s = self._stop_margin_s + (0.0 if self.crash_reason else self._delivery_timeout_s)
        self._last_resort = threading.Timer(wait_s, self._exit)
        self._last_resort.daemon = True
        self._last_resort.start()

    def cancel_last_resort(self) -> None:
        """Note that everything has stopped."""
        if self._last_resort:
            self._last_resort.cancel()

    def _exit(self) -> None:
        reason = str(self.crash_reason or "told to stop")
        log.critical("worker did not stop in time and exits; what it has not committed is answered again", error=reason)
        os._exit(1)


def _lock(data_dir: Path) -> TextIO:
    """Take the data directory for this process; RocksDB's own locks are per partition and only retried."""
    data_dir.mkdir(parents=True, exist_ok=True)
    lock = (data_dir / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise DataDirInUseError(f"{data_dir} is used by another worker; give each its own data_dir") from error
    return lock
