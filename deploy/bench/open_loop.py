"""Latency as users feel it: clicks are due on a fixed schedule, and the clock of each starts when it is due.

A click that is sent late, because the sender or the broker was held up, is charged for the delay (no coordinated
omission), and one without an answer for all the time until nobody waits any more. The sender is a process of its own.
Every latency is kept, so percentiles are exact and need no histogram.
"""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Self

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from numpy.typing import NDArray

from deploy.errors import BrokerError
from model.clicks import ClickTable, encode_click

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
LEAD_S = 0.5
# The first clicks meet connections that are being made, and code that runs for the first time.
WARM_UP_S = 1.0
DRAIN_S = 10.0
_IN_FLIGHT = 2
_POLL_S = 0.1
_POLL_RECORDS = 10_000
_SHORTEST_PAUSE_S = 0.0002
_TIMEOUT_S = 10.0
_START_DEADLINE_S = 60.0

# A record's key and value.
Message = tuple[bytes, bytes]


@dataclass(frozen=True)
class Sent:
    """What the sender says of itself.

    Attributes:
        cpu_s: Processor time that it used while sending.
        lateness_s: How much later than due each click was handed to the client library, float64 [n].
    """

    cpu_s: float
    lateness_s: NDArray[np.float64]


@dataclass(frozen=True)
class OpenLoop:
    """What one run at a fixed rate found; n clicks, those of the warm-up included.

    Attributes:
        rate: Clicks due a second.
        due_s: When each click was due, on the machine's monotonic clock, float64 [n], rising.
        arrived_s: When its answer could be read, float64 [n]; NaN where none came.
        ended_s: When nobody waited any more.
        sent: What the sender says of itself.
    """

    rate: float
    due_s: NDArray[np.float64]
    arrived_s: NDArray[np.float64]
    ended_s: float
    sent: Sent

    def latencies_ms(self) -> NDArray[np.float64]:
        """Return the time from due to readable of each click after the warm-up, float64."""
        latencies = 1000 * (np.where(np.isnan(self.arrived_s), self.ended_s, self.arrived_s) - self.due_s)
        return self._warm(latencies)

    def to_dict(self) -> dict[str, float]:
        """Return `latency_ms_p50` and so on with `latency_ms_max`, and what shows whether the rate was held.

        `answers_per_s` is what came while clicks were due; below the rate the worker has fallen behind. `unanswered`
        are clicks without an answer at the end. `sender_late_ms_p99` above a millisecond or two says that the sender,
        and so most likely everyone else, waited for a processor that others had.
        """
        due_s, latencies_ms = self._warm(self.due_s), self.latencies_ms()
        # A comparison with NaN is false: what never came did not come in time.
        in_time = np.count_nonzero(self._warm(self.arrived_s) <= due_s[-1])
        found = {
            **{f"latency_ms_p{percent:g}": _percentile(latencies_ms, percent) for percent in PERCENTILES},
            "latency_ms_max": latencies_ms.max(),
            "answers_per_s": in_time / (len(due_s) / self.rate),
            "unanswered": np.isnan(self.arrived_s).sum(),
            "sender_late_ms_p99": _percentile(1000 * self._warm(self.sent.lateness_s), 99.0),
            "sender_core_share": self.sent.cpu_s / (len(self.due_s) / self.rate),
        }
        return {name: float(value) for name, value in found.items()}

    def longest_gap_ms(self) -> float:
        """Return the longest time between two answers after the warm-up."""
        arrived_s = self._warm(self.arrived_s)
        return 1000 * float(np.diff(np.sort(arrived_s[~np.isnan(arrived_s)])).max(initial=0.0))

    def _warm(self, of_clicks: NDArray[np.float64]) -> NDArray[np.float64]:
        return of_clicks[min(int(WARM_UP_S * self.rate), len(of_clicks) // 2) :]


def _percentile(values: NDArray[np.float64], percent: float) -> float:
    """Return a value that occurred, and that at most 100 - `percent` % of them exceed."""
    return float(np.percentile(values, percent, method="higher"))


def measure(table: ClickTable, rate: float, options: Mapping[str, str], clicks: str, answers: str) -> OpenLoop:
    """Send clicks at a fixed rate and wait for their answers.

    Args:
        table: What to send. Its event times are replaced by numbers that rise by a millisecond a click from its
            first, which is how an answer says which click it is to.
        rate: Clicks a second.
        options: Connection for librdkafka.
        clicks: Topic of the clicks.
        answers: Topic of the recommendations.

    Raises:
        BrokerError: The sender did not get to work.
    """
    first_ms = int(table.timestamp_ms[0])
    numbered = replace(table, timestamp_ms=first_ms + np.arange(len(table)))
    messages = [(click.session_id.encode(), encode_click(click)) for click in numbered.clicks()]
    with (
        Subscriber(options, answers, first_ms, len(table)) as subscriber,
        Sender(messages, rate, options, clicks) as pipe,
    ):
        if not pipe.poll(_START_DEADLINE_S):
            raise BrokerError(f"the sender of clicks did not get to work within {_START_DEADLINE_S:g} s")
        start_s: float = pipe.recv()
        due_s = start_s + np.arange(len(table)) / rate
        subscriber.read_until(due_s[-1] + DRAIN_S)
        ended_s = time.monotonic()
        if not pipe.poll(_TIMEOUT_S):
            raise BrokerError(f"the broker did not take {rate:g} clicks/s; ask for a lower rate")
        sent: Sent = pipe.recv()
    return OpenLoop(rate, due_s, subscriber.arrived_s, ended_s, sent)


class Subscriber:
    """Reads answers as they come and notes when.

    Args:
        options: Connection for librdkafka.
        topic: Of the recommendations.
        first_ms: Event time of the first click that is waited for.
        clicks: How many are waited for; their event times are a millisecond apart.
    """

    def __init__(self, options: Mapping[str, str], topic: str, first_ms: int, clicks: int) -> None:
        self._consumer = Consumer({**options, "group.id": "bench-subscriber", "enable.auto.commit": False})
        self._topic = topic
        self._first_ms = first_ms
        self._missing = clicks
        self.arrived_s = np.full(clicks, np.nan)

    def __enter__(self) -> Self:
        partitions = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic].partitions
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)[1]
        self._consumer.assign(places)
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read_until(self, deadline_s: float) -> None:
        """Read until every click is answered, or until this moment on the monotonic clock."""
        while self._missing and time.monotonic() < deadline_s:
            # `consume` alone would wait for its whole number of records or its whole timeout.
            first = self._consumer.poll(_POLL_S)
            if first is None:
                continue
            now_s = time.monotonic()
            for message in (first, *self._consumer.consume(_POLL_RECORDS, 0)):
                if error := message.error():
                    raise KafkaException(error)
                self._hear(message.value() or b"", now_s)

    def _hear(self, value: bytes, now_s: float) -> None:
        place = _ANSWERED.decode(value).click.timestamp - self._first_ms
        if 0 <= place < len(self.arrived_s) and np.isnan(self.arrived_s[place]):
            self.arrived_s[place] = now_s
            self._missing -= 1


