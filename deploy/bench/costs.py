"""What answers cost: processor time and wall time of a process over the answers that arrive meanwhile."""

import re
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from deploy.children import Process

LOOK_S = 0.1
_SILENCE_S = 5.0
_TIMEOUT_S = 10.0
_SECONDS = re.compile(r"^nextclick_(\w+)_seconds(?:_sum)? (\S+)$", re.MULTILINE)
_BUCKET = re.compile(r'^nextclick_(\w+)_seconds_bucket\{le="(\S+)"\} (\S+)$', re.MULTILINE)
_STAGES = ("process", "forward", "store_read", "store_write")
_NOT_READY = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE)


@dataclass(frozen=True)
class Costs:
    """Of one window.

    Attributes:
        answers: Counted in the output topic.
        seconds: Length of the window.
        cpu_s: Processor time that the process used, user and system.
    """

    answers: int
    seconds: float
    cpu_s: float

    def to_dict(self) -> dict[str, float]:
        """Return the two rates."""
        return {
            "events_per_s": self.answers / self.seconds,
            "cpu_us_per_event": 1e6 * self.cpu_s / max(1, self.answers),
        }


class AnswerCounter:
    """Counts the records that a topic has received so far.

    Args:
        bootstrap: Address of the broker.
        topic: Which topic.
        partitions: Of it.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-counter"})
        self._places = [TopicPartition(topic, partition) for partition in range(partitions)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def __call__(self) -> int:
        """Return how many; a partition without a leader yet has none."""
        return sum(map(self._end, self._places))

    def _end(self, place: TopicPartition) -> int:
        try:
            return int(self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1])
        except KafkaException as error:
            if error.args[0].code() in _NOT_READY:
                return 0
            raise


def measured(process: Process, counted: Callable[[], int], is_over: Callable[[int, float], bool]) -> Costs:
    """Return what a process costs from now on, until it is over or nothing comes any more.

    Args:
        process: Running.
        counted: Returns how many answers there are; an `AnswerCounter`.
        is_over: Told the answers and the seconds since the start.

    Raises:
        ChildError: It ended.
    """
    first = last = (counted(), time.monotonic(), process.cpu_s())
    while not is_over(last[0], last[1] - first[1]):
        time.sleep(LOOK_S)
        process.check()
        look = (counted(), time.monotonic(), process.cpu_s())
        if look[0] == last[0] and look[1] - last[1] > _SILENCE_S:
            break
        if look[0] > last[0]:
            last = look
    return Costs(last[0] - first[0], last[1] - first[1], last[2] - first[2])


def seconds_told(ports: Sequence[int]) -> dict[str, float]:
    """Return what workers say in seconds, by metric (`forward`, `recovery`), summed over the workers.

    Args:
        ports: Of their metrics on loopback.
    """
    told: dict[str, float] = {}
    for port in ports:
        for name, seconds in _SECONDS.findall(_metrics(port)):
            told[name] = told.get(name, 0.0) + float(seconds)
    return told


def counts_told(port: int, metric: str) -> dict[float, float]:
    """Return a worker's histogram of seconds: how many were at most so long, by upper bound."""
    return {float(bound): float(count) for name, bound, count in _BUCKET.findall(_metrics(port)) if name == metric}


def longest_s(before: Mapping[float, float], after: Mapping[float, float]) -> float:
    """Return the upper bound of the longest that came to a histogram (`counts_told`); 0 where none did."""
    longest = below = 0.0
    for bound in sorted(after):
        more = after[bound] - before[bound]
        longest, below = (bound if more > below else longest), more
    return longest


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as answer:
        return str(answer.read().decode())


def stages_us(before: dict[str, float], after: dict[str, float], answers: int) -> dict[str, float]:
    """Return how long the workers' event loops were busy per answer with each stage, microseconds.

    `answers` is all of `process` but the network with its top k and the reading of states.
    """
    spent = {name: 1e6 * (after[name] - before[name]) / max(answers, 1) for name in _STAGES}
    spent["answers"] = spent.pop("process") - spent["forward"] - spent["store_read"]
    return spent
