"""A record that is not a click and as large as Kafka lets it be: it must become a dead letter, not a crash loop."""

import asyncio
import secrets

import pytest
from aiokafka import AIOKafkaProducer

from deploy import topics
from deploy.local_kafka import LocalKafka
from deploy.topics import TopicPlan
from stream.deliveries import BATCH_BYTES, REQUEST_BYTES, Deliveries
from stream.records import DeadLetter, SourceRecord
from tests.brokers import read_records

# Kafka's usual limit for a record batch, less its own overhead.
LARGEST_VALUE_BYTES = 1_048_588 - 200

pytestmark = pytest.mark.kafka


def test_the_largest_record_of_the_clicks_topic_fits_the_dead_letters(real_kafka: LocalKafka) -> None:
    name = f"dead-{secrets.token_hex(3)}"
    plan = TopicPlan(
        app=name,
        clicks=f"{name}-c",
        recommendations=f"{name}-r",
        dead_letters=f"{name}-d",
        models=f"{name}-m",
        partitions=1,
    )
    topics.create(plan, {"bootstrap.servers": real_kafka.bootstrap})
    record = SourceRecord(0, 7, 1, b"key", b"x" * LARGEST_VALUE_BYTES)
    letter = DeadLetter(record, "malformed", "the value is not JSON")

    async def deliver() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=real_kafka.bootstrap,
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
        )
        await producer.start()
        try:
            deliveries = Deliveries(producer, 20)
            deliveries.add((plan.dead_letters, 0), record.key, record.value, 1, letter.headers(plan.clicks))
            await deliveries.send()
        finally:
            await producer.stop()

    asyncio.run(deliver())
    (found,) = read_records(real_kafka.bootstrap, plan.dead_letters, 1)
    assert found.value() == record.value
