"""The loop that answers the clicks, one micro-batch after the other.

The order of writes is the promise: store, changelog, answers, await every delivery; only then may the offsets be
committed. Whatever goes wrong is raised and ends the process; a supervisor starts it again and nothing is lost.
"""

import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaProducer

from model.errors import RecommenderError
from stream.deliveries import Deliveries
from stream.garbage import GarbageWatch
from stream.hot_swap import HotSwap
from stream.intake import Intake
from stream.metrics import BatchTimes, WorkerMetrics
from stream.micro_batch import SessionKey
from stream.new_items import NewItems
from stream.processor import Outcome, Processor
from stream.records import SourceRecord
from stream.session import Session
from stream.settings import Topics, WorkerSettings
from stream.state_table import StateTable
from stream.sweep import Sweep

IDLE_WAIT_S = 0.5
STALLED_S = 60.0  # without a step, beyond the longest wait for deliveries: something hangs
LAG_INTERVAL_S = 1.0
DEAD_LETTER_WINDOW = 1_000

log = structlog.get_logger()


class TooManyDeadLettersError(RecommenderError):
    """So many records are not clicks that something upstream must be wrong."""


class AnotherTopicError(RecommenderError):
    """The states are those of another topic than the one that is read."""


class Worker:
    """Everything that a micro-batch passes through.

    Args:
        settings: This worker's settings.
        topics: Names of the topics.
        changelog: Name of the sessions changelog.
        intake: Where fetched clicks wait.
        table: The session records.
        processor: What a click does to a state.
        hot_swap: The version that serves.
        new_producer: Makes the producer: idempotent, acks from all replicas.
        metrics: What is counted.
        end_offset: Returns the end offset of a partition as last heard from the broker, or None.
        is_recovering: Says whether states are being restored.
        now_ms: Wall clock, ms since the Unix epoch.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        topics: Topics,
        changelog: str,
        intake: Intake,
        table: StateTable,
        processor: Processor,
        hot_swap: HotSwap,
        new_producer: Callable[[], AIOKafkaProducer],
        metrics: WorkerMetrics,
        end_offset: Callable[[int], int | None],
        is_recovering: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._topics = topics
        self._changelog = changelog
        self._intake = intake
        self._table = table
        self._processor = processor
        self._hot_swap = hot_swap
        self._new_producer = new_producer
        self._metrics = metrics
        self._end_offset = end_offset
        self._is_recovering = is_recovering
        self._now_ms = now_ms
        self._new_items = NewItems()
        self._garbage = GarbageWatch(metrics.garbage_time)
        self._sweep = Sweep(table, intake, settings.idle_ms)
        self._next_sweep_s = time.monotonic() + settings.sweep_interval_s
        self._next_lag_s = time.monotonic()
        self._assigned_at_s: float | None = None
        self._recent_records = 0
        self._recent_dead_letters = 0
        self._store_read_s = 0.0
        self._is_running = False
        self._step_began_s: float | None = None

    async def start(self) -> None:
        """Connect the producer and load the version that serves."""
        self._producer = self._new_producer()
        await self._producer.start()
        self._deliveries = Deliveries(self._producer, self._settings.delivery_timeout_s)
        await self._hot_swap.start()
        self._garbage.start()
        self._is_running = True

    async def stop(self) -> None:
        """Wait for the batch in flight and disconnect."""
        self._is_running = False
        await self._intake.wait_until_idle()
        self._garbage.stop()
        await self._hot_swap.stop()
        await self._producer.stop()

    def assigned(self) -> None:
        """Take note of a new assignment; the intake already has it."""
        self._assigned_at_s = time.monotonic()
        self._metrics.assigned(len(self._intake.partitions))
        log.info("partitions assigned", partitions=self._intake.partitions)

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Return whether clicks are being answered, and what an operator wants to know besides."""
        recommender, recovering = self._hot_swap.recommender, self._is_recovering()
        detail: dict[str, object] = {
            "running": self._is_running,
            "recovering": recovering,
            "partitions": self._intake.partitions,
            "version": recommender.version if recommender else None,
            "refused": self._hot_swap.refused,
        }
        return self._is_running and bool(self._intake.partitions) and not recovering, detail

    def liveness(self) -> tuple[bool, dict[str, object]]:
        """Return whether micro-batches follow each other; so too before the first, as recovery may take its time."""
        if not self._is_running or self._step_began_s is None:
            return True, {}
        stepped_s = time.monotonic() - self._step_began_s
        is_live = stepped_s <= self._settings.delivery_timeout_s + STALLED_S
        return is_live, {"seconds_since_last_step": round(stepped_s, 3)}

    async def follow_models(self) -> None:
        """Return never; raise what ended the following of the models topic."""
        await self._hot_swap.failed()

    async def step(self) -> None:
        """Answer one micro-batch of whatever has arrived, and sweep a slice when a sweep is under way."""
        self._step_began_s = time.monotonic()
        if self._step_began_s >= self._next_sweep_s:
            self._next_sweep_s = self._step_began_s + self._settings.sweep_interval_s
            self._sweep.begin()
        self._observe_waiting()
        wait_s = 0.0 if self._sweep.under_way else IDLE_WAIT_S
        records = await self._intake.take(self._settings.batch_cap, wait_s)
        try:
            if records:
                await self._answer(records)
            if self._sweep.under_way:
                self._intake.hold()
                await self._sweep_slice()
        except BaseException:
            self._intake.abandon()
            raise
        self._intake.finish(records)

    async def _answer(self, records: Sequence[SourceRecord]) -> None:
        started_s = time.perf_counter()
        recommender = self._hot_swap.recommender
        outcome = self._processor.process(records, self._load, recommender, self._now_ms())
        processed_s = time.perf_counter()
        if outcome.replayed:
            self._require_the_same_topic(outcome.sessions)
        encoded = self._table.write(outcome.sessions)
        written_s = time.perf_counter()
        now_ms = self._now_ms()
        for partition, sessions in encoded.items():
            for key, record in sessions.items():
                self._deliveries.add((self._changelog, partition), key, record, now_ms)
        self._add_answers(outcome, now_ms)
        await self._deliver()
        times = BatchTimes(
            process_s=processed_s - started_s,
            store_read_s=self._store_read_s,
            store_write_s=written_s - processed_s,
            delivery_s=time.perf_counter() - written_s,
        )
        now_ms = self._now_ms()
        self._metrics.batch_answered(outcome, times, now_ms)
        if recommender:
            self._metrics.new_item_delay.observe(self._new_items.known(recommender.vocabulary, now_ms))
            self._new_items.clicked(outcome.unknown, now_ms)
        for (partition, _), session in outcome.sessions.items():
            self._sweep.heard(partition, session.event_ms, now_ms)
        self._stop_on_too_many_dead_letters(len(records), len(outcome.dead_letters))

    def _require_the_same_topic(self, sessions: Mapping[SessionKey, Session]) -> None:
        """Refuse states of offsets that do not exist: their clicks would be taken for replays until they do."""
        for (partition, _), session in sessions.items():
            end = self._end_offset(partition)
            if end is not None and session.offset >= end:
                raise AnotherTopicError(
                    f"a session has applied offset {session.offset} of partition {partition} of {self._topics.clicks},"
                    f" which ends at {end}: was the topic made anew? Its sessions cannot go on; start them anew with"
                    " another NEXTCLICK_WORKER__APP_ID, or delete changelog, committed offsets and data directories"
                )

    def _load(self, keys: Sequence[SessionKey]) -> list[Session | None]:
        started_s = time.perf_counter()
        sessions = self._table.load(keys)
        self._store_read_s = time.perf_counter() - started_s
        return sessions

    def _add_answers(self, outcome: Outcome, now_ms: int) -> None:
        for answer in outcome.answers:
            destination = (self._topics.recommendations, answer.record.partition)
            self._deliveries.add(destination, answer.record.key, answer.value, now_ms)
        for letter in outcome.dead_letters:
            destination = (self._topics.dead_letters, letter.record.partition)
            headers = letter.headers(self._topics.clicks)
            self._deliveries.add(destination, letter.record.key, letter.value, now_ms, headers)

    async def _deliver(self) -> None:
        """Send what was added and await it; then the store is known to hold no more than the changelog."""
        for (topic, partition), offset in (await self._deliveries.send()).items():
            if topic == self._changelog:
                self._table.set_persisted_offset(partition, offset)

    def _stop_on_too_many_dead_letters(self, records: int, dead_letters: int) -> None:
        self._recent_records += records
        self._recent_dead_letters += dead_letters
        if self._recent_records < DEAD_LETTER_WINDOW:
            return
        ratio = self._recent_dead_letters / self._recent_records
        if ratio > self._settings.dead_letter_ratio:
            raise TooManyDeadLettersError(
                f"{self._recent_dead_letters} of the last {self._recent_records} records of {self._topics.clicks} are"
                f" not clicks (at most {self._settings.dead_letter_ratio:.0%} may be); see {self._topics.dead_letters},"
                " then correct the producer, or let them all be dead letters with NEXTCLICK_WORKER__DEAD_LETTER_RATIO=1"
            )
        self._recent_records = self._recent_dead_letters = 0

    async def _sweep_slice(self) -> None:
        """Delete one slice of ended sessions: from the store, then from the changelog."""
        swept = self._sweep.next_slice()
        if swept.keys:
            self._table.delete(swept.partition, swept.keys)
            now_ms = self._now_ms()
            for key in swept.keys:
                self._deliveries.add((self._changelog, swept.partition), key, None, now_ms)
            await self._deliver()
        self._metrics.swept(len(swept.keys), swept.finished)

    def _observe_waiting(self) -> None:
        """Now and then: how far behind is each partition, and how long did recovery take."""
        if self._assigned_at_s is not None and not self._is_recovering():
            self._metrics.recovery_time.set(time.monotonic() - self._assigned_at_s)
            self._assigned_at_s = None
        if time.monotonic() < self._next_lag_s:
            return
        self._next_lag_s = time.monotonic() + LAG_INTERVAL_S
        for partition in self._intake.partitions:
            end, done = self._end_offset(partition), self._intake.done(partition)
            if end is not None and done is not None:
                self._metrics.lag.labels(str(partition)).set(max(end - done, 0))
