"""`nextclick worker` as a process: how it ends, and what it says then."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from deploy.embedded_kafka import ApiKey, EmbeddedKafka
from deploy.topics import TopicPlan
from model.clicks import Click, encode_click
from tests.deploy.command_line import Running, last_json, running

CLICKS = 20


@dataclass(frozen=True)
class Serving:
    """A worker with a broker of its own."""

    broker: EmbeddedKafka
    worker: Running

    def answer_all(self) -> None:
        """Produce clicks and wait until all are answered."""
        self.wait_until_assigned()
        producer = Producer({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        for number in range(CLICKS):
            click = Click(f"s{number % 4}", f"i{number}", 1_700_000_000_000 + number)
            producer.produce("clicks", encode_click(click), click.session_id, partition=number % 2)
        assert producer.flush(30) == 0
        self.worker.wait_until(lambda: self.answers() == CLICKS, "every click is answered")

    def answers(self) -> int:
        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "counter", "log_level": 0})
        ends = [consumer.get_watermark_offsets(TopicPartition("recommendations", p), timeout=10) for p in range(2)]
        consumer.close()
        return sum(high for _, high in ends)

    def wait_until_assigned(self) -> None:
        self.worker.wait_until(lambda: "partitions assigned" in self.worker.stderr, "partitions are assigned")

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.worker.stderr.splitlines()]


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Serving]]:
    """Three workers side by side, for three ways to end; the last, which takes a while, is told to end already."""
    folder = tmp_path_factory.mktemp("workers")
    ways: dict[str, dict[str, str]] = {
        "told": {},
        "refused": {},
        "alone": {"WORKER__COMMIT_INTERVAL_S": "600", "WORKER__DELIVERY_TIMEOUT_S": "1"},
    }
    with ExitStack() as stack:
        found = {}
        for name, settings in ways.items():
            broker = stack.enter_context(EmbeddedKafka(TopicPlan(partitions=2).partition_counts()))
            settings |= {
                "KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
                "PARTITIONS": "2",
                "REGISTRY": str(folder / "registry"),
                "HTTP__WORKER_PORT": "0",
                "WORKER__SESSION_TIMEOUT_S": "6",
                "WORKER__DATA_DIR": str(folder / name / "data"),
            }
            found[name] = Serving(broker, stack.enter_context(running(folder / name, "worker", "--json", **settings)))
        found["alone"].answer_all()
        found["alone"].broker.set_down()
        found["alone"].worker.process.send_signal(signal.SIGTERM)
        yield found


def test_sigterm_ends_a_worker_with_status_0_and_the_number_of_its_answers(workers: dict[str, Serving]) -> None:
    site = workers["told"]
    site.answer_all()

    assert site.worker.end(signal.SIGTERM) == 0
    assert json.loads(site.worker.stdout) == {"answers": CLICKS, "dead_letters": 0}
    assert [line["event"] for line in site.lines()] == ["worker starts", "partitions assigned", "worker stopped"]


def test_a_refused_delivery_ends_a_worker_with_status_1_and_one_line_that_says_so(workers: dict[str, Serving]) -> None:
    site = workers["refused"]
    site.wait_until_assigned()
    site.broker.push_request_errors(ApiKey.PRODUCE, [KafkaError.NO_ERROR] * 3)
    site.broker.push_request_errors(ApiKey.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED] * 40)
    producer = Producer({"bootstrap.servers": site.broker.bootstrap, "log_level": 0})
    for _ in range(3):
        producer.produce("clicks", encode_click(Click("s", "i", 1)), "s", partition=0)
        producer.flush(30)

    assert site.worker.end() == 1
    assert site.worker.stdout == ""
    failure = last_json(site.worker.stderr)
    assert failure["level"] == "critical"
    assert "were not delivered" in failure["error"]
    assert failure["error"].endswith("what is not committed is answered again after a restart; is Kafka running?")
    assert "Traceback" not in site.worker.stderr
    assert len(site.lines()) < 10


def test_a_worker_whose_broker_is_gone_still_ends_when_told_to_and_is_not_loud(workers: dict[str, Serving]) -> None:
    site = workers["alone"]

    assert site.worker.end() in {0, 1}
    assert "Traceback" not in site.worker.stderr
    assert len(site.lines()) < 20
