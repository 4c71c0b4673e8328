import socket
import threading
import time

import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import KafkaError

from deploy.click_generator import generate_clicks
from deploy.embedded_kafka import ApiKey, EmbeddedKafka
from deploy.errors import ReplayError
from deploy.local_kafka import LocalKafka
from deploy.replay import Pace, replay
from deploy.shop import Shop, ShopSettings
from deploy.topics import TopicPlan, create
from model.clicks import ClickTable, decode_click, encode_click
from tests.brokers import read_records

START_MS = 1_700_000_000_000


def clicks(count: int) -> ClickTable:
    generator = np.random.default_rng(1)
    shop = Shop(ShopSettings(items=60, categories=6, blocks=1, start_ms=START_MS), generator)
    return generate_clicks(shop, count, generator)


def options_for(broker: EmbeddedKafka | LocalKafka) -> dict[str, object]:
    return {"bootstrap.servers": broker.bootstrap}


def test_a_rate_spaces_clicks_evenly() -> None:
    due_s = Pace(rate=200).due_s(np.array([5, 3, 900_000], dtype=np.int64))

    assert due_s.tolist() == [0.0, 0.005, 0.01]


def test_a_speed_divides_the_clicks_own_time_and_never_goes_back() -> None:
    due_s = Pace(speed=60).due_s(np.array([60_000, 120_000, 90_000, 180_000], dtype=np.int64))

    assert due_s.tolist() == [0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("pace", [Pace(), Pace(rate=3), Pace(speed=3)])
def test_no_clicks_are_never_due(pace: Pace) -> None:
    assert pace.due_s(np.empty(0, dtype=np.int64)).shape == (0,)


def test_flat_out_everything_is_due_at_once() -> None:
    assert Pace().due_s(np.array([1, 2], dtype=np.int64)).tolist() == [0.0, 0.0]


def test_a_pace_has_one_measure() -> None:
    with pytest.raises(ValueError, match="rate or speed, not both"):
        Pace(rate=1, speed=1)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_a_pace_that_gets_nowhere_or_has_no_end_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="rate must be above 0"):
        Pace(rate=value)


def test_every_click_arrives_under_its_session_with_its_own_time_and_in_order(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 3)
    table = clicks(3_000)
    report = replay(table, options_for(embedded_kafka))
    records = read_records(embedded_kafka.bootstrap, "clicks", 3_000)

    assert (report.delivered, report.is_complete) == (3_000, True)
    arrived = [decode_click(record.key(), record.value(), record.timestamp()[1]) for record in records]
    by_session = sorted(range(3_000), key=lambda place: arrived[place].session_id)
    expected = sorted(table.clicks(), key=lambda click: click.session_id)
    assert [arrived[place] for place in by_session] == expected
    assert sorted(record.value() or b"" for record in records) == sorted(map(encode_click, table.clicks()))


def test_sessions_go_to_the_partitions_where_aiokafka_would_send_them(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 4)
    replay(clicks(1_000), options_for(embedded_kafka))
    records = read_records(embedded_kafka.bootstrap, "clicks", 1_000)
    partitions = list(range(4))

    assert {record.partition() for record in records} == set(partitions)
    assert all(record.partition() == DefaultPartitioner()(record.key(), partitions, partitions) for record in records)


def test_records_carry_the_time_of_their_production_or_the_clicks_when_asked(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("now", 1)
    embedded_kafka.create_topic("then", 1)
    table = clicks(20)
    before_ms = time.time_ns() // 1_000_000
    replay(table, options_for(embedded_kafka), topic="now")
    replay(table, options_for(embedded_kafka), topic="then", record_time="click")

    now = [record.timestamp()[1] for record in read_records(embedded_kafka.bootstrap, "now", 20)]
    then = [record.timestamp()[1] for record in read_records(embedded_kafka.bootstrap, "then", 20)]
    assert min(now) >= before_ms
    assert then == table.timestamp_ms.tolist()


def test_a_rate_is_kept(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)

    report = replay(clicks(400), options_for(embedded_kafka), pace=Pace(rate=1_000))
    assert 0.399 <= report.seconds < 2


def test_a_full_queue_waits_for_the_broker_and_loses_nothing(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 2)

    report = replay(clicks(2_000), {**options_for(embedded_kafka), "queue.buffering.max.messages": 50})
    assert report.is_complete
    assert len(read_records(embedded_kafka.bootstrap, "clicks", 2_000)) == 2_000


def test_progress_rises_to_the_number_of_clicks(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    seen: list[int] = []
    replay(clicks(300), options_for(embedded_kafka), pace=Pace(rate=1_000), on_progress=seen.append)

    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert seen[-1] == 300


def test_a_stopped_replay_has_delivered_what_it_produced(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    stop = threading.Event()
    report = replay(
        clicks(2_000),
        options_for(embedded_kafka),
        pace=Pace(rate=1_000),
        on_progress=lambda _: stop.set(),
        stop=stop,
    )

    assert 0 < report.delivered < 2_000
    assert not report.is_complete
    assert len(read_records(embedded_kafka.bootstrap, "clicks", report.delivered)) == report.delivered


def test_a_refused_first_click_ends_the_replay_with_a_readable_error(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED])

    with pytest.raises(ReplayError, match=r"^1 of 1 clicks did not reach topic clicks: .*uthorization.* \(1\)$"):
        replay(clicks(10), options_for(embedded_kafka))


def test_errors_that_pass_are_overcome_without_a_copy(embedded_kafka: EmbeddedKafka) -> None:
    embedded_kafka.create_topic("clicks", 1)
    embedded_kafka.push_request_errors(ApiKey.PRODUCE, [KafkaError._TRANSPORT, KafkaError.NOT_LEADER_FOR_PARTITION])
    table = clicks(500)
    replay(table, options_for(embedded_kafka))

    records = read_records(embedded_kafka.bootstrap, "clicks", 500)
    assert [record.value() for record in records] == [encode_click(click) for click in table.clicks()]
    assert [record.offset() for record in records] == list(range(500))


def test_a_missing_topic_is_named_before_anything_is_produced(embedded_kafka: EmbeddedKafka) -> None:
    with pytest.raises(ReplayError, match="topic clicks does not exist: create it first"):
        replay(clicks(1), options_for(embedded_kafka))


def test_no_broker_is_a_readable_error_within_the_deadline() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ReplayError, match=f"no answer from Kafka at {nobody} within 0.3 s"):
            replay(clicks(1), {"bootstrap.servers": nobody}, deadline_s=0.3)


@pytest.mark.kafka
def test_a_real_broker_gets_every_click_once_and_in_order(real_kafka: LocalKafka) -> None:
    plan = TopicPlan(
        "replay-app", "replay-clicks", "replay-recommendations", "replay-letters", "replay-models", partitions=1
    )
    create(plan, options_for(real_kafka))
    table = clicks(20_000)
    replay(table, options_for(real_kafka), topic=plan.clicks)

    records = read_records(real_kafka.bootstrap, plan.clicks, 20_000)
    assert [record.value() for record in records] == [encode_click(click) for click in table.clicks()]
