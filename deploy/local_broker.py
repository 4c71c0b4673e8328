"""One way to start either local broker with its topics made."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy import topics
from deploy.embedded_kafka import EmbeddedKafka
from deploy.kafka_jars import fetch_jars
from deploy.local_kafka import LocalKafka
from deploy.topics import TopicPlan

BROKER_KINDS = ("embedded", "kafka")


@contextmanager
def start_broker(kind: str, plan: TopicPlan, data_dir: Path, port: int = 0) -> Iterator[EmbeddedKafka | LocalKafka]:
    """Run a broker on loopback for the length of a `with` block.

    Args:
        kind: One of `BROKER_KINDS`; `kafka` fetches Apache Kafka's jars where they are missing.
        plan: The topics it has.
        data_dir: Where Apache Kafka keeps its data.
        port: Where Apache Kafka listens; 0 takes a free port.

    Raises:
        BrokerError: It cannot be started; the message says what is missing.
    """
    if kind == "embedded":
        with EmbeddedKafka(plan.partition_counts()) as embedded:
            yield embedded
        return
    with LocalKafka(fetch_jars(), data_dir, port=port) as kafka:
        topics.create(plan, {"bootstrap.servers": kafka.bootstrap})
        yield kafka
