"""The clicks topic as a log: every partition read from given offsets, without a consumer group."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from model.clicks import Click, decode_click
from model.errors import InvalidClickError
from trainer.errors import KafkaUnavailableError

_MOST_RECORDS = 5_000  # in one batch: a few ms of decoding, so that nothing else on the loop waits long


@dataclass(frozen=True)
class ClickBatch:
    """Clicks of one partition in the topic's order.

    Attributes:
        partition: Where they were read.
        offsets: Of each click.
        clicks: As many as `offsets`.
        next_offset: After the last record read, click or not.
        invalid: How many records were no clicks, by reason.
    """

    partition: int
    offsets: list[int]
    clicks: list[Click]
    next_offset: int
    invalid: Counter[str]


async def kafka_answer(question: Awaitable[Any], timeout_s: float) -> Any:
    """Wait for one answer of Kafka, for at most `timeout_s`.

    Raises:
        KafkaUnavailableError: It did not come.
    """
    try:
        return await asyncio.wait_for(question, timeout_s)
    except TimeoutError as error:
        raise KafkaUnavailableError(f"Kafka did not answer within {timeout_s:g} s") from error
    except (KafkaError, OSError) as error:
        raise KafkaUnavailableError(f"Kafka cannot be reached: {error}") from error


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer, whatever it is doing.

    aiokafka 0.14 cancels a fetch that waits to be tried again, and lets that cancellation out of `stop` with the
    connections still open: a caller would take it for its own.
    """
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping})
    if stopping.cancelled():
        await consumer._client.close()  # noqa: SLF001 - the step of `stop` that was left out


class KafkaClickLog:
    """Reads a clicks topic; use it in an `async with` block.

    No group is joined and nothing is committed: what was read is for the reader to remember.

    Args:
        kafka_options: Keyword arguments of aiokafka's clients, `bootstrap_servers` and security among them.
        topic: The clicks topic, which must exist.
        timeout_s: Longest wait for one answer of Kafka.

    Raises:
        KafkaUnavailableError: From every method: Kafka did not answer, or has no such topic.
    """

    def __init__(self, kafka_options: Mapping[str, Any], topic: str, *, timeout_s: float) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        self._options = {"request_timeout_ms": int(timeout_s * 1000), **kafka_options}
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        self._consumer = AIOKafkaConsumer(
            group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **self._options
        )
        try:
            await self._answer(self._consumer.start())
        except KafkaUnavailableError:
            await stop_consumer(self._consumer)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop_consumer(self._consumer)

    async def range(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return, for each partition, the oldest offset that is left and the offset after the newest record."""
        partitions = await self._partitions()
        return (
            _by_number(await self._answer(self._consumer.beginning_offsets(partitions))),
            _by_number(await self._answer(self._consumer.end_offsets(partitions))),
        )

    async def _partitions(self) -> list[TopicPartition]:
        if self._topic not in await self._answer(self._consumer.topics()):
            raise KafkaUnavailableError(
                f"Kafka answers but has no topic {self._topic!r}; make it with `nextclick topics create`"
            )
        if self._consumer.partitions_for_topic(self._topic) is None:
            # The client keeps metadata only of topics that it was assigned, and asks for it with the first question.
            first = TopicPartition(self._topic, 0)
            self._consumer.assign([first])
            await self._answer(self._consumer.end_offsets([first]))
        numbers = self._consumer.partitions_for_topic(self._topic)
        return [TopicPartition(self._topic, number) for number in sorted(numbers)]

    def read_from(self, offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets on; one that is gone by then counts as the oldest left."""
        partitions = {TopicPartition(self._topic, number): offset for number, offset in offsets.items()}
        self._consumer.assign(list(partitions))
        for partition, offset in partitions.items():
            self._consumer.seek(partition, offset)

    async def read(self, wait_s: float) -> list[ClickBatch]:
        """Return what has arrived, waiting at most `wait_s` for something."""
        try:
            fetched = await self._consumer.getmany(timeout_ms=round(wait_s * 1000), max_records=_MOST_RECORDS)
        except KafkaError as error:
            raise KafkaUnavailableError(f"reading {self._topic} failed: {error}") from error
        return [_decode(partition.partition, records) for partition, records in fetched.items() if records]

    async def positions(self) -> dict[int, int]:
        """Return the next offset of each partition that is read, past any records that only Kafka sees."""
        return {
            partition.partition: await self._answer(self._consumer.position(partition))
            for partition in self._consumer.assignment()
        }

    async def _answer(self, question: Awaitable[Any]) -> Any:
        return await kafka_answer(question, self._timeout_s)


def _by_number(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {partition.partition: offset for partition, offset in offsets.items()}


def _decode(partition: int, records: list[Any]) -> ClickBatch:
    batch = ClickBatch(partition, [], [], records[-1].offset + 1, Counter())
    for record in records:
        try:
            click = decode_click(record.key, record.value, record.timestamp)
        except InvalidClickError as error:
            batch.invalid[error.reason] += 1
        else:
            batch.offsets.append(record.offset)
            batch.clicks.append(click)
    return batch


def start_offsets(oldest: Mapping[int, int], newest: Mapping[int, int], clicks: int) -> dict[int, int]:
    """Return where to start each partition so that about `clicks` records are read in all.

    Every partition gives the same share of what it holds: with one retention for all, that reaches back to about the
    same moment everywhere.
    """
    held = {number: newest[number] - oldest[number] for number in newest}
    share = min(1.0, clicks / max(1, sum(held.values())))
    return {number: newest[number] - int(held[number] * share) for number in newest}
