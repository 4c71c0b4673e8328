"""Every name of Faust, aiokafka and rocksdict that the worker rests on without being promised it.

When one of these fails after an upgrade, read what the new version does in its place before changing the pin.
"""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import faust
import pytest
import rocksdict
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.stores.rocksdb import Store
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream import faust_seams
from stream.faust_seams import ClickConsumer, ClickTransport
from stream.records import SourceRecord
from stream.settings import WorkerSettings
from tests.stream.event_loop import on_a_loop

SIGNATURES: list[tuple[Callable[..., object], list[str], str]] = [
    (driver.Consumer.getmany, ["self", "timeout"], "ClickConsumer.getmany replaces it"),
    (driver.Consumer.force_commit, ["self", "topics", "start_new_transaction"], "the commit timer must end in it"),
    (driver.Consumer.wait_empty, ["self"], "a rebalance and the end of the process must wait in it"),
    (driver.Consumer.commit, ["self", "topics", "start_new_transaction"], "wait_empty calls it"),
    (driver.Consumer._commit, ["self", "offsets"], "force_commit calls it"),
    (driver.Consumer._wait_next_records, ["self", "timeout"], "getmany fetches through it"),
    (driver.Consumer._to_message, ["self", "tp", "record"], "getmany makes changelog messages with it"),
    (driver.Consumer._new_consumer_thread, ["self"], "ClickConsumer's own thread class comes in through it"),
    (driver.Consumer.perform_seek, ["self"], "getmany goes back for dropped records with it"),
    (driver.Consumer.pause_partitions, ["self", "tps"], "mirrored to aiokafka"),
    (driver.Consumer.resume_partitions, ["self", "tps"], "mirrored to aiokafka"),
    (driver.Consumer.on_partitions_assigned, ["self", "assigned", "generation_id"], "opens the intake"),
    (driver.Consumer.on_partitions_revoked, ["self", "revoked"], "closes the intake"),
    (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"], "the fetch wait is set after it"),
    (
        driver.AIOKafkaConsumerThread._fetch_records,
        ["self", "consumer", "active_partitions", "timeout", "max_records"],
        "getmany calls it on the consumer's thread",
    ),
    (driver.AIOKafkaConsumerThread.on_start, ["self"], "the fetcher with light records is put in after it"),
    (
        Fetcher._proc_fetch_request,
        ["self", "assignment", "node_id", "request"],
        "after it records are made light, and what the next fetch asks for is set",
    ),
    (PartitionRecords._consumer_record, ["self", "tp", "record"], "light records are made in its place"),
    (driver.ensure_aiokafka_TP, ["tp"], "partitions are handed to aiokafka through it"),
    (Store._db_for_partition, ["self", "partition"], "sessions are read and written through it"),
    (Store.set_persisted_offset, ["self", "tp", "offset"], "recovery starts after what it says"),
    (aiokafka.AIOKafkaProducer.create_batch, ["self"], "Deliveries opens batches with it"),
    (aiokafka.AIOKafkaProducer.send_batch, ["self", "batch", "topic", "partition"], "Deliveries sends with it"),
    (BatchBuilder.append, ["self", "timestamp", "key", "value", "headers"], "Deliveries fills batches with it"),
    (BatchBuilder.record_count, ["self"], "the last offset of a batch is worked out from it"),
]


@pytest.mark.parametrize(
    ("function", "parameters", "why"),
    [pytest.param(*pin, id=getattr(pin[0], "__qualname__", str(pin[0]))) for pin in SIGNATURES],
)
def test_signature_is_the_one_that_the_seam_was_written_for(
    function: Callable[..., object], parameters: list[str], why: str
) -> None:
    assert list(inspect.signature(function).parameters) == parameters, f"look at stream/faust_seams.py: {why}"


@pytest.mark.parametrize(
    ("function", "uses", "why"),
    [
        (aiokafka.AIOKafkaConsumer.start, "self._fetch_max_wait_ms", "set between __init__ and start"),
        (driver.AIOKafkaConsumerThread.getmany, "self._fetch_records", "it is what getmany calls"),
        (Fetcher._get_actions_per_node, "self._fetch_max_wait_ms,", "else the broker does not gather clicks"),
        (Fetcher._get_actions_per_node, "self._fetch_min_bytes,", "else the broker does not gather clicks"),
        (Fetcher._fetch_requests_routine, "self._proc_fetch_request(", "else records are not light"),
        (Fetcher._proc_fetch_request, "self._records[tp] = FetchResult(", "else records are not light"),
        (FetchResult.getall, "for msg in self._partition_records:", "else the end of a fetch is not seen"),
        (FetchResult._update_position, "self._partition_records.next_fetch_offset", "else offsets are read twice"),
        (PartitionRecords._unpack_records, "self._consumer_record(tp, record)", "else records are not light"),
        (driver.Consumer.commit, "self.force_commit(", "else watermarks are never committed"),
        (driver.Consumer._commit_handler.fun, "self.commit()", "else the timer does not commit"),
        (driver.Consumer._drain_messages, "getmany(timeout=", "else clicks do not reach the intake"),
        (driver.AIOKafkaConsumerThread._create_consumer, "self._create_worker_consumer(", "it makes the consumer"),
        (
            faust.Worker.execute_from_commandline,
            "self.on_worker_shutdown()",
            "else a stop may last for ever (stream.app)",
        ),
        (faust.App._on_partitions_revoked, "self._consumer_wait_empty", "else a rebalance does not wait for the batch"),
        (faust.App._stop_consumer, "self._consumer_wait_empty", "else the end does not wait for the batch"),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_faust_and_aiokafka_still_go_through_what_is_overridden(
    function: Callable[..., object], uses: str, why: str
) -> None:
    assert uses in inspect.getsource(function), f"look at stream/faust_seams.py: {why}"


def test_the_overrides_replace_methods_that_exist() -> None:
    lights = (faust_seams._Fetcher, faust_seams._LightRecords)
    for ours in (ClickConsumer, faust_seams._ConsumerThread, ClickTransport, *lights):
        base = ours.__bases__[0]
        own = {"_intake", "transport", "_thread", "mirror", "_mirror_now", "clicks_topic", "intake", "_is_restored"}
        own.add("take_over")
        replaced = {name for name in vars(ours) if not name.startswith("__")} - own
        assert {name for name in replaced if not hasattr(base, name)} <= {"_abc_impl"}, base


@on_a_loop
async def test_the_worker_s_consumer_waits_shortly_for_fetches_and_never_commits_by_itself(app: faust.App) -> None:
    thread = app.consumer._thread
    assert isinstance(app.consumer, ClickConsumer)
    assert isinstance(thread, faust_seams._ConsumerThread)
    consumer = thread._create_worker_consumer(app.transport)
    assert consumer._fetch_max_wait_ms == WorkerSettings().fetch_max_wait_ms
    assert consumer._enable_auto_commit is False
    consumer._closed = True  # it never connected


def batch(base: int, changes: dict[int, bytes | None], *, last: int, is_control: bool = False) -> bytes:
    """Return a record batch as a broker sends it, of the offsets from `base` to `last` that are in `changes`."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 16)
    for offset, value in changes.items():
        builder.append(offset - base, 5, b"s%d" % offset, value, [])
    made = builder.build()
    made[0:8] = base.to_bytes(8)
    made[21:23] = (0x20 * is_control).to_bytes(2)
    made[23:27] = (last - base).to_bytes(4)
    return bytes(made)


def fetcher_of(
    monkeypatch: pytest.MonkeyPatch, *, gather_ms: int, records: dict[TopicPartition, Any], has_news: bool
) -> faust_seams._Fetcher:
    """Return a fetcher that has asked a broker, as it finds what came back."""

    async def fetched(self: Fetcher, *_: object) -> bool:
        self._records = records
        return has_news

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", fetched)
    fetcher = object.__new__(Fetcher)
    faust_seams._Fetcher.take_over(fetcher, longest_wait_ms=100, gather_ms=gather_ms)
    return fetcher


@pytest.mark.parametrize(
    ("has_news", "gather_ms", "asks_for"),
    [(True, 6, (6, faust_seams.GATHERED_BYTES)), (False, 6, (100, 1)), (True, 0, (100, 1))],
)
@on_a_loop
async def test_after_records_the_broker_gathers_where_told_to_and_else_answers_at_once(
    monkeypatch: pytest.MonkeyPatch, *, has_news: bool, gather_ms: int, asks_for: tuple[int, int]
) -> None:
    fetcher = fetcher_of(monkeypatch, gather_ms=gather_ms, records={}, has_news=has_news)
    assert await fetcher._proc_fetch_request(None, 0, None) is has_news
    assert (fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes) == asks_for


async def light(monkeypatch: pytest.MonkeyPatch, batches: bytes, fetch_offset: int) -> tuple[list[Any], int]:
    """Return what the worker's fetcher makes of a fetched partition, and where its next fetch will begin."""
    tp = TopicPartition("changelog", 1)
    parts = PartitionRecords(tp, MemoryRecords(batches), None, fetch_offset, None, None, False, 0)
    positions: list[int] = []
    state = SimpleNamespace(paused=False, position=fetch_offset, consumed_to=positions.append)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    result = FetchResult(tp, assignment=assignment, partition_records=parts, backoff=0)
    fetcher = fetcher_of(monkeypatch, gather_ms=6, records={tp: result}, has_news=True)
    assert await fetcher._proc_fetch_request(None, 0, None)
    return result.getall(), positions[-1]


@on_a_loop
async def test_fetched_records_are_light_and_gaps_left_by_compaction_are_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched = batch(10, {10: b"a", 12: None}, last=14) + batch(20, {21: b"b"}, last=21)
    records, position = await light(monkeypatch, fetched, 11)
    assert records == [SourceRecord(1, 12, 5, b"s12", None), SourceRecord(1, 21, 5, b"s21", b"b")]
    assert position == 22


@pytest.mark.parametrize(
    "end",
    [batch(22, {22: b"marker"}, last=22, is_control=True), batch(20, {21: b"b"}, last=22), batch(22, {}, last=22)],
)
@on_a_loop
async def test_where_the_last_offsets_hold_no_record_the_end_of_the_fetch_is_told(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    records, position = await light(monkeypatch, batch(20, {20: b"a"}, last=20) + end, 20)
    assert records[0] == SourceRecord(1, 20, 5, b"s20", b"a")
    assert records[-1] == faust_seams._Passed(1, 22, 0, None, None)
    assert position == 23


def test_the_names_of_instances_that_the_seam_reads_are_there(app: faust.App, faust_table: faust.Table) -> None:
    assert app.transport.intake is app.consumer._intake
    assert app.consumer.flow_active is True
    assert app.consumer.should_stop is False
    assert app.consumer.crashed is False
    assert isinstance(app.consumer_generation_id, int)
    assert hasattr(app.consumer._thread, "thread_loop")
    assert app.consumer._thread._consumer is None
    assert isinstance(faust_seams.offset_key(faust_table), bytes)
    recovery = app.tables.recovery
    assert (recovery.in_recovery, recovery.active_tps, recovery.standby_tps) == (False, set(), set())
    assert app.conf.stream_wait_empty is True
    assert app.conf.broker_max_poll_records is None
    assert app.conf.processing_guarantee.value == "at_least_once"


def test_rocksdict_in_raw_mode_reads_lists_writes_batches_and_iterates(tmp_path: Path) -> None:
    db = rocksdict.Rdict(str(tmp_path / "db"), rocksdict.Options(raw_mode=True))
    batch = rocksdict.WriteBatch(raw_mode=True)
    for key in (b"b", b"a", b"c"):
        batch.put(key, key * 2)
    batch.delete(b"c")
    db.write(batch)
    assert db.get([b"a", b"x", b"b"]) == [b"aa", None, b"bb"]
    cursor = db.iter()
    cursor.seek(b"a\0")
    assert (cursor.valid(), cursor.key(), cursor.value()) == (True, b"b", b"bb")
    cursor.next()
    assert not cursor.valid()


def test_partition_databases_open_when_first_asked_for(faust_table: faust.Table) -> None:
    assert not faust_table.data._dbs
    assert faust_seams.partition_db(faust_table, 1) is faust_seams.partition_db(faust_table, 1)
    assert list(faust_table.data._dbs) == [1]


def test_an_assignment_is_signalled_to_a_function_that_nothing_else_holds(app: faust.App) -> None:
    calls: list[str] = []
    faust_seams.on_assigned(app, lambda: calls.append("assigned"))
    asyncio.get_event_loop().run_until_complete(app.on_partitions_assigned.send(set()))
    assert "assigned" in calls


class FakeAIOKafka:
    """Remembers which partitions are paused."""

    def __init__(self) -> None:
        self.paused: set[TopicPartition] = set()

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition("clicks", 0), TopicPartition("changelog", 0)}

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused.difference_update(partitions)


def test_pauses_reach_aiokafka_for_what_is_assigned() -> None:
    thread = SimpleNamespace(_consumer=FakeAIOKafka())
    everything = {TP("clicks", 0), TP("changelog", 0), TP("clicks", 9)}
    faust_seams._ConsumerThread._mirror_now(thread, everything, True)
    assert thread._consumer.paused == {TopicPartition("clicks", 0), TopicPartition("changelog", 0)}
    faust_seams._ConsumerThread._mirror_now(thread, {TP("clicks", 0)}, False)
    assert thread._consumer.paused == {TopicPartition("changelog", 0)}


def test_a_pause_before_the_consumer_is_there_does_nothing() -> None:
    faust_seams._ConsumerThread._mirror_now(SimpleNamespace(_consumer=None), {TP("clicks", 0)}, True)
