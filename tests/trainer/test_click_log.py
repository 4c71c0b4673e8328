import pytest

from deploy.embedded_kafka import EmbeddedKafka
from model.clicks import Click, encode_click
from tests.trainer.broker_topics import PARTITIONS, BrokerTopics, make_topics, run_within_deadline
from tests.trainer.click_builders import cyclic_clicks
from trainer.click_log import ClickBatch, KafkaClickLog, start_offsets
from trainer.errors import KafkaUnavailableError

CLICKS = cyclic_clicks("ABC", sessions=50, clicks=4, start_ms=1_000)


async def read_all(topics: BrokerTopics, offsets: dict[int, int] | None = None) -> list[ClickBatch]:
    """Read from `offsets`, or from the oldest of every partition, to what was the newest at the start."""
    batches = []
    async with KafkaClickLog(topics.aiokafka, topics.clicks, timeout_s=10) as log:
        oldest, newest = await log.range()
        log.read_from(oldest if offsets is None else offsets)
        while any(at < newest[number] for number, at in (await log.positions()).items()):
            batches += await log.read(0.1)
    return batches


def clicks_by_session(batches: list[ClickBatch]) -> dict[str, list[Click]]:
    sessions: dict[str, list[Click]] = {}
    for batch in batches:
        for click in batch.clicks:
            sessions.setdefault(click.session_id, []).append(click)
    return sessions


def test_every_click_of_every_partition_is_read_in_its_order(topics: BrokerTopics) -> None:
    topics.produce_clicks(CLICKS)
    batches = run_within_deadline(read_all(topics))
    expected: dict[str, list[Click]] = {}
    for click in CLICKS:
        expected.setdefault(click.session_id, []).append(click)
    assert clicks_by_session(batches) == expected
    assert {batch.partition for batch in batches} == set(range(PARTITIONS))
    for partition in range(PARTITIONS):
        offsets = [offset for batch in batches if batch.partition == partition for offset in batch.offsets]
        assert offsets == list(range(len(offsets)))


def test_reading_starts_at_the_offsets_given(topics: BrokerTopics) -> None:
    topics.produce_clicks(CLICKS)
    batches = run_within_deadline(read_all(topics, {0: 5, 2: 7}))
    assert {batch.partition for batch in batches} == {0, 2}
    assert min(batch.offsets[0] for batch in batches if batch.partition == 0) == 5
    assert min(batch.offsets[0] for batch in batches if batch.partition == 2) == 7


def test_records_that_are_no_clicks_are_passed_over_and_counted(topics: BrokerTopics) -> None:
    good = Click("s", "A", 5)
    topics.produce(
        topics.clicks,
        (b"s", encode_click(good)),
        (b"s", None),
        (b"s", b"not JSON"),
        (b"other", encode_click(good)),
        partition=1,
    )
    batches = run_within_deadline(read_all(topics))
    assert [click for batch in batches for click in batch.clicks] == [good]
    assert batches[-1].next_offset == 4
    counted = sum((batch.invalid for batch in batches), start=batches[0].invalid.__class__())
    assert counted == {"empty": 1, "malformed": 1, "key-mismatch": 1}


def test_a_missing_topic_is_named_and_not_created(embedded_kafka: EmbeddedKafka) -> None:
    topics = BrokerTopics(embedded_kafka.bootstrap, "no-such-topic", "models")
    for _ in range(2):
        with pytest.raises(KafkaUnavailableError, match="no topic 'no-such-topic'"):
            run_within_deadline(read_all(topics))


def test_a_broker_that_is_away_is_said_to_be_so(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    embedded_kafka.set_down()
    with pytest.raises(KafkaUnavailableError, match="Kafka cannot be reached"):
        run_within_deadline(read_all(topics))


def test_a_broker_that_does_not_answer_is_given_up_after_the_timeout(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    embedded_kafka.set_rtt_ms(60_000)

    async def ask() -> None:
        async with KafkaClickLog(topics.aiokafka, topics.clicks, timeout_s=0.5):
            pytest.fail("a broker that does not answer cannot have been reached")

    with pytest.raises(KafkaUnavailableError, match=r"did not answer within 0\.5 s"):
        run_within_deadline(ask())


def test_every_partition_gives_the_same_share_of_what_it_holds() -> None:
    assert start_offsets({0: 0, 1: 100}, {0: 1000, 1: 3100}, 400) == {0: 900, 1: 2800}


def test_a_topic_with_less_than_the_window_is_read_from_its_beginning() -> None:
    assert start_offsets({0: 3, 1: 0}, {0: 10, 1: 0}, 400) == {0: 3, 1: 0}
