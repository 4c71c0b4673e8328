"""`nextclick worker --processes 2` on Apache Kafka: both answer, and they end as one."""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from deploy import topics
from deploy.fleet import worker_ports
from deploy.local_kafka import LocalKafka
from deploy.settings import HttpSettings, Settings
from deploy.topics import TopicPlan
from model.clicks import Click, encode_click
from tests.brokers import read_records
from tests.deploy.command_line import Running, last_json, running

PARTITIONS, CLICKS, SESSIONS = 4, 400, 40

pytestmark = pytest.mark.kafka


@pytest.fixture
def plan(real_kafka: LocalKafka) -> TopicPlan:
    name = f"fleet-{secrets.token_hex(3)}"
    plan = TopicPlan(f"{name}-app", f"{name}-c", f"{name}-r", f"{name}-d", f"{name}-m", partitions=PARTITIONS)
    topics.create(plan, {"bootstrap.servers": real_kafka.bootstrap})
    return plan


@pytest.fixture
def fleet(real_kafka: LocalKafka, plan: TopicPlan, tmp_path: Path) -> Iterator[Running]:
    settings = {
        "KAFKA__BOOTSTRAP_SERVERS": real_kafka.bootstrap,
        "PARTITIONS": PARTITIONS,
        "TOPICS__CLICKS": plan.clicks,
        "TOPICS__RECOMMENDATIONS": plan.recommendations,
        "TOPICS__DEAD_LETTERS": plan.dead_letters,
        "TOPICS__MODELS": plan.models,
        "WORKER__APP_ID": plan.app,
        "WORKER__DATA_DIR": tmp_path / "data",
        "HTTP__WORKER_PORT": 0,
        "REGISTRY": tmp_path / "registry",
        "LOG_FORMAT": "json",
    }
    arguments = ("worker", "--processes", "2", "--json")
    with running(tmp_path / "fleet", *arguments, **{name: str(value) for name, value in settings.items()}) as fleet:
        fleet.wait_until(lambda: fleet.stderr.count('"partitions": [') >= 2, "both have partitions")
        yield fleet


def workers_of(fleet: Running) -> list[int]:
    children = Path(f"/proc/{fleet.process.pid}/task/{fleet.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if "deploy\0worker" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_two_processes_answer_every_click_and_end_when_told_to(
    real_kafka: LocalKafka, plan: TopicPlan, fleet: Running, tmp_path: Path
) -> None:
    producer = Producer({"bootstrap.servers": real_kafka.bootstrap, "partitioner": "murmur2_random"})
    for number in range(CLICKS):
        click = Click(f"s{number % SESSIONS}", f"i{number}", 1_700_000_000_000 + number)
        producer.produce(plan.clicks, encode_click(click), click.session_id)
    assert producer.flush(30) == 0
    answers = read_records(real_kafka.bootstrap, plan.recommendations, CLICKS)
    assert {record.partition() for record in answers} == set(range(PARTITIONS))
    assert len(workers_of(fleet)) == 2

    assert fleet.end(signal.SIGTERM) == 0
    assert last_json(fleet.stdout) == {"answers": CLICKS, "dead_letters": 0}
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["0", "1"]


def test_when_one_is_killed_the_other_ends_too_and_the_status_says_so(fleet: Running) -> None:
    killed, other = workers_of(fleet)
    os.kill(killed, signal.SIGKILL)
    assert fleet.end() == 1
    assert "worker 0` ended with status -9" in fleet.stderr
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{other}").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_ports_follow_each_other_and_leave_out_the_trainers() -> None:
    assert worker_ports(Settings(), 3) == [9464, 9466, 9467]
    assert worker_ports(Settings(http=HttpSettings(worker_port=0)), 2) == [0, 0]
