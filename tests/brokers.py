"""Brokers as fixtures: an embedded one for each test, one real Apache Kafka for the whole run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from deploy.embedded_kafka import EmbeddedKafka
from deploy.errors import BrokerError
from deploy.kafka_jars import DEFAULT_JARS
from deploy.local_kafka import LocalKafka

READ_DEADLINE_S = 20.0
# Tests need not wait for 6 seconds until a member of a group that was killed is missed.
_BROKER_SETTINGS = {"group.min.session.timeout.ms": "1000"}


@pytest.fixture
def embedded_kafka() -> Iterator[EmbeddedKafka]:
    """An embedded broker without topics: create the ones that the test needs."""
    with EmbeddedKafka({}) as broker:
        yield broker


@pytest.fixture(scope="session")
def kafka_libs() -> Path:
    """Folder of the real broker's jars: NEXTCLICK_KAFKA_LIBS, or the default place."""
    return Path(os.environ.get("NEXTCLICK_KAFKA_LIBS") or DEFAULT_JARS)


@pytest.fixture(scope="session")
def real_kafka(kafka_libs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A running Apache Kafka shared by the run: use topics and groups of your own, and leave it running.

    Skips where Java or the jars are missing, and fails instead where NEXTCLICK_REQUIRE_KAFKA is 1.
    """
    try:
        broker = LocalKafka(kafka_libs, tmp_path_factory.mktemp("kafka"), settings=_BROKER_SETTINGS)
    except BrokerError as error:
        if os.environ.get("NEXTCLICK_REQUIRE_KAFKA") == "1":
            raise
        pytest.skip(f"no real Kafka: {error}")
    with broker:
        yield broker


def read_records(bootstrap: str, topic: str, count: int, *, deadline_s: float = READ_DEADLINE_S) -> list[Message]:
    """Read `count` records from the beginning of every partition, or what there is when the deadline passes."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=READ_DEADLINE_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
        records: list[Message] = consumer.consume(count, deadline_s)
        return records
    finally:
        consumer.close()
