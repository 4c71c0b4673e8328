"""A worker as a process of its own on an embedded broker, and everything that comes out of it."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rocksdict
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, Producer, TopicPartition

from deploy.embedded_kafka import EmbeddedKafka
from model.registry import Registry
from stream.app import changelog_topic
from stream.records import Recommendation, decode_recommendation
from stream.settings import Topics, WorkerSettings

REPOSITORY = Path(__file__).resolve().parents[2]
PARTITIONS = 2
DEADLINE_S = 60.0
TOPICS = Topics()
CHANGELOG = changelog_topic(WorkerSettings().app_id)
EVERY_TOPIC = dict.fromkeys((TOPICS.clicks, TOPICS.recommendations, TOPICS.dead_letters, CHANGELOG), PARTITIONS)
# Faust's group on an embedded broker: short, so that a worker that left is not waited for.
QUICK = {"session_timeout_s": 6.0, "commit_interval_s": 0.2}


@dataclass
class Output:
    """Everything that a topic's consumers have seen, in order; grows while `Site.read` runs."""

    answers: list[tuple[Message, Recommendation]] = field(default_factory=list)
    dead_letters: list[Message] = field(default_factory=list)
    changes: list[Message] = field(default_factory=list)

    @property
    def answered(self) -> list[tuple[int, int]]:
        """(partition, offset) of each answer and each dead letter."""
        places = [(answer.click.partition, answer.click.offset) for _, answer in self.answers]
        return places + [self.place(letter) for letter in self.dead_letters]

    @staticmethod
    def place(letter: Message) -> tuple[int, int]:
        """Return the (partition, offset) that a dead letter names."""
        headers = dict(letter.headers() or [])
        return int(headers["nextclick.error.partition"]), int(headers["nextclick.error.offset"])

    def states(self) -> dict[tuple[int, bytes], bytes | None]:
        """Return what the changelog says of each session at last; None after a tombstone."""
        return {(change.partition(), change.key()): change.value() for change in self.changes}


class Site:
    """A broker with every topic, a registry and a data directory; workers come and go."""

    def __init__(self, broker: EmbeddedKafka, folder: Path) -> None:
        for topic, partitions in {**EVERY_TOPIC, TOPICS.models: 1}.items():
            broker.create_topic(topic, partitions)
        self.broker = broker
        self.registry = Registry(str(folder / "registry"))
        self.folder = folder
        self.data_dir = folder / "worker"
        self.output = Output()
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        self._reader = self._consumer("reader")
        topics = (TOPICS.recommendations, TOPICS.dead_letters, CHANGELOG)
        self._reader.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for topic in topics for p in range(PARTITIONS)])

    def _consumer(self, group: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )

    def close(self) -> None:
        self._reader.close()

    def produce(self, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        """Produce one record of the clicks topic; where its key says, unless told otherwise."""
        if partition is None:
            partition = DefaultPartitioner()(key, list(range(PARTITIONS)), list(range(PARTITIONS)))
        self._producer.produce(TOPICS.clicks, value, key, partition)

    def flush(self) -> None:
        """Wait until the broker has everything produced."""
        assert self._producer.flush(DEADLINE_S) == 0

    @contextmanager
    def worker(self, *, stop_margin_s: float = 30.0, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """Start a worker process on the data directory; kill it at the end if it still runs."""
        options = {
            "bootstrap": self.broker.bootstrap,
            "registry": str(self.folder / "registry"),
            "partitions": PARTITIONS,
            "log": str(self.folder / "worker.log"),
            "metrics": str(self.folder / "metrics.txt"),
            "stop_margin_s": stop_margin_s,
            "settings": {"data_dir": str(self.data_dir), **QUICK, **settings},
        }
        command = [sys.executable, "-m", "tests.stream.worker_process", json.dumps(options)]
        with (self.folder / "worker.err").open("ab") as errors:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=errors, stderr=errors)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def read_until(
        self, condition: Callable[[], bool], what: str, process: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        """Read what comes out until `condition` holds.

        Raises:
            AssertionError: It does not hold at the deadline, or `process` ended before.
        """
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}\n{self.errors()}"
            assert process is None or process.poll() is None, f"the worker ended before: {what}\n{self.errors()}"
            self._read(0.05)

    def read_rest(self) -> None:
        """Read what the broker has by now."""
        self._reader.list_topics(timeout=DEADLINE_S)  # after the broker was away, who leads has to be asked again
        while any(self._reader.get_watermark_offsets(tp)[1] > max(tp.offset, 0) for tp in self._positions()):
            self._read(0.05)

    def _positions(self) -> list[TopicPartition]:
        found: list[TopicPartition] = self._reader.position(self._reader.assignment())
        return found

    def _read(self, timeout_s: float) -> None:
        for message in self._reader.consume(1_000, timeout_s):
            assert message.error() is None, message.error()
            if message.topic() == TOPICS.recommendations:
                self.output.answers.append((message, decode_recommendation(message.value())))
            elif message.topic() == TOPICS.dead_letters:
                self.output.dead_letters.append(message)
            else:
                self.output.changes.append(message)

    def clicks(self) -> list[Message]:
        """Return every record of the clicks topic."""
        consumer = self._consumer("another reader")
        consumer.assign([TopicPartition(TOPICS.clicks, p, OFFSET_BEGINNING) for p in range(PARTITIONS)])
        wanted = sum(consumer.get_watermark_offsets(TopicPartition(TOPICS.clicks, p))[1] for p in range(PARTITIONS))
        found: list[Message] = []
        while len(found) < wanted:
            found += consumer.consume(wanted - len(found), DEADLINE_S)
        consumer.close()
        return found

    def committed(self) -> dict[int, int]:
        """Return the committed offset of each partition of the clicks topic; -1001 where there is none."""
        consumer = self._consumer(WorkerSettings().app_id)
        found = consumer.committed([TopicPartition(TOPICS.clicks, p) for p in range(PARTITIONS)], DEADLINE_S)
        consumer.close()
        return {tp.partition: tp.offset for tp in found}

    def stored(self) -> dict[tuple[int, bytes], bytes]:
        """Return every session record in the data directory; no worker may have it open."""
        found: dict[tuple[int, bytes], bytes] = {}
        for partition in range(PARTITIONS):
            (path,) = self.data_dir.glob(f"**/tables/sessions-{partition}.db")
            db = rocksdict.Rdict(str(path), rocksdict.Options(raw_mode=True))
            found |= {(partition, key): record for key, record in db.items() if not key.startswith(b"__faust")}
            db.close()
        return found

    def errors(self) -> str:
        """Return the end of what the worker wrote to its standard streams."""
        return (self.folder / "worker.err").read_text()[-3_000:]


def stop(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Ask a worker to end; return its exit status and how many seconds it took."""
    started_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    return process.wait(DEADLINE_S), time.monotonic() - started_s


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Start a broker with every topic and nothing in them."""
    with EmbeddedKafka({}) as broker:
        made = Site(broker, folder)
        try:
            yield made
        finally:
            made.close()
