"""What `stream.faust_seams.ClickConsumer` does with records, rebalances and commits."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream import faust_seams
from stream.faust_seams import ClickConsumer
from stream.intake import Intake
from stream.records import SourceRecord
from tests.stream.event_loop import on_a_loop


@dataclass
class FakeConsumer:
    """What the methods of `ClickConsumer` see of themselves, without threads and without a broker."""

    fetched: dict[TP, list[Any]] = field(default_factory=dict)
    flow_active: bool = True
    should_stop: bool = False
    crashed: bool = False
    commits_succeed: bool = True
    while_fetching: str = ""
    transport: Any = None
    seeks: int = 0
    commits: list[dict[TP, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._intake = Intake(100)
        self._intake.assign([0, 1])
        self.recovery = SimpleNamespace(in_recovery=True, active_tps={TP("changelog", 0)}, standby_tps=set())
        self.app = SimpleNamespace(consumer_generation_id=1, tables=SimpleNamespace(recovery=self.recovery))
        self.restored: list[tuple[int, dict[bytes, bytes | None], int]] = []
        self.transport = SimpleNamespace(clicks_topic="clicks", restore=self._restore, offset_key=b"offset")
        self.can_resume_flow = asyncio.Event()

    async def wait(self, event: asyncio.Event) -> None:
        await event.wait()

    async def _wait_next_records(self, _: float) -> tuple[dict[TP, list[Any]], None]:
        self.app.consumer_generation_id += self.while_fetching == "rebalance"
        self.flow_active = self.while_fetching != "stop of the flow"
        self.should_stop = self.while_fetching == "end"
        return self.fetched, None

    def _to_message(self, _: TP, record: Any) -> tuple[bytes | None, bytes | None, int]:
        return record.key, record.value, record.offset

    def _is_restored(self, tp: TP) -> bool:
        return ClickConsumer._is_restored(self, tp)

    def _restore(self, partition: int, newest: dict[bytes, bytes | None], offset: int) -> None:
        self.restored.append((partition, newest, offset))

    async def perform_seek(self) -> None:
        self.seeks += 1

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        self.commits.append(offsets)
        return self.commits_succeed

    async def commit(self) -> bool:
        return await ClickConsumer.force_commit(self)

    async def getmany(self) -> list[tuple[TP, Any]]:
        return [found async for found in ClickConsumer.getmany(self, 1.0)]

    async def taken(self) -> list[SourceRecord]:
        return await self._intake.take(100, timeout_s=0)


def fetched(topic: str, partition: int, offsets: Iterable[int]) -> dict[TP, list[Any]]:
    return {TP(topic, partition): [SourceRecord(partition, offset, 5, b"s", b"{}") for offset in offsets]}


@on_a_loop
async def test_clicks_go_to_the_intake_and_changelog_records_to_the_store_and_faust_hears_how_far() -> None:
    consumer = FakeConsumer(fetched("clicks", 1, range(2)) | fetched("changelog", 0, range(3)))
    assert await consumer.getmany() == [(TP("changelog", 0), (b"offset", b"2", 2))]
    assert consumer.restored == [(0, {b"s": b"{}"}, 2)]
    assert await consumer.taken() == [SourceRecord(1, offset, 5, b"s", b"{}") for offset in range(2)]


@on_a_loop
async def test_of_a_session_that_changed_several_times_the_last_record_counts_also_where_it_deletes() -> None:
    changes = [(b"s", b"old"), (b"gone", b"old"), (b"s", b"new"), (b"gone", None)]
    records = [SourceRecord(0, 7 + place, 5, key, value) for place, (key, value) in enumerate(changes)]
    consumer = FakeConsumer({TP("changelog", 0): records})
    await consumer.getmany()
    assert consumer.restored == [(0, {b"s": b"new", b"gone": None}, 10)]


@pytest.mark.parametrize("records", [[], [SourceRecord(0, 7, 5, b"s", b"{}")]])
@on_a_loop
async def test_offsets_without_a_record_at_the_end_count_as_restored(records: list[SourceRecord]) -> None:
    consumer = FakeConsumer({TP("changelog", 0): [*records, faust_seams._Passed(0, 9, 0, None, None)]})
    assert await consumer.getmany() == [(TP("changelog", 0), (b"offset", b"9", 9))]
    assert consumer.restored == [(0, {record.key: record.value for record in records}, 9)]


@on_a_loop
async def test_offsets_without_a_record_are_no_clicks() -> None:
    record = SourceRecord(0, 7, 5, None, None)
    consumer = FakeConsumer({TP("clicks", 0): [record, faust_seams._Passed(0, 9, 0, None, None)]})
    await consumer.getmany()
    assert await consumer.taken() == [record]


@on_a_loop
async def test_after_recovery_what_the_worker_itself_wrote_to_the_changelog_does_not_come_back_into_the_store() -> None:
    consumer = FakeConsumer(fetched("changelog", 0, range(3)) | fetched("changelog", 1, range(2)))
    consumer.recovery.in_recovery = False
    consumer.recovery.standby_tps = {TP("changelog", 1)}
    assert [tp for tp, _ in await consumer.getmany()] == [TP("changelog", 1)]
    assert [partition for partition, _, _ in consumer.restored] == [1]


@pytest.mark.parametrize(("what", "seeks"), [("rebalance", 1), ("stop of the flow", 1), ("end", 0)])
@on_a_loop
async def test_records_that_will_not_be_processed_are_dropped_and_gone_back_for(what: str, seeks: int) -> None:
    consumer = FakeConsumer(fetched("clicks", 0, range(2)) | fetched("changelog", 0, range(2)), while_fetching=what)
    assert await consumer.getmany() == []
    assert await consumer.taken() == []
    assert consumer.seeks == seeks


@on_a_loop
async def test_a_rebalance_during_the_wait_for_the_flow_costs_no_records() -> None:
    consumer = FakeConsumer(fetched("clicks", 0, range(2)), flow_active=False)
    waiting = asyncio.create_task(consumer.getmany())
    await asyncio.sleep(0)
    assert not waiting.done()
    consumer.app.consumer_generation_id += 1
    consumer.can_resume_flow.set()
    await waiting
    assert len(await consumer.taken()) == 2
    assert consumer.seeks == 0


@on_a_loop
async def test_fetching_waits_until_the_intake_has_room() -> None:
    consumer = FakeConsumer(fetched("clicks", 0, range(3)))
    consumer._intake = Intake(2)
    consumer._intake.assign([0])
    await consumer.getmany()
    waiting = asyncio.create_task(consumer.getmany())
    await asyncio.sleep(0)
    assert not waiting.done()
    await consumer.taken()
    await waiting


async def answered(consumer: FakeConsumer, offsets: range) -> None:
    """Let the worker take and finish records of partition 0."""
    consumer._intake.put(0, [SourceRecord(0, offset, 5, b"s", b"") for offset in offsets])
    consumer._intake.finish(await consumer.taken())


@on_a_loop
async def test_the_watermark_is_committed_once() -> None:
    consumer = FakeConsumer()
    await answered(consumer, range(3))
    assert await ClickConsumer.force_commit(consumer) is True
    assert await ClickConsumer.force_commit(consumer) is False
    assert consumer.commits == [{TP("clicks", 0): 3}]


@on_a_loop
async def test_a_commit_that_failed_is_tried_again() -> None:
    consumer = FakeConsumer(commits_succeed=False)
    await answered(consumer, range(3))
    assert await ClickConsumer.force_commit(consumer) is False
    consumer.commits_succeed = True
    assert await ClickConsumer.force_commit(consumer) is True
    assert len(consumer.commits) == 2


@on_a_loop
async def test_before_a_rebalance_the_batch_in_flight_is_waited_for_and_committed_and_the_queue_dropped() -> None:
    consumer = FakeConsumer()
    consumer._intake.put(0, [SourceRecord(0, offset, 5, b"s", b"") for offset in range(5)])
    in_flight = await consumer._intake.take(2, timeout_s=0)
    waiting = asyncio.create_task(ClickConsumer.wait_empty(consumer))
    await asyncio.sleep(0)
    assert not waiting.done()
    consumer._intake.finish(in_flight)
    await waiting
    assert consumer.commits == [{TP("clicks", 0): 2}]
    assert await consumer.taken() == []


@on_a_loop
async def test_before_a_rebalance_commits_that_fail_are_given_up_in_the_end() -> None:
    consumer = FakeConsumer(commits_succeed=False)
    await answered(consumer, range(3))
    await ClickConsumer.wait_empty(consumer)
    assert len(consumer.commits) == faust_seams.COMMIT_ATTEMPTS


@on_a_loop
async def test_a_crashed_consumer_commits_nothing_as_its_thread_may_never_answer() -> None:
    consumer = FakeConsumer(crashed=True)
    await answered(consumer, range(3))
    await ClickConsumer.wait_empty(consumer)
    assert consumer.commits == []
