"""A worker without Faust and without a broker: everything that it is given is in the test's hands."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from model.recommender import Recommender
from stream.intake import Intake
from stream.metrics import WorkerMetrics
from stream.records import SourceRecord, decode_recommendation
from stream.settings import Topics, WorkerSettings
from stream.state_table import StateTable
from stream.worker import Worker
from tests.stream.builders import NOW_MS, recommender
from tests.stream.deliveries_of_kafka import new_processor
from tests.stream.fake_producer import FakeProducer, SentRecord

TOPICS = Topics()
CHANGELOG = "changelog"


@dataclass
class FixedVersion:
    """Stands for the hot swap: one version that serves all the time."""

    recommender: Recommender | None = field(default_factory=recommender)
    refused: dict[str, str] = field(default_factory=dict)
    running: bool | None = None

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False


@dataclass
class Running:
    """A started worker with both partitions assigned, and what it was given."""

    worker: Worker
    intake: Intake
    table: StateTable
    producer: FakeProducer
    version: FixedVersion
    scrape: CollectorRegistry

    def put(self, *records: SourceRecord) -> None:
        for found in records:
            self.intake.put(found.partition, [found])

    def sent(self, topic: str, partition: int = 0) -> list[SentRecord]:
        return self.producer.records(topic, partition)

    def answered(self, partition: int = 0) -> list[int]:
        """Return the offsets of the answers, in the order sent."""
        values = [found.value or b"" for found in self.sent(TOPICS.recommendations, partition)]
        return [decode_recommendation(value).click.offset for value in values]


@asynccontextmanager
async def running(
    table: StateTable,
    producer: FakeProducer | None = None,
    *,
    is_recovering: Callable[[], bool] = lambda: False,
    end_offset: Callable[[int], int | None] = lambda _partition: None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Start a worker on `table` without Faust and without a broker."""
    scrape = CollectorRegistry()
    producer, intake, version = producer or FakeProducer(), Intake(10_000), FixedVersion()
    worker = Worker(
        settings=WorkerSettings(**settings),
        topics=TOPICS,
        changelog=CHANGELOG,
        intake=intake,
        table=table,
        is_recovering=is_recovering,
        processor=new_processor(),
        hot_swap=version,
        new_producer=lambda: producer,
        metrics=WorkerMetrics(scrape),
        end_offset=end_offset,
        now_ms=lambda: NOW_MS,
    )
    await worker.start()
    intake.assign([0, 1])
    worker.assigned()
    try:
        yield Running(worker, intake, table, producer, version, scrape)
    finally:
        await worker.stop()
        gc.unfreeze()
