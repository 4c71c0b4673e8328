"""Produce a table of clicks to the clicks topic: flat out, at a rate, or at a multiple of real time."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from numpy.typing import NDArray

from deploy.errors import ReplayError
from model.clicks import ClickTable, encode_click

_CHUNK_CLICKS: Final = 1_000
_SHORTEST_PAUSE_S: Final = 0.001
_LONGEST_PAUSE_S: Final = 0.1
_PROGRESS_S: Final = 0.1
_ANSWER_DEADLINE_S: Final = 15.0
_STOP_FLUSH_S: Final = 5.0
_PRODUCER_OPTIONS: Final[dict[str, Any]] = {
    # Java's and aiokafka's partitioner; librdkafka's own would send a session elsewhere.
    "partitioner": "murmur2_random",
    "enable.idempotence": True,
    "acks": "all",
    "delivery.timeout.ms": 30_000,
    # With both full, 64 MiB: the memory that a replay takes beside its table.
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 64 * 1024,
    "delivery.report.only.error": True,
    "log_level": 0,
}


@dataclass(frozen=True)
class Pace:
    """How fast clicks are produced; neither given means as fast as the broker takes them.

    Attributes:
        rate: Clicks per second.
        speed: Multiple of the clicks' own time: 1 is real time, 60 a minute in a second.
    """

    rate: float | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.speed is not None:
            raise ValueError("give rate or speed, not both")
        for name, value in (("rate", self.rate), ("speed", self.speed)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be above 0, got {value}")

    def due_s(self, timestamp_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Tell when each click is due, in seconds after the start; never before the click ahead of it.

        Args:
            timestamp_ms: int64 [n], event times in arrival order.

        Returns:
            float64 [n], not falling.
        """
        if self.rate is not None:
            return np.arange(len(timestamp_ms), dtype=np.float64) / self.rate
        if self.speed is None or len(timestamp_ms) == 0:
            return np.zeros(len(timestamp_ms), dtype=np.float64)
        latest_ms: NDArray[np.int64] = np.maximum.accumulate(timestamp_ms)
        due_s: NDArray[np.float64] = (latest_ms - latest_ms[0]) / (1000.0 * self.speed)
        return due_s


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did: clicks the broker has, whether all of the table, and the time from first to last."""

    delivered: int
    is_complete: bool
    seconds: float


def replay(
    table: ClickTable,
    options: Mapping[str, Any],
    *,
    topic: str = "clicks",
    pace: Pace | None = None,
    record_time: Literal["now", "click"] = "now",
    on_progress: Callable[[int], None] | None = None,
    stop: threading.Event | None = None,
    deadline_s: float = _ANSWER_DEADLINE_S,
) -> ReplayReport:
    """Produce every click in table order, and return when the broker has them all.

    The clicks of a session keep their order: one partition each, by an idempotent producer with acks=all.
    Event times stay as they are in the table.

    Args:
        table: What to produce.
        options: For librdkafka: `bootstrap.servers`, SASL and TLS; they win over our own.
        topic: Where to.
        pace: How fast; flat out when not given.
        record_time: The Kafka record's own time: when it is produced, or the click's (a broker deletes by it:
            clicks older than the topic's retention will not stay).
        on_progress: Called with the clicks produced so far, about ten times a second and at the end.
        stop: Set it to end early; what was produced until then is still delivered.
        deadline_s: How long to wait for the broker's first answer.

    Raises:
        ReplayError: The topic does not exist, the broker does not answer, or some clicks were not delivered.
    """
    run = _Replay(options, topic, keeps_time=record_time == "click", deadline_s=deadline_s)
    started = time.monotonic()
    produced = run.produce(table, pace or Pace(), on_progress or _ignore, stop or threading.Event())
    delivered = run.finish(produced, is_stopped=produced < len(table))
    return ReplayReport(delivered, delivered == len(table), time.monotonic() - started)


class _Replay:
    """One producer, and the count of what it could not deliver."""

    def __init__(self, options: Mapping[str, Any], topic: str, *, keeps_time: bool, deadline_s: float) -> None:
        self._errors: Counter[str] = Counter()
        self._topic = topic
        self._keeps_time = keeps_time
        self._producer = Producer({**_PRODUCER_OPTIONS, **options, "on_delivery": self._count_error})
        try:
            known = self._producer.list_topics(timeout=deadline_s).topics
        except KafkaException as error:
            raise ReplayError(
                f"no answer from Kafka at {options.get('bootstrap.servers')} within {deadline_s:g} s "
                f"({error.args[0].str()}): is it running, and are address and credentials right?"
            ) from error
        if topic not in known:
            raise ReplayError(f"topic {topic} does not exist: create it first (nextclick topics create)")

    def produce(self, table: ClickTable, pace: Pace, on_progress: Callable[[int], None], stop: threading.Event) -> int:
        """Hand clicks over as they become due and return how many it was; the first failed delivery ends it."""
        due_s = pace.due_s(table.timestamp_ms)
        # The clock starts when the first click has arrived: getting a producer id may take half a second, in which
        # clicks would queue here and look like latency of whoever answers them.
        produced = self._produce_chunk(table.select(np.arange(min(1, len(table)))), stop)
        self._producer.flush()
        if self._errors:
            return produced
        started = reported = time.monotonic()
        while produced < len(table) and not stop.is_set() and not self._errors:
            elapsed_s = time.monotonic() - started
            due = int(np.searchsorted(due_s, elapsed_s, side="right"))
            if due == produced:
                self._producer.poll(0)
                stop.wait(min(max(due_s[produced] - elapsed_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
                continue
            chunk = table.select(np.arange(produced, min(due, produced + _CHUNK_CLICKS)))
            produced += self._produce_chunk(chunk, stop)
            if time.monotonic() - reported >= _PROGRESS_S:
                reported = time.monotonic()
                on_progress(produced)
        on_progress(produced)
        return produced

    def finish(self, produced: int, *, is_stopped: bool) -> int:
        """Wait for every delivery and return how many succeeded.

        Raises:
            ReplayError: One or more did not.
        """
        if is_stopped:
            self._producer.flush(_STOP_FLUSH_S)
            self._producer.purge()
        self._producer.flush()
        if failed := self._errors.total():
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self._errors.most_common())
            raise ReplayError(f"{failed} of {produced} clicks did not reach topic {self._topic}: {reasons}")
        return produced

    def _produce_chunk(self, chunk: ClickTable, stop: threading.Event) -> int:
        """Hand over a chunk, waiting while the producer's queue is full; stops early only when told to."""
        produced = 0
        for click in chunk.clicks():
            value = encode_click(click)
            timestamp_ms = click.timestamp_ms if self._keeps_time else 0
            while not self._enqueue(click.session_id, value, timestamp_ms):
                if stop.is_set():
                    return produced
                self._producer.poll(_LONGEST_PAUSE_S)
            produced += 1
        self._producer.poll(0)
        return produced

    def _enqueue(self, key: str, value: bytes, timestamp_ms: int) -> bool:
        """Whether the producer took the click; its queue is full when not."""
        try:
            self._producer.produce(self._topic, value, key, timestamp=timestamp_ms)
        except BufferError:
            return False
        except KafkaException as error:
            raise ReplayError(f"the producer gave up: {error.args[0].str()}") from error
        return True

    def _count_error(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._errors[error.str()] += 1


def _ignore(_produced: int) -> None:
    """Report progress to nobody."""
