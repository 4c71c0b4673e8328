import asyncio
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka.errors import KafkaTimeoutError
from faust.types import TP

from stream.deliveries import DeliveryError
from stream.records import MOST_DEAD_BYTES, SourceRecord
from stream.session import decode_session
from stream.settings import WorkerSettings
from stream.state_table import StateTable
from stream.worker import DEAD_LETTER_WINDOW, STALLED_S, AnotherTopicError, TooManyDeadLettersError
from tests.stream.builders import IDLE_MS, ITEMS, NOW_MS, plain, record, session
from tests.stream.event_loop import eventually, on_a_loop
from tests.stream.fake_producer import FakeBatch, FakeProducer
from tests.stream.running_worker import CHANGELOG, TOPICS, Running, running

JUNK_AT = [SourceRecord(0, offset, NOW_MS, None, b"junk") for offset in range(2 * DEAD_LETTER_WINDOW)]
ENDED_MS = NOW_MS - IDLE_MS - 1


@on_a_loop
async def test_every_click_is_answered_in_its_own_partition_under_its_own_key(table: StateTable) -> None:
    async with running(table) as run:
        run.put(record(0), record(0, partition=1, session_id="t"), record(1, ITEMS[1]))
        await run.worker.step()
        assert (run.answered(0), run.answered(1)) == ([0, 1], [0])
        assert [found.key for found in run.sent(TOPICS.recommendations, 1)] == [b"t"]
        assert run.intake.committable() == {0: 2, 1: 1}


@on_a_loop
async def test_the_changelog_gets_each_session_of_a_batch_once_as_it_is_stored(table: StateTable) -> None:
    async with running(table) as run:
        run.put(record(0), record(1, ITEMS[1]), record(2, session_id="t"))
        await run.worker.step()
        changes = run.sent(CHANGELOG)
        assert [found.key for found in changes] == [b"s", b"t"]
        (stored,) = table.load([(0, b"s")])
        assert stored is not None
        assert plain(decode_session(changes[0].value or b"")) == plain(stored)


class Spy(FakeProducer):
    """Notes, at each batch sent, how many sessions the store holds by then."""

    def __init__(self, table: StateTable) -> None:
        super().__init__()
        self._table = table
        self.stored: list[tuple[str, int]] = []

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        self.stored.append((topic, len(list(self._table.scan(partition, b"", 100)))))
        return await super().send_batch(batch, topic, partition=partition)


@on_a_loop
async def test_states_are_stored_first_then_sent_to_the_changelog_then_answers_go_out(table: StateTable) -> None:
    spy = Spy(table)
    async with running(table, spy) as run:
        run.put(record(0), JUNK_AT[1])
        await run.worker.step()
    assert spy.stored == [(CHANGELOG, 1), (TOPICS.recommendations, 1), (TOPICS.dead_letters, 1)]


@on_a_loop
async def test_recovery_will_start_after_the_last_changelog_record_of_the_batch(
    table: StateTable, faust_table: faust.Table
) -> None:
    async with running(table) as run:
        for offset in (0, 2, 4):
            run.put(record(offset), record(offset + 1), record(offset, session_id="t", partition=1))
            await run.worker.step()
    changelog = faust_table.changelog_topic.get_topic_name()
    assert [faust_table.data.persisted_offset(TP(changelog, partition)) for partition in (0, 1)] == [2, 2]


@on_a_loop
async def test_a_batch_has_no_more_records_than_its_cap(table: StateTable) -> None:
    async with running(table, batch_cap=2) as run:
        run.put(*(record(offset) for offset in range(3)))
        await run.worker.step()
        assert run.answered() == [0, 1]
        await run.worker.step()
        assert run.answered() == [0, 1, 2]


@pytest.mark.parametrize("topic", [CHANGELOG, TOPICS.recommendations, TOPICS.dead_letters])
@on_a_loop
async def test_a_failed_delivery_ends_the_loop_and_commits_nothing_of_the_batch(table: StateTable, topic: str) -> None:
    async with running(table, FakeProducer(failures={topic: KafkaTimeoutError()})) as run:
        run.put(record(0), JUNK_AT[1])
        with pytest.raises(DeliveryError):
            await run.worker.step()
        assert run.intake.committable() == {}


@on_a_loop
async def test_after_a_failed_delivery_the_next_worker_answers_again_and_states_are_exact(table: StateTable) -> None:
    clicks = [record(offset, ITEMS[offset]) for offset in range(4)]
    async with running(table, FakeProducer(failures={TOPICS.recommendations: KafkaTimeoutError()})) as run:
        run.put(*clicks[:2])
        with pytest.raises(DeliveryError):
            await run.worker.step()
    async with running(table) as run:
        run.put(*clicks)
        await run.worker.step()
        assert run.answered() == [0, 1, 2, 3]
        assert [found.key for found in run.sent(CHANGELOG)] == [b"s"]
        (stored,) = table.load([(0, b"s")])
        assert stored is not None
        assert stored.items() == ITEMS[:4]
        assert run.scrape.get_sample_value("nextclick_clicks_total", {"result": "replayed"}) == 2


