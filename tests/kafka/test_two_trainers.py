"""Two `nextclick trainer` on the same topics of Apache Kafka: one at work, one standing by, whatever befalls them."""

import itertools
import json
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy import topics
from deploy.local_kafka import LocalKafka
from deploy.topics import TopicPlan
from model.announcements import SERVING_KEY, Announcement
from model.registry import Registry
from tests.brokers import read_records
from tests.deploy.command_line import Running, nextclick, running
from tests.trainer.broker_topics import BrokerTopics
from tests.trainer.click_builders import MINUTE_MS, SMALL, cyclic_clicks

pytestmark = pytest.mark.kafka

ITEMS = [f"item-{number}" for number in range(24)]
QUICK = SMALL.model_copy(update={"lease_s": 6.0, "round_clicks": 400, "retry_longest_s": 1.0})


class Site:
    """Topics and a registry of the test's own, and the trainers that were started on them."""

    def __init__(self, broker: LocalKafka, folder: Path, started: ExitStack) -> None:
        name = f"two-{secrets.token_hex(3)}"
        self.plan = TopicPlan(f"{name}-app", f"{name}-c", f"{name}-r", f"{name}-d", f"{name}-m", partitions=2)
        topics.create(self.plan, {"bootstrap.servers": broker.bootstrap})
        self.registry = Registry(str(folder / "registry"))
        self._broker_topics = BrokerTopics(broker.bootstrap, self.plan.clicks, self.plan.models)
        self._folder = folder
        self._started = started
        self._start_ms = itertools.count(0, 1000 * MINUTE_MS)

    def click(self) -> None:
        self._broker_topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=next(self._start_ms)))

    @property
    def settings(self) -> dict[str, str]:
        recipe = QUICK.model_dump(mode="json", exclude_unset=True)
        return {
            "KAFKA__BOOTSTRAP_SERVERS": self._broker_topics.bootstrap,
            "PARTITIONS": str(self.plan.partitions),
            "TOPICS__CLICKS": self.plan.clicks,
            "TOPICS__RECOMMENDATIONS": self.plan.recommendations,
            "TOPICS__DEAD_LETTERS": self.plan.dead_letters,
            "TOPICS__MODELS": self.plan.models,
            "WORKER__APP_ID": self.plan.app,
            "HTTP__TRAINER_PORT": "0",
            "REGISTRY": str(self._folder / "registry"),
        } | {f"TRAINER__{name.upper()}": json.dumps(value) for name, value in recipe.items()}

    def trainer(self, name: str, *options: str) -> Running:
        return self._started.enter_context(running(self._folder / name, "trainer", *options, **self.settings))

    def said(self) -> list[Announcement]:
        """Return what was announced to serve, first to last."""
        records = read_records(self._broker_topics.bootstrap, self.plan.models, 1000, deadline_s=2.0)
        return [Announcement.decode(record.value()) for record in records if record.key() == SERVING_KEY]


@pytest.fixture
def site(real_kafka: LocalKafka, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as started:
        yield Site(real_kafka, tmp_path, started)


def says(trainer: Running, event: str, times: int = 1) -> Callable[[], bool]:
    return lambda: trainer.stderr.count(event) >= times


def test_one_trains_and_the_other_takes_over_when_it_hangs_or_ends(site: Site) -> None:
    site.click()
    one, other = site.trainer("one"), site.trainer("other")
    one.wait_until(lambda: says(one, "standing by")() or says(other, "standing by")(), "one stands by")
    at_work, standby = (other, one) if says(one, "standing by")() else (one, other)
    at_work.wait_until(says(at_work, "round published"), "the first version")
    assert not says(standby, "round started")()

    at_work.process.send_signal(signal.SIGSTOP)
    site.click()
    standby.wait_until(says(standby, "round published"), "it takes over from one that hangs")
    at_work.process.send_signal(signal.SIGCONT)
    at_work.wait_until(says(at_work, "lease lost"), "the one that hung knows")
    assert nextclick("models", "rollback", **site.settings).exit_code == 0
    site.click()
    standby.wait_until(
        says(standby, "round published", 2), "the one that took over goes on from what an operator chose"
    )

    assert standby.end(signal.SIGTERM) == 0
    site.click()
    at_work.wait_until(says(at_work, "round published", 2), "it takes over again")
    assert at_work.end(signal.SIGTERM) == 0

    said = site.said()
    assert [announcement.action for announcement in said] == ["promote", "promote", "rollback", "promote", "promote"]
    for replaced, announcement in itertools.pairwise(said):
        if announcement.action == "promote":
            assert site.registry.manifest(announcement.version).parent == replaced.version


def test_once_beside_a_trainer_at_work_fails_and_says_so(site: Site) -> None:
    site.click()
    at_work = site.trainer("one")
    at_work.wait_until(says(at_work, "lease taken"), "it is at work")
    once = site.trainer("once", "--once")
    assert once.end() == 1
    assert f"another trainer is at work (consumer group {site.plan.models}-trainers)" in once.stderr
    assert "Traceback" not in once.stderr
