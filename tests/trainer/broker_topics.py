"""Topics on a broker, and clicks in them, for the tests of what the trainer reads and writes."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from deploy.embedded_kafka import EmbeddedKafka
from deploy.local_kafka import LocalKafka
from deploy.replay import replay
from model.clicks import Click
from tests.trainer.click_builders import table_of

DEADLINE_S = 30.0
PARTITIONS = 3
_numbers = itertools.count()


@dataclass(frozen=True)
class BrokerTopics:
    """A broker, and the names of a clicks and a models topic of the test's own."""

    bootstrap: str
    clicks: str
    models: str

    @property
    def aiokafka(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.bootstrap}

    def produce_clicks(self, clicks: Sequence[Click]) -> None:
        replay(table_of(clicks), {"bootstrap.servers": self.bootstrap}, topic=self.clicks)

    def produce(self, topic: str, *records: tuple[bytes | None, bytes | None], partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for key, value in records:
            producer.produce(topic, value, key, partition=partition)
        assert producer.flush(DEADLINE_S) == 0


def make_topics(broker: EmbeddedKafka | LocalKafka) -> BrokerTopics:
    number = next(_numbers)
    topics = BrokerTopics(broker.bootstrap, f"clicks-{number}", f"models-{number}")
    if isinstance(broker, EmbeddedKafka):
        broker.create_topic(topics.clicks, PARTITIONS)
        broker.create_topic(topics.models, 1)
    else:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})  # has to outlive its answers
        made = admin.create_topics(
            [
                NewTopic(topics.clicks, PARTITIONS, 1),
                NewTopic(topics.models, 1, 1, config={"cleanup.policy": "compact"}),
            ]
        )
        for creation in made.values():
            creation.result(DEADLINE_S)
    return topics


@contextmanager
def on_events(**reactions: Callable[[int], object]) -> Iterator[list[MutableMapping[str, Any]]]:
    """Call a reaction whenever its event is logged, with how often it was; underscores stand for spaces.

    Yields every event so far. This is how a test acts at the right moment without waiting for a length of time.
    """
    counts: dict[str, int] = {}

    def react(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = event["event"].replace(" ", "_")
        counts[name] = counts.get(name, 0) + 1
        if name in reactions:
            reactions[name](counts[name])
        return event

    with structlog.testing.capture_logs([react]) as events:
        yield events


def run_within_deadline(main: Any) -> Any:
    """Run a coroutine on a loop of its own; TimeoutError where it hangs."""

    async def limited() -> Any:
        return await asyncio.wait_for(main, DEADLINE_S)

    return asyncio.run(limited())
