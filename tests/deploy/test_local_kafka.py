import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.errors import BrokerError
from deploy.local_kafka import LocalKafka
from tests.brokers import READ_DEADLINE_S, read_records

pytestmark = pytest.mark.kafka

# Starts a broker, says its process id, and waits to be killed.
KEEPER = """
import pathlib, sys
from deploy.local_kafka import LocalKafka

broker = LocalKafka(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
broker.start()
print(broker.pid, flush=True)
sys.stdin.read()
"""


def produce(broker: LocalKafka, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    producer.produce(topic, value)
    assert producer.flush(READ_DEADLINE_S) == 0


def has_ended(process_id: int, deadline_s: float) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        readable, _, _ = select.select([handle], [], [], deadline_s)
    finally:
        os.close(handle)
    return bool(readable)


def test_a_started_broker_answers_on_loopback(real_kafka: LocalKafka) -> None:
    cluster = AdminClient({"bootstrap.servers": real_kafka.bootstrap}).list_topics(timeout=READ_DEADLINE_S)

    assert [f"{broker.host}:{broker.port}" for broker in cluster.brokers.values()] == [real_kafka.bootstrap]
    assert real_kafka.bootstrap.startswith("127.0.0.1:")


def test_a_second_start_is_refused(real_kafka: LocalKafka) -> None:
    with pytest.raises(BrokerError, match="already running"):
        real_kafka.start()


@pytest.mark.usefixtures("real_kafka")
def test_records_survive_a_kill_and_a_stop_at_the_same_address(kafka_libs: Path, tmp_path: Path) -> None:
    broker = LocalKafka(kafka_libs, tmp_path)
    with broker:
        address = broker.bootstrap
        client = AdminClient({"bootstrap.servers": address, "log_level": 0})
        client.create_topics([NewTopic("clicks", 1, 1)])["clicks"].result(READ_DEADLINE_S)
        produce(broker, "clicks", b"before the kill")
        broker.kill()
        broker.start()
        produce(broker, "clicks", b"after the kill")

        assert broker.bootstrap == address
        values = [record.value() for record in read_records(address, "clicks", 2)]
        assert values == [b"before the kill", b"after the kill"]
    assert broker.pid is None


@pytest.mark.usefixtures("real_kafka")
def test_the_broker_ends_with_a_parent_that_is_killed(kafka_libs: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(kafka_libs), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        broker_id = int(parent.stdout.readline())
        parent.kill()

    assert has_ended(broker_id, READ_DEADLINE_S)


@pytest.mark.usefixtures("real_kafka")
def test_a_broker_that_cannot_start_shows_its_last_words(kafka_libs: Path, tmp_path: Path) -> None:
    broker = LocalKafka(kafka_libs, tmp_path, settings={"log.segment.bytes": "lots"})

    with pytest.raises(BrokerError, match=r"Invalid value lots for configuration log\.segment\.bytes"):
        broker.start()
    assert broker.pid is None


@pytest.mark.usefixtures("real_kafka")
def test_a_folder_name_that_kafka_would_read_as_two_is_refused(kafka_libs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="comma or backslash"):
        LocalKafka(kafka_libs, tmp_path / "a,b")
