"""Records out: whole batches per partition, sent at once and awaited together."""

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from model.errors import RecommenderError

# aiokafka's default of 16 KB would cut a micro-batch into dozens of requests.
BATCH_BYTES = 1 << 20
# A dead letter carries its original value, up to the broker's usual 1 MB, and headers on top.
REQUEST_BYTES = 4 << 20

TopicPartition = tuple[str, int]

_NO_HEADERS: list[tuple[str, bytes]] = []  # aiokafka's batches take nothing but lists


class DeliveryError(RecommenderError):
    """The broker refused records or did not acknowledge them in time; nothing after them may be committed."""


class Deliveries:
    """Collects records, then sends them as one or few batches per partition.

    Args:
        producer: A started, idempotent producer (acks from all replicas).
        timeout_s: Seconds after which an unacknowledged delivery is an error.
    """

    def __init__(self, producer: AIOKafkaProducer, timeout_s: float) -> None:
        self._producer = producer
        self._timeout_s = timeout_s
        self._open: dict[TopicPartition, list[Any]] = {}

    def add(
        self,
        destination: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: list[tuple[str, bytes]] = _NO_HEADERS,
    ) -> None:
        """Append one record for (topic, partition); nothing is sent yet."""
        batches = self._open.get(destination)
        # Keywords are what aiokafka's batches take, and one call is all that most records cost.
        if batches and batches[-1].append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is not None:
            return
        batch = self._producer.create_batch()
        self._open.setdefault(destination, []).append(batch)
        if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
            raise DeliveryError(f"a record of {len(value or b'')} bytes does not fit a batch for {destination[0]}")

    async def send(self) -> dict[TopicPartition, int]:
        """Send everything added, in the order in which destinations were first added, and await the broker.

        Returns:
            The offset of the last record written to each (topic, partition).

        Raises:
            DeliveryError: Any delivery failed or took too long. Others may have arrived.
        """
        opened, self._open = self._open, {}
        counts = [(destination, batch.record_count()) for destination, batches in opened.items() for batch in batches]
        try:
            async with asyncio.timeout(self._timeout_s):
                futures = [
                    await self._producer.send_batch(batch, topic, partition=partition)
                    for (topic, partition), batches in opened.items()
                    for batch in batches
                ]
                delivered = await asyncio.gather(*futures)
        except (KafkaError, TimeoutError) as error:
            where = ", ".join(sorted({topic for topic, _ in opened}))
            raise DeliveryError(f"records for {where} were not delivered: {error!r}") from error
        return {
            destination: metadata.offset + count - 1
            for (destination, count), metadata in zip(counts, delivered, strict=True)
        }
