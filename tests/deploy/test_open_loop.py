"""The open loop charges each click from when it was due, and says what it measured."""

import json
import threading

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from deploy.bench import open_loop
from deploy.bench.costs import AnswerCounter, stages_us
from deploy.bench.live_sessions import fill_changelog, session_records, spread_ids
from deploy.bench.open_loop import OpenLoop, Sent
from deploy.embedded_kafka import EmbeddedKafka
from model.clicks import Click, ClickTable
from stream.session import decode_session

RATE = 100.0
CLICKS = 300
PARTITIONS = 2


def found(arrived_s: NDArray[np.float64], ended_s: float = 20.0) -> OpenLoop:
    due_s = 5.0 + np.arange(CLICKS) / RATE
    return OpenLoop(RATE, due_s, arrived_s, ended_s, Sent(0.3, np.full(CLICKS, 0.002)))


def test_latency_counts_from_when_a_click_was_due_without_the_warm_up() -> None:
    due_s = 5.0 + np.arange(CLICKS) / RATE
    late_s = np.where(np.arange(CLICKS) < RATE, 3.0, 0.01)
    late_s[-1] = 0.5
    told = found(due_s + late_s).to_dict()
    assert told["latency_ms_p50"] == pytest.approx(10)
    assert told["latency_ms_p99"] == pytest.approx(10)
    assert told["latency_ms_max"] == pytest.approx(500)
    assert told["sender_late_ms_p99"] == pytest.approx(2)
    assert told["sender_core_share"] == pytest.approx(0.1)
    assert told["unanswered"] == 0


def test_a_click_without_an_answer_is_charged_until_nobody_waited_any_more() -> None:
    arrived_s = 5.0 + np.arange(CLICKS) / RATE
    arrived_s[-4:] = np.nan
    told = found(arrived_s).to_dict()
    assert told["unanswered"] == 4
    assert told["latency_ms_p99"] > 12_000
    assert told["answers_per_s"] == pytest.approx(RATE * 196 / 200)


def test_the_longest_gap_is_between_answers_after_the_warm_up_whatever_order_they_came_in() -> None:
    arrived_s = 5.0 + np.arange(CLICKS) / RATE
    arrived_s[50:] += 3.0  # in the warm-up
    arrived_s[200:] += 0.25
    arrived_s[[210, 220]] = arrived_s[[220, 210]]
    arrived_s[240:243] = np.nan
    assert found(arrived_s).longest_gap_ms() == pytest.approx(260)


def answer_all_but(left_out: int, options: dict[str, str], until: threading.Event) -> None:
    """Answer as a worker does, as far as a subscriber of the open loop looks; say nothing to one of the event times."""
    consumer = Consumer({**options, "group.id": "answers", "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition("clicks", partition, 0) for partition in range(PARTITIONS)])
    producer = Producer(options)
    while not until.is_set():
        click = consumer.poll(0.05)
        if click is None or click.error():
            continue
        timestamp = json.loads(click.value() or b"")["timestamp"]
        if timestamp != left_out:
            producer.produce("answers", json.dumps({"items": ["i"], "click": {"timestamp": timestamp}}))
            producer.flush()
    consumer.close()


def test_every_answer_is_matched_to_its_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "DRAIN_S", 2.0)
    table = ClickTable.from_clicks(Click(f"s{place % 7}", "i", 1_000 + 60 * place) for place in range(150))
    until = threading.Event()
    with EmbeddedKafka({"clicks": PARTITIONS, "answers": PARTITIONS}) as broker:
        options = {"bootstrap.servers": broker.bootstrap, "fetch.wait.max.ms": "5"}
        answering = threading.Thread(target=answer_all_but, args=(1_000 + 60, options, until))
        answering.start()
        try:
            measured = open_loop.measure(table, RATE, options, "clicks", "answers")
        finally:
            until.set()
            answering.join()
    assert np.flatnonzero(np.isnan(measured.arrived_s)).tolist() == [60], "event times are a millisecond apart"
    assert np.nanmin(measured.arrived_s - measured.due_s) > 0
    assert (measured.sent.lateness_s >= 0).all()


def test_session_records_are_those_of_a_worker_and_lie_where_the_session_s_clicks_come() -> None:
    generator = np.random.default_rng(0)
    records = session_records(["a", "b"], version="v", hidden=8, k=3, event_ms=5, generator=generator)
    session = decode_session(records[0])
    assert (session.version, session.event_ms, len(session.hidden), len(session.answer)) == ("v", 5, 8, 3)
    assert session.offset == -1, "no click is a replay for it"
    ids = spread_ids(3, 50, generator)
    assert len(set(ids)) == 50
    assert len(spread_ids(9, 0, generator)) == 9
    with EmbeddedKafka({"changelog": PARTITIONS}) as broker:
        options = {"bootstrap.servers": broker.bootstrap}
        fill_changelog("changelog", ids, records, options)
        with AnswerCounter(broker.bootstrap, "changelog", PARTITIONS) as counted:
            assert counted() == 50


def test_the_time_of_a_stage_is_what_was_added_meanwhile_per_answer() -> None:
    before = {"process": 1.0, "forward": 0.5, "store_read": 0.1, "store_write": 0.0, "recovery": 9.0}
    after = {"process": 2.0, "forward": 1.0, "store_read": 0.3, "store_write": 0.2, "recovery": 9.0}
    stages = stages_us(before, after, 100_000)
    assert stages == pytest.approx({"forward": 5, "store_read": 2, "store_write": 2, "answers": 3})
