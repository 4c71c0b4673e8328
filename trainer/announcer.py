"""The models topic: which version serves, and saying that a new one does."""

from collections.abc import Awaitable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from model.announcements import SERVING_KEY, Announcement
from trainer.click_log import kafka_answer, stop_consumer
from trainer.errors import KafkaUnavailableError

_POLL_MS = 200


class KafkaAnnouncer:
    """Reads and writes the models topic; every call opens its own connection, as rounds are minutes apart.

    Args:
        kafka_options: Keyword arguments of aiokafka's clients, `bootstrap_servers` and security among them.
        topic: The models topic, which must exist.
        timeout_s: Longest wait for one answer of Kafka.
    """

    def __init__(self, kafka_options: Mapping[str, Any], topic: str, *, timeout_s: float) -> None:
        self._options = {"request_timeout_ms": int(timeout_s * 1000), **kafka_options}
        self._topic = topic
        self._timeout_s = timeout_s

    async def serving(self) -> Announcement | None:
        """Return the announcement of the version that serves, or None where none does.

        Raises:
            KafkaUnavailableError: Kafka did not answer, or has no such topic.
            InvalidAnnouncementError: What stands under the serving key is not an announcement.
        """
        consumer = AIOKafkaConsumer(
            group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **self._options
        )
        try:
            await self._answer(consumer.start())
            value = await self._newest_value(consumer)
        finally:
            await stop_consumer(consumer)
        return None if value is None else Announcement.decode(value)

    async def _newest_value(self, consumer: Any) -> bytes | None:
        """Return the last value under the serving key; None where there is none, or a tombstone."""
        if self._topic not in await self._answer(consumer.topics()):
            raise KafkaUnavailableError(
                f"Kafka answers but has no topic {self._topic!r}; make it with `nextclick topics create`"
            )
        partition = TopicPartition(self._topic, 0)
        consumer.assign([partition])
        oldest = (await self._answer(consumer.beginning_offsets([partition])))[partition]
        end = (await self._answer(consumer.end_offsets([partition])))[partition]
        consumer.seek(partition, oldest)
        if oldest == end:
            return None
        value: bytes | None = await self._answer(_last_serving_value(consumer, partition, end))
        return value

    async def announce(self, announcement: Announcement) -> None:
        """Say that a version serves: first under its own name, last under the serving key, each awaited.

        A crash between the two leaves the old version serving.

        Raises:
            KafkaUnavailableError: A record was not acknowledged; the second may have been written or not.
        """
        producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **self._options)
        try:
            await self._answer(producer.start())
            for key in (announcement.version.encode(), SERVING_KEY):
                sending = producer.send_and_wait(self._topic, announcement.encode(), key=key, partition=0)
                await self._answer(sending)
        finally:
            await producer.stop()

    async def _answer(self, question: Awaitable[Any]) -> Any:
        return await kafka_answer(question, self._timeout_s)


async def _last_serving_value(consumer: Any, partition: TopicPartition, end: int) -> bytes | None:
    value: bytes | None = None
    # By position, not by the last record's offset: compaction may have removed the last ones.
    while await consumer.position(partition) < end:
        fetched = await consumer.getmany(partition, timeout_ms=_POLL_MS)
        for record in fetched.get(partition, []):
            if record.key == SERVING_KEY:
                value = record.value
    return value
