import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from deploy.embedded_kafka import ApiKey, EmbeddedKafka
from deploy.errors import BrokerError
from tests.brokers import READ_DEADLINE_S, read_records


def produce(bootstrap: str, topic: str, values: list[bytes], **options: Any) -> list[KafkaError | None]:
    """Produce to partition 0 and return what became of each record."""
    outcomes: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0, **options})
    for value in values:
        producer.produce(topic, value, partition=0, on_delivery=lambda error, _: outcomes.append(error))
    producer.flush(READ_DEADLINE_S)
    return outcomes


def listening_addresses() -> dict[int, str]:
    """Return port -> hexadecimal local address of every TCP socket that this process listens on."""
    own = {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                address, port = fields[1].split(":")
                addresses[int(port, 16)] = address
    return addresses


def test_records_come_back_as_they_were_produced(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    values = [f"{number}".encode() for number in range(500)]

    assert produce(embedded_kafka.bootstrap, "clicks", values) == [None] * 500
    assert [record.value() for record in read_records(embedded_kafka.bootstrap, "clicks", 500)] == values


def test_topics_have_the_partitions_they_were_given() -> None:
    with EmbeddedKafka({"clicks": 3, "models": 1}, brokers=2) as broker:
        broker.create_topic("late", 2)
        listed = AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics(timeout=READ_DEADLINE_S)

        assert {name: len(topic.partitions) for name, topic in listed.topics.items()} == broker.topics
        assert broker.topics == {"clicks": 3, "models": 1, "late": 2}
        assert len(listed.brokers) == len(broker.bootstrap.split(",")) == 2


def test_a_topic_may_be_created_again_only_with_the_same_partitions(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 3)
    embedded_kafka.create_topic("clicks", 3)

    with pytest.raises(ValueError, match="clicks has 3 partitions and cannot be given 4"):
        embedded_kafka.create_topic("clicks", 4)


@pytest.mark.parametrize(("name", "partitions"), [("", 1), ("clicks", 0)])
def test_a_topic_without_name_or_partitions_is_refused(name: str, partitions: int) -> None:
    with pytest.raises(ValueError, match="a name and at least 1 partition"):
        EmbeddedKafka({name: partitions})


def test_a_topic_that_a_client_created_by_asking_is_refused_by_name(embedded_kafka: EmbeddedKafka) -> None:
    AdminClient({"bootstrap.servers": embedded_kafka.bootstrap}).list_topics("asked", timeout=READ_DEADLINE_S)

    with pytest.raises(BrokerError, match=r"could not create topic asked: .*already exists"):
        embedded_kafka.create_topic("asked", 2)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads listening sockets from /proc")
def test_every_broker_listens_on_loopback_only() -> None:
    before = listening_addresses()
    with EmbeddedKafka({}, brokers=2) as broker:
        opened = {port: address for port, address in listening_addresses().items() if port not in before}

        assert sorted(opened) == sorted(int(part.split(":")[1]) for part in broker.bootstrap.split(","))
        assert set(opened.values()) == {"0100007F"}


def test_a_group_shares_the_partitions_soon_after_it_forms(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 2)
    produce(embedded_kafka.bootstrap, "clicks", [b"first"])
    options = {"bootstrap.servers": embedded_kafka.bootstrap, "auto.offset.reset": "earliest"}
    consumer = Consumer({**options, "group.id": "workers"})
    consumer.subscribe(["clicks"])

    record = consumer.poll(READ_DEADLINE_S)
    assert record is not None
    assert record.value() == b"first"
    assert len(consumer.assignment()) == 2
    consumer.close()


def test_pushed_errors_meet_the_next_requests_and_no_others(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    refusals = [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 2
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, refusals)

    codes = [produce(embedded_kafka.bootstrap, "clicks", [b"x"])[0] for _ in range(3)]
    assert [error and error.code() for error in codes] == [*refusals, None]


def test_cleared_errors_meet_no_request(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED])
    embedded_kafka.clear_request_errors(ApiKey.PRODUCE)

    assert produce(embedded_kafka.bootstrap, "clicks", [b"x"]) == [None]


def test_the_round_trip_takes_as_long_as_it_was_told_to(embedded_kafka: EmbeddedKafka) -> None:
    client = AdminClient({"bootstrap.servers": embedded_kafka.bootstrap})
    client.list_topics(timeout=READ_DEADLINE_S)
    embedded_kafka.set_rtt_ms(400)

    started = time.monotonic()
    client.list_topics(timeout=READ_DEADLINE_S)
    assert time.monotonic() - started >= 0.4


def test_a_broker_that_was_down_comes_back_at_its_address_with_its_records(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    produce(embedded_kafka.bootstrap, "clicks", [b"kept"])
    embedded_kafka.set_down()
    with pytest.raises(KafkaException):
        AdminClient({"bootstrap.servers": embedded_kafka.bootstrap, "log_level": 0}).list_topics(timeout=0.3)
    embedded_kafka.set_up()

    assert [record.value() for record in read_records(embedded_kafka.bootstrap, "clicks", 1)] == [b"kept"]


def test_an_unknown_broker_cannot_be_taken_down(embedded_kafka: EmbeddedKafka) -> None:
    with pytest.raises(BrokerError, match="could not take it down"):
        embedded_kafka.set_down(broker=7)


def test_a_closed_broker_says_so_and_may_be_closed_again() -> None:
    broker = EmbeddedKafka({"clicks": 1})
    broker.close()
    broker.close()

    with pytest.raises(BrokerError, match="closed"):
        broker.create_topic("late", 1)


def test_a_partition_keeps_only_its_newest_five_mebibytes(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    for _ in range(80):
        produce(embedded_kafka.bootstrap, "clicks", [bytes(100_000)])
    consumer = Consumer({"bootstrap.servers": embedded_kafka.bootstrap, "group.id": "reader"})
    first, end = consumer.get_watermark_offsets(TopicPartition("clicks", 0), timeout=READ_DEADLINE_S)
    consumer.close()

    assert end == 80
    assert 40 <= end - first <= 53