class _Click(msgspec.Struct, gc=False):
    timestamp: int


class _Answer(msgspec.Struct, gc=False):
    click: _Click


_ANSWERED = msgspec.json.Decoder(_Answer)


class Sender:
    """The sending process; its pipe gives the moment at which the first click is due, then a `Sent`.

    Args:
        messages: What to send.
        rate: Messages a second.
        options: Connection for librdkafka.
        topic: Where to.
    """

    def __init__(self, messages: Sequence[Message], rate: float, options: Mapping[str, str], topic: str) -> None:
        fresh = multiprocessing.get_context("spawn")
        self._pipe, told = fresh.Pipe(duplex=False)
        self._process = fresh.Process(target=_send, args=(messages, rate, dict(options), topic, told), daemon=True)

    def __enter__(self) -> Connection:
        self._process.start()
        return self._pipe

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def _send(messages: Sequence[Message], rate: float, options: dict[str, Any], topic: str, told: Connection) -> None:
    """Send each message when it is due, at once and not in batches that wait for more."""
    producer = Producer(
        {
            **options,
            # Java's and aiokafka's partitioner; librdkafka's own would send a session elsewhere.
            "partitioner": "murmur2_random",
            # Nothing waits for company, and with few requests on the way clicks pile up only while the broker is busy.
            "linger.ms": 0,
            "max.in.flight.requests.per.connection": _IN_FLIGHT,
            "acks": "all",
            "queue.buffering.max.messages": len(messages) + 1,
        }
    )
    # Connects, so that the first clicks do not pay for it.
    producer.list_topics(topic, timeout=_TIMEOUT_S)
    start_s = time.monotonic() + LEAD_S
    told.send(start_s)
    due_s = start_s + np.arange(len(messages)) / rate
    sent_s = np.empty(len(messages))
    began_s, sent = time.process_time(), 0
    while sent < len(messages):
        wait_s = due_s[sent] - time.monotonic()
        if wait_s > 0:
            time.sleep(max(wait_s, _SHORTEST_PAUSE_S))
            continue
        key, value = messages[sent]
        producer.produce(topic, value, key)
        sent_s[sent] = time.monotonic()
        sent += 1
        producer.poll(0)
    producer.flush()
    told.send(Sent(time.process_time() - began_s, sent_s - due_s))
    # Until it is terminated: tearing an interpreter down takes a processor from the last answers.
    time.sleep(2 * DRAIN_S)
