"""What a subscriber sees: reads clicks and answers from the topics and measures them, as nobody inside could.

Recall is honest: an answer is scored by its session's next click, beside streaming popularity on the same clicks.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from model.baselines.popularity import Popularity
from model.clicks import continues_session
from stream.records import Recommendation, decode_recommendation
from stream.settings import Topics

K = 20
RECENT_CASES = 2_000
RECENT_S = 5.0
AROUND_SWAP_S = 1.0
POLL_S = 0.05
POLL_RECORDS = 2_000
# Streaming popularity is ranked again after so many clicks; its first 20 hardly move in between.
RANK_EVERY_CLICKS = 200


@dataclass
class VersionScore:
    """How one version's answers met the next clicks, and how popularity would have."""

    version: str
    first_answer_s: float
    answers: int = 0
    cases: int = 0
    hits: int = 0
    popularity_hits: int = 0

    @property
    def recall(self) -> float:
        """Recall@20 of the version; 0 before the first case."""
        return self.hits / max(self.cases, 1)

    @property
    def popularity_recall(self) -> float:
        """Recall@20 of streaming popularity on the same clicks."""
        return self.popularity_hits / max(self.cases, 1)


@dataclass(frozen=True)
class View:
    """What has been seen so far.

    Attributes:
        answers: Distinct answered clicks.
        copies: Answers beyond the first to the same click.
        dead_letters: Records refused as clicks.
        answers_per_s: Over the last seconds.
        latency_ms: p50 and p99 over the last seconds, from the click's append to the answer's arrival here.
        latency_all_ms: The same over everything.
        recent_recall: Recall@20 over the newest cases.
        recent_popularity_recall: Popularity's, on the same.
        versions: Every version that answered, in order of its first answer.
        longest_gap_ms: Longest time between two arrivals of answers.
        swap_gap_ms: The same, within a second of a version's first answer.
        sample: The newest answer to a session of several clicks, with the items that it clicked.
    """

    answers: int
    copies: int
    dead_letters: int
    answers_per_s: float
    latency_ms: tuple[float, float]
    latency_all_ms: tuple[float, float]
    recent_recall: float
    recent_popularity_recall: float
    versions: list[VersionScore]
    longest_gap_ms: float
    swap_gap_ms: float
    sample: tuple[list[str], Recommendation] | None


@dataclass
class _SessionSeen:
    answer: Recommendation
    items: list[str]
    event_ms: int


@dataclass
class Scoreboard:
    """Everything that follows from the records, without Kafka; one thread feeds it.

    Args:
        idle_ms: Event time after which a session ends.
    """

    idle_ms: int
    popularity: Popularity = field(default_factory=Popularity)
    versions: dict[str, VersionScore] = field(default_factory=dict)
    copies: int = 0
    sample: tuple[list[str], Recommendation] | None = None
    _popular: frozenset[str] = frozenset()
    _answered: set[tuple[int, int]] = field(default_factory=set)
    _appended_ms: dict[tuple[int, int], int] = field(default_factory=dict)
    _arrived_ms: dict[tuple[int, int], float] = field(default_factory=dict)
    _sessions: dict[str, _SessionSeen] = field(default_factory=dict)
    _recent: deque[tuple[bool, bool]] = field(default_factory=lambda: deque(maxlen=RECENT_CASES))
    arrivals_s: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def click_appended(self, partition: int, offset: int, appended_ms: int) -> None:
        """Note when the broker got a click."""
        place = (partition, offset)
        arrived_ms = self._arrived_ms.pop(place, None)
        if arrived_ms is None:
            self._appended_ms[place] = appended_ms
        else:
            self.latencies_ms.append(arrived_ms - appended_ms)

    def answer_arrived(self, answer: Recommendation, now_s: float) -> None:
        """Score the session's previous answer by the click that this one answers, and remember this one."""
        place = (answer.click.partition, answer.click.offset)
        if place in self._answered:
            self.copies += 1
            return
        self._answered.add(place)
        self.arrivals_s.append(now_s)
        appended_ms = self._appended_ms.pop(place, None)
        if appended_ms is None:
            self._arrived_ms[place] = now_s * 1000
        else:
            self.latencies_ms.append(now_s * 1000 - appended_ms)
        score = self.versions.setdefault(answer.model_version, VersionScore(answer.model_version, now_s))
        score.answers += 1
        self._score(answer)
        self.popularity.add(answer.click.item_id)
        if len(self._answered) % RANK_EVERY_CLICKS == 0:
            self._popular = frozenset(self.popularity.top_k(K)[0])

    def _score(self, answer: Recommendation) -> None:
        session = self._sessions.get(answer.session_id)
        clicked, event_ms = answer.click.item_id, answer.click.timestamp
        if session is None or not continues_session(session.event_ms, event_ms, self.idle_ms):
            self._sessions[answer.session_id] = _SessionSeen(answer, [clicked], event_ms)
            return
        hit, popular_hit = clicked in session.answer.items[:K], clicked in self._popular
        score = self.versions[session.answer.model_version]
        score.cases += 1
        score.hits += hit
        score.popularity_hits += popular_hit
        self._recent.append((hit, popular_hit))
        session.answer = answer
        session.event_ms = max(session.event_ms, event_ms)
        session.items.append(clicked)
        self.sample = (session.items[-4:], answer)

    @property
    def answers(self) -> int:
        """Distinct answered clicks."""
        return len(self._answered)

    def view(self, now_s: float, dead_letters: int) -> View:
        """Summarise."""
        since = np.searchsorted(self.arrivals_s, now_s - RECENT_S)
        swapped = list(self.versions.values())[1:]
        recent = len(self.arrivals_s) - int(since)
        return View(
            answers=self.answers,
            copies=self.copies,
            dead_letters=dead_letters,
            answers_per_s=recent / RECENT_S,
            latency_ms=_percentiles(np.array(self.latencies_ms[len(self.latencies_ms) - recent :])),
            latency_all_ms=_percentiles(np.array(self.latencies_ms)),
            recent_recall=float(np.mean([hit for hit, _ in self._recent])) if self._recent else 0.0,
            recent_popularity_recall=float(np.mean([hit for _, hit in self._recent])) if self._recent else 0.0,
            versions=list(self.versions.values()),
            longest_gap_ms=_longest_gap_ms(np.array(self.arrivals_s)),
            swap_gap_ms=max((self._gap_around_ms(score.first_answer_s) for score in swapped), default=0.0),
            sample=self.sample,
        )

    def _gap_around_ms(self, moment_s: float) -> float:
        start, stop = np.searchsorted(self.arrivals_s, (moment_s - AROUND_SWAP_S, moment_s + AROUND_SWAP_S))
        return _longest_gap_ms(np.array(self.arrivals_s[start:stop]))