@on_a_loop
async def test_a_dead_letter_keeps_key_and_value_and_says_where_it_was(table: StateTable) -> None:
    async with running(table) as run:
        run.put(record(0, partition=1), SourceRecord(1, 1, NOW_MS, b"\xff", b"junk"), SourceRecord(1, 2, 0, None, None))
        await run.worker.step()
        letters = run.sent(TOPICS.dead_letters, 1)
        assert [(found.key, found.value) for found in letters] == [(b"\xff", b"junk"), (None, None)]
        headers = dict(letters[0].headers)
        assert headers["nextclick.error.reason"] == b"malformed"
        assert headers["nextclick.error.topic"] == b"clicks"
        assert (headers["nextclick.error.partition"], headers["nextclick.error.offset"]) == (b"1", b"1")
        assert run.intake.committable() == {1: 3}


async def steps(run: Running, records: Sequence[SourceRecord] = ()) -> None:
    """Answer all of `records`, or go on for ever."""
    run.put(*records)
    while not records or run.intake.done(0) != records[-1].offset + 1:
        await run.worker.step()


@on_a_loop
async def test_too_many_dead_letters_stop_the_worker_once_they_are_delivered(table: StateTable) -> None:
    valid = DEAD_LETTER_WINDOW // 2 - 1
    records = [record(offset) for offset in range(valid)] + JUNK_AT[valid:DEAD_LETTER_WINDOW]
    async with running(table, batch_cap=100) as run:
        with pytest.raises(TooManyDeadLettersError, match=r"501 of the last 1000 records of clicks .*50%"):
            await steps(run, records)
        assert len(run.sent(TOPICS.dead_letters)) == DEAD_LETTER_WINDOW // 2 + 1


@on_a_loop
async def test_as_many_dead_letters_as_allowed_do_not_stop_the_worker(table: StateTable) -> None:
    records = [junk if junk.offset % 2 else record(junk.offset) for junk in JUNK_AT]
    async with running(table, batch_cap=100) as run:
        await steps(run, records)
        assert len(run.sent(TOPICS.dead_letters)) == DEAD_LETTER_WINDOW


@on_a_loop
async def test_clicks_of_long_ago_do_not_make_up_for_the_dead_letters_of_now(table: StateTable) -> None:
    records = [record(offset) for offset in range(DEAD_LETTER_WINDOW)]
    records += [junk if junk.offset % 5 else record(junk.offset) for junk in JUNK_AT[DEAD_LETTER_WINDOW:]]
    async with running(table, batch_cap=100) as run:
        with pytest.raises(TooManyDeadLettersError, match="800 of the last 1000"):
            await steps(run, records)


@on_a_loop
async def test_a_few_dead_letters_alone_do_not_stop_the_worker(table: StateTable) -> None:
    async with running(table) as run:
        await steps(run, JUNK_AT[: DEAD_LETTER_WINDOW - 1])


async def sweep(run: Running) -> None:
    """Answer a click at NOW_MS, commit it, then let a whole sweep go by."""
    run.put(record(1_000, session_id="new"))
    await run.worker.step()
    run.intake.mark_committed(run.intake.committable())
    await run.worker.step()
    await run.worker.step()


@on_a_loop
async def test_ended_sessions_are_deleted_and_get_tombstones(table: StateTable, faust_table: faust.Table) -> None:
    table.write({(0, b"old"): session(3, event_ms=ENDED_MS), (0, b"young"): session(4)})
    async with running(table, sweep_interval_s=1e-6) as run:
        await sweep(run)
        assert [key for key, _ in table.scan(0, b"", 100)] == [b"new", b"young"]
        assert [(found.key, found.value) for found in run.sent(CHANGELOG)][1:] == [(b"old", None)]
        assert run.scrape.get_sample_value("nextclick_sessions_expired_total") == 1
        assert run.scrape.get_sample_value("nextclick_sessions_active") == 2
    changelog = faust_table.changelog_topic.get_topic_name()
    assert faust_table.data.persisted_offset(TP(changelog, 0)) == 1


@on_a_loop
async def test_clicks_are_answered_while_a_sweep_is_under_way(table: StateTable) -> None:
    async with running(table, sweep_interval_s=1e-6) as run:
        for offset in range(3):
            run.put(record(offset))
            await run.worker.step()
        assert run.answered() == [0, 1, 2]


