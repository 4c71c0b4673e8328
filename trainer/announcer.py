"""The models topic: which version serves, and saying that a new one does."""

import itertools
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from model.announcements import REFRESH_KEY, SERVING_KEY, Action, Announcement, RefreshAnnouncement
from model.errors import InvalidAnnouncementError
from trainer.click_log import kafka_answer, stop_consumer
from trainer.errors import KafkaUnavailableError
from trainer.retention import Announced

_POLL_MS = 200


class KafkaAnnouncer:
    """Reads and writes the models topic; every call opens its own connection, as they are seconds apart or more.

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
        value = (await self._newest()).get(SERVING_KEY)
        return None if value is None else Announcement.decode(value)

    async def announced(self) -> Announced:
        """Return what serves, and what was last said about every version.

        Raises:
            KafkaUnavailableError: Kafka did not answer, or has no such topic.
            InvalidAnnouncementError: What stands under the serving key is not an announcement.
        """
        newest = await self._newest()
        value = newest.pop(SERVING_KEY, None)
        newest.pop(REFRESH_KEY, None)
        last = {key.decode(errors="replace"): _action(value) for key, value in newest.items()}
        return Announced(
            serving=None if value is None else Announcement.decode(value),
            versions=frozenset(last),
            held=frozenset(version for version, action in last.items() if action in {"pin", None}),
            rejected=frozenset(version for version, action in last.items() if action == "reject"),
        )

    async def _newest(self) -> dict[bytes, bytes]:
        """Return the last value under every key but those with a tombstone."""
        return {key: value for key, value in dict(await self._records()).items() if value is not None}

    async def _records(self) -> list[tuple[bytes, bytes | None]]:
        """Return keys and values, oldest first, as far as compaction has left them."""
        consumer = AIOKafkaConsumer(
            group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **self._options
        )
        try:
            await self._answer(consumer.start())
            return await self._read(consumer)
        finally:
            await stop_consumer(consumer)

    async def _read(self, consumer: Any) -> list[tuple[bytes, bytes | None]]:
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
            return []
        records: list[tuple[bytes, bytes | None]] = await self._answer(_read_until(consumer, partition, end))
        return records

    async def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        """Make a version serve in place of `serving`.

        Kafka cannot write on condition, so the topic is looked at before and after: an announcement that somebody made
        in between is made again, and serves on.

        Returns:
            False where another version was made to serve meanwhile; it serves on.

        Raises:
            KafkaUnavailableError: As `announce`.
            InvalidAnnouncementError: What stands under the serving key is not an announcement.
        """
        if await self.serving() != serving:
            return False
        await self.announce(announcement)
        ours, said = announcement.encode(), [value for key, value in await self._records() if key == SERVING_KEY]
        *_, replaced = [None, *itertools.takewhile(lambda value: value != ours, said)]
        if replaced is None or Announcement.decode(replaced) == serving:
            return True
        if said[-1] == ours:
            await self.announce(Announcement.decode(replaced))
        return False

    async def announce(self, announcement: Announcement) -> None:
        """Say that a version serves: first under its own name, last under the serving key, each awaited.

        A crash between the two leaves the old version serving. A rejection is said under the version's name alone.

        Raises:
            KafkaUnavailableError: A record was not acknowledged; the second may have been written or not.
        """
        value = announcement.encode()
        serving = [] if announcement.action == "reject" else [(SERVING_KEY, value)]
        await self._write([(announcement.version.encode(), value), *serving])

    async def announce_refresh(self, announcement: RefreshAnnouncement) -> None:
        """Let workers hear of a refresh.

        Raises:
            KafkaUnavailableError: The record was not acknowledged.
        """
        await self._write([(REFRESH_KEY, announcement.encode())])

    async def forget(self, versions: Iterable[str]) -> None:
        """Drop what was said about versions that are gone: else the topic would grow with every version ever made.

        Raises:
            KafkaUnavailableError: A record was not acknowledged.
        """
        if records := [(version.encode(), None) for version in versions]:
            await self._write(records)

    async def _write(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Write records in their order, each awaited."""
        producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **self._options)
        try:
            await self._answer(producer.start())
            for key, value in records:
                await self._answer(producer.send_and_wait(self._topic, value, key=key, partition=0))
        finally:
            await producer.stop()

    async def _answer(self, question: Awaitable[Any]) -> Any:
        return await kafka_answer(question, self._timeout_s)


async def _read_until(consumer: Any, partition: TopicPartition, end: int) -> list[tuple[bytes, bytes | None]]:
    records: list[tuple[bytes, bytes | None]] = []
    # By position, not by the last record's offset: compaction may have removed the last ones.
    while await consumer.position(partition) < end:
        fetched = await consumer.getmany(partition, timeout_ms=_POLL_MS)
        records += [(record.key or b"", record.value) for record in fetched.get(partition, [])]
    return records


def _action(value: bytes) -> Action | None:
    try:
        return Announcement.decode(value).action
    except InvalidAnnouncementError:
        return None