def _longest_gap_ms(arrivals_s: NDArray[np.float64]) -> float:
    return 1000 * float(np.diff(arrivals_s).max()) if len(arrivals_s) > 1 else 0.0


def _percentiles(latencies_ms: NDArray[np.float64]) -> tuple[float, float]:
    if not len(latencies_ms):
        return 0.0, 0.0
    p50, p99 = np.percentile(latencies_ms, (50, 99))
    return float(p50), float(p99)


class Observer:
    """Reads clicks, answers and dead letters in a thread of its own, from their ends at the start.

    Args:
        options: Connection for librdkafka.
        topics: Names of the topics.
        idle_ms: Event time after which a session ends.
    """

    def __init__(self, options: Mapping[str, Any], topics: Topics, idle_ms: int) -> None:
        self._options = {
            **options,
            "group.id": "nextclick-observer",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 10,
            "log_level": 0,
        }
        self._topics = topics
        self._scoreboard = Scoreboard(idle_ms)
        self._dead_letters = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)

    def start(self) -> None:
        """Begin; returns when nothing that is produced from now on can be missed."""
        self._thread.start()
        self._ready.wait()
        self.check()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what ended the reading, if something did."""
        if self._error:
            raise self._error

    def view(self) -> View:
        """Return what has been seen so far."""
        self.check()
        with self._lock:
            return self._scoreboard.view(time.time(), self._dead_letters)

    def _run(self) -> None:
        consumer = Consumer(self._options)
        try:
            consumer.assign(self._ends(consumer))
            self._ready.set()
            while not self._ended.is_set():
                # `consume` alone would wait for its whole number of records or its whole timeout.
                first = consumer.poll(POLL_S)
                if first is None:
                    continue
                messages = [first, *consumer.consume(POLL_RECORDS, 0)]
                now_s = time.time()
                with self._lock:
                    for message in messages:
                        self._hear(message, now_s)
        except Exception as error:  # noqa: BLE001 - a thread has no caller: `check` raises it there
            self._error = error
        finally:
            self._ready.set()
            consumer.close()

    def _ends(self, consumer: Consumer) -> list[TopicPartition]:
        """Return every partition with the offset of the next record that will be written to it."""
        known = consumer.list_topics(timeout=10).topics
        partitions = [
            TopicPartition(topic, partition)
            for topic in (self._topics.clicks, self._topics.recommendations, self._topics.dead_letters)
            for partition in known[topic].partitions
        ]
        for partition in partitions:
            partition.offset = consumer.get_watermark_offsets(partition, timeout=10)[1]
        return partitions

    def _hear(self, message: Message, now_s: float) -> None:
        error = message.error()
        if error:
            raise KafkaException(error)
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert partition is not None  # a message without an error has a place
        assert offset is not None
        if topic == self._topics.clicks:
            self._scoreboard.click_appended(partition, offset, message.timestamp()[1])
        elif topic == self._topics.recommendations:
            self._scoreboard.answer_arrived(decode_recommendation(message.value() or b""), now_s)
        else:
            self._dead_letters += 1
