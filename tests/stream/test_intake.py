import asyncio
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.intake import Intake
from stream.records import SourceRecord
from tests.stream.event_loop import on_a_loop

SOON_S = 5.0


def records(partition: int, offsets: range) -> list[SourceRecord]:
    return [SourceRecord(partition, offset, 0, b"s", b"") for offset in offsets]


def places(taken: list[SourceRecord]) -> list[tuple[int, int]]:
    return [(record.partition, record.offset) for record in taken]


def assigned(*partitions: int, capacity: int = 100) -> Intake:
    intake = Intake(capacity)
    intake.assign(partitions)
    return intake


async def take(intake: Intake, most: int = 100) -> list[SourceRecord]:
    return await intake.take(most, timeout_s=0)


async def is_waiting(awaitable: Awaitable[object]) -> bool:
    """Whether `awaitable` still waits after the event loop has run everything that could end the wait."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(3):
        await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        return True
    await task
    return False


@on_a_loop
async def test_records_come_out_in_the_order_in_which_they_were_put() -> None:
    intake = assigned(0, 1)
    intake.put(1, records(1, range(2)))
    intake.put(0, records(0, range(1)))
    intake.put(1, records(1, range(2, 3)))
    assert places(await take(intake)) == [(1, 0), (1, 1), (0, 0), (1, 2)]


@on_a_loop
async def test_a_partial_take_leaves_the_rest_in_order() -> None:
    intake = assigned(0, 1)
    intake.put(0, records(0, range(5)))
    intake.put(1, records(1, range(2)))
    assert places(await take(intake, 2)) == [(0, 0), (0, 1)]
    assert places(await take(intake, 4)) == [(0, 2), (0, 3), (0, 4), (1, 0)]
    assert places(await take(intake)) == [(1, 1)]


@on_a_loop
async def test_a_record_fetched_twice_enters_once() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(3)))
    intake.put(0, records(0, range(5)))
    intake.put(0, records(0, range(2)))
    assert places(await take(intake)) == [(0, offset) for offset in range(5)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=12), st.integers(1, 7))
@on_a_loop
async def test_whatever_is_fetched_each_offset_comes_out_once_and_in_order(
    fetches: list[tuple[int, int]], most: int
) -> None:
    intake = assigned(0)
    taken: list[int] = []
    for start, count in fetches:
        intake.put(0, records(0, range(start, start + count)))
        taken += [record.offset for record in await take(intake, most)]
    while batch := await take(intake, most):
        taken += [record.offset for record in batch]
    assert taken == sorted(set(taken))


@on_a_loop
async def test_records_of_a_partition_that_is_not_assigned_stay_out() -> None:
    intake = assigned(0)
    intake.put(1, records(1, range(3)))
    assert await take(intake) == []


@on_a_loop
async def test_a_new_assignment_lets_records_in_again() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(3)))
    intake.assign([0, 1])
    intake.put(0, records(0, range(1, 2)))
    assert places(await take(intake)) == [(0, 1)]
    assert intake.partitions == [0, 1]


@on_a_loop
async def test_revoking_drops_what_is_queued_and_lets_nothing_in() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(3)))
    intake.revoke()
    intake.put(0, records(0, range(3, 6)))
    assert await take(intake) == []
    assert intake.partitions == []


@on_a_loop
async def test_taking_from_an_empty_intake_returns_nothing_at_the_timeout() -> None:
    assert await take(assigned(0)) == []


@on_a_loop
async def test_taking_waits_for_the_first_record() -> None:
    intake = assigned(0)
    waiting = asyncio.create_task(intake.take(100, SOON_S))
    await asyncio.sleep(0)
    intake.put(0, records(0, range(2)))
    assert places(await waiting) == [(0, 0), (0, 1)]


@on_a_loop
async def test_fetching_waits_from_the_capacity_on_and_goes_on_below_it() -> None:
    intake = assigned(0, capacity=4)
    intake.put(0, records(0, range(3)))
    assert not await is_waiting(intake.wait_for_room())
    intake.put(0, records(0, range(3, 4)))
    assert await is_waiting(intake.wait_for_room())
    intake.put(0, records(0, range(4, 5)))
    await take(intake, 1)
    assert await is_waiting(intake.wait_for_room())
    await take(intake, 1)
    assert not await is_waiting(intake.wait_for_room())


@on_a_loop
async def test_closing_makes_room() -> None:
    intake = assigned(0, capacity=1)
    intake.put(0, records(0, range(3)))
    intake.close()
    assert not await is_waiting(intake.wait_for_room())


@pytest.mark.parametrize("end", ["finish", "abandon"])
@on_a_loop
async def test_it_is_idle_but_between_a_take_and_its_end(end: str) -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(3)))
    assert not await is_waiting(intake.wait_until_idle())
    taken = await take(intake)
    assert await is_waiting(intake.wait_until_idle())
    if end == "finish":
        intake.finish(taken)
    else:
        intake.abandon()
    assert not await is_waiting(intake.wait_until_idle())


@on_a_loop
async def test_only_finished_records_may_be_committed() -> None:
    intake = assigned(0, 1)
    intake.put(0, records(0, range(5)))
    intake.put(1, records(1, range(2)))
    taken = await take(intake, 3)
    assert intake.committable() == {}
    intake.finish(taken)
    assert intake.committable() == {0: 3}
    intake.finish(await take(intake))
    assert intake.committable() == {0: 5, 1: 2}


@on_a_loop
async def test_abandoned_records_are_never_committable() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(5)))
    intake.finish(await take(intake, 2))
    await take(intake, 2)
    intake.abandon()
    assert intake.committable() == {0: 2}


@on_a_loop
async def test_what_is_committed_is_not_committed_again() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(5)))
    intake.finish(await take(intake, 2))
    intake.mark_committed({0: 2})
    assert intake.committable() == {}
    assert intake.committed(0) == 2
    intake.finish(await take(intake, 1))
    assert intake.committable() == {0: 3}


@on_a_loop
async def test_a_new_assignment_forgets_every_position() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(5)))
    intake.finish(await take(intake))
    intake.mark_committed({0: 5})
    intake.assign([0])
    assert intake.committed(0) == 0
    assert intake.done(0) is None
    assert intake.committable() == {}


@on_a_loop
async def test_a_closed_intake_lets_nothing_in_and_still_commits_what_is_done() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(5)))
    intake.finish(await take(intake, 2))
    intake.close()
    intake.put(0, records(0, range(5, 8)))
    assert await take(intake) == []
    assert intake.partitions == []
    assert intake.committable() == {0: 2}


def test_the_beginning_and_the_end_of_an_assignment_can_be_told() -> None:
    intake = assigned(0)
    during = intake.assignment
    intake.put(0, records(0, range(5)))
    assert intake.assignment == during
    intake.close()
    after = intake.assignment
    intake.assign([0])
    assert len({during, after, intake.assignment}) == 3


@on_a_loop
async def test_held_work_is_waited_for() -> None:
    intake = assigned(0)
    intake.hold()
    assert await is_waiting(intake.wait_until_idle())
    intake.finish([])
    assert not await is_waiting(intake.wait_until_idle())


@on_a_loop
async def test_a_batch_that_ends_after_its_partition_was_revoked_commits_nothing() -> None:
    intake = assigned(0)
    intake.put(0, records(0, range(5)))
    taken = await take(intake)
    intake.revoke()
    intake.finish(taken)
    assert intake.committable() == {}