@on_a_loop
async def test_a_rebalance_waits_for_the_tombstones_of_a_sweep(table: StateTable) -> None:
    table.write({(0, b"old"): session(3, event_ms=ENDED_MS)})
    producer = FakeProducer()
    async with running(table, producer, sweep_interval_s=1e-6, delivery_timeout_s=0.2) as run:
        run.put(record(1_000, session_id="new"))
        await run.worker.step()
        run.intake.mark_committed(run.intake.committable())
        producer.hold_back(CHANGELOG)
        answering = asyncio.create_task(steps(run))
        await eventually(lambda: len(run.sent(CHANGELOG)) == 2, "the tombstone is on its way")
        waiting = asyncio.create_task(run.intake.wait_until_idle())
        await asyncio.sleep(0)
        assert not waiting.done()
        with pytest.raises(DeliveryError):
            await answering
        await waiting


@on_a_loop
async def test_it_is_ready_while_it_runs_and_has_partitions(table: StateTable) -> None:
    async with running(table) as run:
        run.version.refused["v9"] = "damaged"
        is_ready, detail = run.worker.readiness()
        assert is_ready
        assert detail == {
            "running": True,
            "recovering": False,
            "partitions": [0, 1],
            "version": "v1",
            "refused": {"v9": "damaged"},
        }
        run.intake.close()
        assert not run.worker.readiness()[0]
        run.intake.assign([0])
    assert not run.worker.readiness()[0]


@on_a_loop
async def test_it_is_not_ready_while_states_are_restored(table: StateTable) -> None:
    restoring = [True]
    async with running(table, is_recovering=lambda: restoring[0]) as run:
        run.worker.assigned()
        is_ready, detail = run.worker.readiness()
        assert not is_ready
        assert detail["recovering"]
        await run.worker.step()
        assert run.scrape.get_sample_value("nextclick_recovery_seconds") == 0
        restoring[0] = False
        assert run.worker.readiness()[0]
        await run.worker.step()
        assert run.scrape.get_sample_value("nextclick_recovery_seconds") > 0


@on_a_loop
async def test_states_of_a_topic_that_was_made_anew_are_refused_instead_of_taking_its_clicks_for_replays(
    table: StateTable,
) -> None:
    async with running(table) as run:
        run.put(record(1_000))
        await run.worker.step()
    async with running(table, end_offset=lambda _partition: 4) as run:
        run.put(record(3))
        with pytest.raises(AnotherTopicError, match=r"offset 1000 of partition 0 .* ends at 4: .*WORKER__APP_ID"):
            await run.worker.step()
        assert run.answered() == []


@on_a_loop
async def test_a_dead_letter_too_long_for_its_topic_is_cut_and_says_so(table: StateTable) -> None:
    async with running(table) as run:
        run.put(SourceRecord(0, 0, NOW_MS, b"s", b"x" * (MOST_DEAD_BYTES + 1)))
        await run.worker.step()
        (letter,) = run.sent(TOPICS.dead_letters)
        assert letter.value == b"x" * MOST_DEAD_BYTES
        assert dict(letter.headers)["nextclick.error.bytes"] == str(MOST_DEAD_BYTES + 1).encode()


@on_a_loop
async def test_it_lives_until_its_first_step_and_while_steps_follow_each_other(
    table: StateTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(table) as run:
        assert run.worker.liveness() == (True, {})
        run.put(record(0))
        await run.worker.step()
        assert run.worker.liveness()[0]
        longest_s = WorkerSettings().delivery_timeout_s + STALLED_S
        later_s = time.monotonic() + longest_s + 1
        with monkeypatch.context() as patched:
            patched.setattr("stream.worker.time", SimpleNamespace(monotonic=lambda: later_s))
            is_live, detail = run.worker.liveness()
        assert not is_live
        assert detail["seconds_since_last_step"] == pytest.approx(longest_s + 1, abs=0.9)


@on_a_loop
async def test_stopping_waits_for_the_batch_in_flight(table: StateTable) -> None:
    async with running(table) as run:
        run.put(record(0))
        (in_flight,) = await run.intake.take(1, timeout_s=0)
        stopping = asyncio.create_task(run.worker.stop())
        for _ in range(5):
            await asyncio.sleep(0)
        assert run.producer.running
        run.intake.finish([in_flight])
        await stopping
        assert (run.producer.running, run.version.running) == (False, False)


@on_a_loop
async def test_an_assignment_is_counted_and_its_recovery_timed(table: StateTable) -> None:
    async with running(table) as run:
        assert run.scrape.get_sample_value("nextclick_assigned_partitions") == 2
        run.put(record(0))
        await run.worker.step()
        assert (run.scrape.get_sample_value("nextclick_recovery_seconds") or 0) > 0
