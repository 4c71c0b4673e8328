import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError
from confluent_kafka import KafkaError

from deploy.embedded_kafka import ApiKey, EmbeddedKafka
from stream.deliveries import BATCH_BYTES, REQUEST_BYTES, Deliveries, DeliveryError
from tests.brokers import read_records
from tests.stream.event_loop import on_a_loop
from tests.stream.fake_producer import FakeProducer, SentRecord

TIMEOUT_S = 10.0
ANSWERS, STATES = ("recommendations", 0), ("changelog", 0)


def collecting(producer: FakeProducer, *destinations: tuple[str, int], timeout_s: float = TIMEOUT_S) -> Deliveries:
    """Return deliveries with one record for each of `destinations`, valued by their order."""
    deliveries = Deliveries(producer, timeout_s)
    for place, destination in enumerate(destinations):
        deliveries.add(destination, b"key", b"%d" % place, 5)
    return deliveries


@on_a_loop
async def test_records_of_one_partition_go_out_as_one_batch_in_order() -> None:
    producer = FakeProducer()
    await collecting(producer, ANSWERS, ("recommendations", 1), ANSWERS, STATES, ANSWERS).send()
    assert [place for place, _ in producer.sent] == [ANSWERS, ("recommendations", 1), STATES]
    assert [record.value for record in producer.records(*ANSWERS)] == [b"0", b"2", b"4"]


@on_a_loop
async def test_destinations_are_sent_in_the_order_in_which_they_were_first_added() -> None:
    producer = FakeProducer()
    await collecting(producer, STATES, ANSWERS, STATES).send()
    assert [place for place, _ in producer.sent] == [STATES, ANSWERS]


@on_a_loop
async def test_key_value_time_and_headers_arrive_as_given() -> None:
    producer = FakeProducer()
    deliveries = Deliveries(producer, TIMEOUT_S)
    deliveries.add(ANSWERS, None, None, 7, [("name", b"text")])
    await deliveries.send()
    assert producer.records(*ANSWERS) == [SentRecord(None, None, 7, [("name", b"text")])]


@on_a_loop
async def test_a_full_batch_opens_the_next_and_the_order_stays() -> None:
    producer = FakeProducer(room=2)
    await collecting(producer, *[ANSWERS] * 5).send()
    assert [batch.record_count() for _, batch in producer.sent] == [2, 2, 1]
    assert [record.value for record in producer.records(*ANSWERS)] == [b"0", b"1", b"2", b"3", b"4"]


@on_a_loop
async def test_the_offset_of_the_last_record_of_each_partition_is_returned() -> None:
    deliveries = collecting(FakeProducer(room=2), ANSWERS, ANSWERS, ANSWERS, STATES)
    assert await deliveries.send() == {ANSWERS: 2, STATES: 0}
    deliveries.add(ANSWERS, b"key", b"", 5)
    assert await deliveries.send() == {ANSWERS: 3}


@on_a_loop
async def test_what_was_sent_is_not_sent_again() -> None:
    producer = FakeProducer()
    deliveries = collecting(producer, ANSWERS)
    await deliveries.send()
    assert await deliveries.send() == {}
    assert len(producer.sent) == 1


def test_a_record_that_fits_no_batch_is_an_error_that_names_its_size_and_topic() -> None:
    with pytest.raises(DeliveryError, match="a record of 3 bytes does not fit a batch for recommendations"):
        Deliveries(FakeProducer(room=0), TIMEOUT_S).add(ANSWERS, b"key", b"abc", 5)


@pytest.mark.parametrize(
    ("producer", "cause"),
    [
        (FakeProducer(failures={"changelog": TopicAuthorizationFailedError("changelog")}), "TopicAuthorizationFailed"),
        (FakeProducer(refusal=KafkaTimeoutError()), "KafkaTimeoutError"),
    ],
    ids=["refused by the broker", "not accepted by the producer"],
)
@on_a_loop
async def test_a_failed_delivery_is_an_error_that_names_topics_and_cause(producer: FakeProducer, cause: str) -> None:
    with pytest.raises(DeliveryError, match=rf"changelog, recommendations were not delivered: .*{cause}"):
        await collecting(producer, ANSWERS, STATES).send()


@on_a_loop
async def test_a_delivery_that_is_never_acknowledged_is_an_error_at_the_deadline() -> None:
    deliveries = collecting(FakeProducer(failures={"changelog": None}), ANSWERS, STATES, timeout_s=0.01)
    with pytest.raises(DeliveryError, match="TimeoutError"):
        await deliveries.send()


@on_a_loop
async def test_being_cancelled_is_not_mistaken_for_a_failed_delivery() -> None:
    sending = asyncio.create_task(collecting(FakeProducer(failures={"changelog": None}), STATES).send())
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def deliver(broker: EmbeddedKafka, records: int) -> dict[tuple[str, int], int]:
    """Send records to two partitions with the producer that workers have."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap,
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        max_request_size=REQUEST_BYTES,
        request_timeout_ms=5_000,
    )
    await producer.start()
    try:
        deliveries = Deliveries(producer, TIMEOUT_S)
        for place in range(records):
            deliveries.add((ANSWERS[0], place % 2), b"key", b"%d" % place + b"." * 300_000, 5, [("name", b"text")])
        return await deliveries.send()
    finally:
        await producer.stop()


def test_a_broker_has_every_record_once_though_it_asked_for_retries(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic(ANSWERS[0], 2)
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.NOT_LEADER_FOR_PARTITION] * 2)
    # Four records of 300 kB do not fit a batch of 1 MiB.
    assert asyncio.run(deliver(embedded_kafka, 12)) == {(ANSWERS[0], 0): 5, (ANSWERS[0], 1): 5}
    found = read_records(embedded_kafka.bootstrap, ANSWERS[0], 12)
    numbers = {p: [int(r.value().rstrip(b".")) for r in found if r.partition() == p] for p in (0, 1)}
    assert numbers == {0: [0, 2, 4, 6, 8, 10], 1: [1, 3, 5, 7, 9, 11]}
    assert found[0].headers() == [("name", b"text")]


def test_a_broker_that_refuses_is_a_delivery_error(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic(ANSWERS[0], 2)
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED])
    with pytest.raises(DeliveryError, match="TopicAuthorizationFailed"):
        asyncio.run(deliver(embedded_kafka, 2))
