"""Where the worker meets Faust's inside: every private Faust and aiokafka name that we touch is in this file.

Clicks do not go through Faust's per-message machinery. Its consumer fetches them and keeps the group, the
assignment, seeks, recovery and commits; the records themselves go, whole lists at a time, to our `Intake`.
`tests/stream/test_faust_seams.py` pins each name, so that an upgrade that moves one fails there and not in production.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any

import aiokafka
import faust
import rocksdict
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from faust.stores.rocksdb import RocksDBOptions
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.intake import Intake
from stream.records import SourceRecord

# What the broker gathers at most before it answers: some dozens of clicks, as many as make a micro-batch worth its
# fixed costs.
GATHERED_BYTES = 4096
COMMIT_ATTEMPTS = 5
# Of all attempts together: a broker that is away must not keep a worker from ending.
COMMIT_TIMEOUT_S = 5.0

# Takes a partition, the newest value of each key (None deletes), and the last offset that they go up to.
Restore = Callable[[int, Mapping[bytes, bytes | None], int], None]


class _Passed(SourceRecord, frozen=True, gc=False):
    """Stands at the end of a fetch for offsets that hold no record: transaction markers, what compaction emptied."""


class _LightRecords(PartitionRecords):  # type: ignore[misc]
    """A partition's part of a fetch; aiokafka would make a dataclass of eleven fields of each record."""

    def __iter__(self) -> Iterator[SourceRecord]:
        end = self.next_fetch_offset
        records = list(self._records_iterator)
        if records:
            end = records[-1].offset + 1
        if self.next_fetch_offset > end:
            # Else recovery would wait for ever for the last offset of a changelog where no record has it.
            records.append(_Passed(self._tp.partition, self.next_fetch_offset - 1, 0, None, None))
        return iter(records)

    def _consumer_record(self, tp: aiokafka.TopicPartition, record: Any) -> SourceRecord:
        return SourceRecord(tp.partition, record.offset, record.timestamp, record.key, record.value)


class _Fetcher(Fetcher):  # type: ignore[misc]
    """aiokafka's fetcher with light records, which lets the broker gather more of them after a fetch that had some.

    Clicks that come one by one would else be fetched, answered and delivered one by one, which at some hundred a second
    costs more than the answers. After a fetch that gathered nothing the next click is handed over at once.
    """

    _longest_wait_ms: int
    _gather_ms: int

    @classmethod
    def take_over(cls, fetcher: Fetcher, *, longest_wait_ms: int, gather_ms: int) -> None:
        """Make a fetcher one of these.

        Args:
            fetcher: Has fetched nothing yet.
            longest_wait_ms: How long the broker holds a fetch without records.
            gather_ms: How long it gathers records after it has handed some over; 0 for not at all.
        """
        fetcher.__class__ = cls
        fetcher._longest_wait_ms, fetcher._gather_ms = longest_wait_ms, gather_ms  # noqa: SLF001

    async def _proc_fetch_request(self, *request: Any) -> bool:
        has_news: bool = await super()._proc_fetch_request(*request)
        for result in self._records.values():
            if isinstance(result, FetchResult) and result.has_more():
                result._partition_records.__class__ = _LightRecords  # noqa: SLF001
        # Of the next fetch, which is made when these records have been taken.
        gathers = has_news and self._gather_ms > 0
        self._fetch_max_wait_ms = self._gather_ms if gathers else self._longest_wait_ms
        self._fetch_min_bytes = GATHERED_BYTES if gathers else 1
        return has_news


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread with a shorter fetch wait, whose pauses reach aiokafka."""

    def _create_worker_consumer(self, transport: "ClickTransport") -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust hard-codes 1,500 ms; a fetch that waits holds up partitions that it does not name.
        consumer._fetch_max_wait_ms = transport.fetch_max_wait_ms  # noqa: SLF001
        return consumer

    async def on_start(self) -> None:
        """Connect; no partition is assigned before, so nothing has been fetched yet."""
        await super().on_start()
        transport = self.consumer.transport
        _Fetcher.take_over(
            self._consumer._fetcher,  # noqa: SLF001
            longest_wait_ms=transport.fetch_max_wait_ms,
            gather_ms=transport.gather_ms,
        )

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        """Fetch on the consumer's thread, without the queue of calls there, which makes five tasks for each of them."""
        fetched = self._fetch_records(self._ensure_consumer(), active_partitions or set(), timeout)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetched, self.thread_loop))

    def mirror(self, partitions: Iterable[TP], *, paused: bool) -> None:
        """Tell aiokafka what Faust paused or resumed, on the consumer's own thread.

        Faust only skips paused partitions when it reads; aiokafka goes on fetching them, and while their records lie
        unread it sends no further fetch to that broker: our own changelog would starve the clicks.
        """
        self.thread_loop.call_soon_threadsafe(self._mirror_now, set(partitions), paused)

    def _mirror_now(self, partitions: set[TP], paused: bool) -> None:  # noqa: FBT001
        if self._consumer is None:
            return
        assigned = self._consumer.assignment()
        wanted = [tp for tp in map(driver.ensure_aiokafka_TP, partitions) if tp in assigned]
        if paused:
            self._consumer.pause(*wanted)
        else:
            self._consumer.resume(*wanted)


class ClickConsumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer with the clicks taken out of its stream: lists of records go to the intake."""

    transport: "ClickTransport"
    _thread: _ConsumerThread

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @property
    def _intake(self) -> Intake:
        return self.transport.intake

    async def sleep(self, n: float) -> None:
        """Sleep until the service stops, `n` seconds at most; for the 0 before each fetch mode would make a task."""
        await (super().sleep(n) if n else asyncio.sleep(0))

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109
        """Fetch what has arrived: clicks to the intake, changelog records to the store, their progress to Faust."""
        await self._intake.wait_for_room()
        if not self.flow_active:
            await self.wait(self.can_resume_flow)
        # Only now: a rebalance that began and ended during the wait is none of the coming fetch's business.
        generation = self.app.consumer_generation_id
        records, _ = await self._wait_next_records(timeout)
        if not records or self.should_stop:
            return
        if not self.flow_active or generation != self.app.consumer_generation_id:
            # aiokafka has moved past them and they will not be processed, or are another assignment's: go back. The
            # gate of the intake keeps out what it has already.
            await self.perform_seek()
            return
        for tp, fetched in records.items():
            end = fetched[-1].offset
            if isinstance(fetched[-1], _Passed):
                fetched.pop()
            if tp.topic == self.transport.clicks_topic:
                self._intake.put(tp.partition, fetched)
                continue
            if self._is_restored(tp):
                # One by one through Faust they cost twenty times as much. It hears how far they go, under the key by
                # which it keeps its own offset: under a session's it would write it again later, perhaps over a newer.
                newest = {record.key: record.value for record in fetched}
                self.transport.restore(tp.partition, newest, end)
                yield tp, self._to_message(tp, _progress(tp, end, self.transport.offset_key))

    def _is_restored(self, tp: TP) -> bool:
        """Whether the store lacks changelog records of `tp`; after recovery those of our partitions came from it."""
        recovery = self.app.tables.recovery
        return tp in recovery.standby_tps or (recovery.in_recovery and tp in recovery.active_tps)

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Pause in Faust and in aiokafka."""
        paused = set(tps)
        super().pause_partitions(paused)
        self._thread.mirror(paused, paused=True)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume in Faust and in aiokafka."""
        resumed = set(tps)
        super().resume_partitions(resumed)
        self._thread.mirror(resumed, paused=False)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Open the intake for the new assignment before Faust may fetch for it."""
        self._intake.assign(tp.partition for tp in assigned if tp.topic == self.transport.clicks_topic)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let Faust wait for the batch in flight and commit, then close the intake."""
        await super().on_partitions_revoked(revoked)
        self._intake.revoke()

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002, FBT001, FBT002
        """Commit, per partition, the offset below which every answer has been delivered."""
        offsets = self._intake.committable()
        if not offsets:
            return False
        committed = await self._commit({TP(self.transport.clicks_topic, p): offset for p, offset in offsets.items()})
        if committed:
            self._intake.mark_committed(offsets)
        return bool(committed)

    async def wait_empty(self) -> None:
        """Take nothing more, finish the batch in flight and commit it; before a rebalance and before the end.

        `commit` does nothing while the timer's commit is in flight, hence the attempts; what stays uncommitted is
        replayed, and the fence in every session record makes a replay harmless. After a crash nothing is committed: the
        thread that would do it is ending by then, and might never answer.
        """
        self._intake.close()
        await self._intake.wait_until_idle()
        if self.crashed:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                for _ in range(COMMIT_ATTEMPTS):
                    if not self._intake.committable():
                        return
                    await self.commit()


class ClickTransport(driver.Transport):  # type: ignore[misc]
    """Faust's aiokafka transport, with the clicks of one topic going to an intake.

    Args:
        app: The Faust app.
        clicks_topic: Topic whose records go to the intake.
        intake: Where they go.
        fetch_max_wait_ms: Longest that the broker holds a fetch without records.
        gather_ms: How long it gathers records after it has handed some over; 0 for not at all.
        restore: Stores changelog records of a partition, given with the offset of the last one.
        offset_key: Under which Faust keeps that offset.
    """

    Consumer = ClickConsumer

    def __init__(
        self,
        app: faust.App,
        clicks_topic: str,
        intake: Intake,
        *,
        fetch_max_wait_ms: int,
        gather_ms: int,
        restore: Restore,
        offset_key: bytes,
    ) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.fetch_max_wait_ms = fetch_max_wait_ms
        self.gather_ms = gather_ms
        self.restore = restore
        self.offset_key = offset_key
        self.clicks_topic = clicks_topic
        self.intake = intake


def on_assigned(app: faust.App, call: Callable[[], None]) -> None:
    """Call `call` after each assignment, before recovery."""

    # Faust keeps weak references to its receivers, except to those it is told to keep.
    @app.on_partitions_assigned.connect(weak=False)  # type: ignore[untyped-decorator]
    async def _assigned(_app: faust.App, assigned: set[TP], **_: Any) -> None:  # noqa: ARG001
        call()


def partition_db(table: faust.Table, partition: int) -> Any:
    """Return the open RocksDB (rocksdict, raw mode) of one partition of `table`."""
    return table.data._db_for_partition(partition)  # noqa: SLF001


class _Options(RocksDBOptions):  # type: ignore[misc]
    """Faust's options with more of RocksDB's set."""

    tune: Callable[[rocksdict.Options], None]

    def as_options(self) -> rocksdict.Options:
        options = super().as_options()
        self.tune(options)
        return options


def tune_databases(table: faust.Table, tune: Callable[[rocksdict.Options], None]) -> None:
    """Let `tune` set options of every database that `table` opens from now on; Faust passes on only some."""
    options = table.data.rocksdb_options
    options.__class__, options.tune = _Options, tune


def offset_key(table: faust.Table) -> bytes:
    """Return the key under which Faust keeps the persisted changelog offset in a partition's DB."""
    return bytes(table.data.offset_key)


def set_persisted_offset(table: faust.Table, partition: int, offset: int) -> None:
    """Say that the store holds every changelog record up to `offset`, so that recovery starts after it."""
    table.data.set_persisted_offset(TP(table.changelog_topic.get_topic_name(), partition), offset)


def _progress(tp: TP, offset: int, offset_key: bytes) -> aiokafka.ConsumerRecord[bytes, bytes]:
    """Return the record by which Faust learns that `tp` is restored up to `offset`, and which it would keep."""
    value = str(offset).encode()
    return aiokafka.ConsumerRecord(
        topic=tp.topic,
        partition=tp.partition,
        offset=offset,
        timestamp=0,
        timestamp_type=0,
        key=offset_key,
        value=value,
        checksum=None,
        serialized_key_size=len(offset_key),
        serialized_value_size=len(value),
        headers=(),
    )
