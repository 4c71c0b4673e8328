"""A producer without a broker, for tests of what is sent and of what happens when sending fails."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.structs import RecordMetadata


@dataclass(frozen=True)
class SentRecord:
    """One record of a batch."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: list[tuple[str, bytes]]


@dataclass
class FakeBatch:
    """Takes a fixed number of records, as `aiokafka.producer.message_accumulator.BatchBuilder` does of bytes."""

    room: int
    records: list[SentRecord] = field(default_factory=list)

    def append(
        self, *, timestamp: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> object | None:
        if len(self.records) >= self.room:
            return None
        self.records.append(SentRecord(key, value, timestamp, list(headers)))
        return self

    def record_count(self) -> int:
        return len(self.records)


class FakeProducer:
    """Keeps what is sent and acknowledges it, or fails as told.

    Args:
        room: Records that a batch takes.
        failures: For a topic, what the acknowledgement of its batches raises; None means that it never comes.
        refusal: What `send_batch` itself raises.
    """

    def __init__(
        self,
        room: int = 1_000,
        failures: dict[str, Exception | None] | None = None,
        refusal: Exception | None = None,
    ) -> None:
        self._room = room
        self._failures = failures or {}
        self._refusal = refusal
        self.sent: list[tuple[tuple[str, int], FakeBatch]] = []
        self.running: bool | None = None

    async def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False

    def hold_back(self, topic: str) -> None:
        """From now on, never acknowledge batches of `topic`."""
        self._failures = {**self._failures, topic: None}

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self._room)

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        if self._refusal:
            raise self._refusal
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if topic not in self._failures:
            offset = len(self.records(topic, partition))
            future.set_result(RecordMetadata(topic, partition, None, offset, -1, 0, 0))
        elif (failure := self._failures[topic]) is not None:
            future.set_exception(failure)
        self.sent.append(((topic, partition), batch))
        return future

    def records(self, topic: str, partition: int) -> list[SentRecord]:
        """Return what was sent to one partition, in order."""
        return [record for place, batch in self.sent if place == (topic, partition) for record in batch.records]
