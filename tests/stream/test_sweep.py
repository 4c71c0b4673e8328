import pytest

from stream.intake import Intake
from stream.session import Session
from stream.state_table import StateTable
from stream.sweep import SLICE_RECORDS, Sweep, SweptSlice
from tests.stream.builders import IDLE_MS, NOW_MS, session

ENDED_MS = NOW_MS - IDLE_MS - 1


@pytest.fixture
def intake() -> Intake:
    """Both partitions assigned, clicks below offset 1,000 committed."""
    intake = Intake(10)
    intake.assign([0, 1])
    intake.mark_committed({0: 1_000, 1: 1_000})
    return intake


@pytest.fixture
def sweep(table: StateTable, intake: Intake) -> Sweep:
    """Both partitions have heard of NOW_MS."""
    sweep = Sweep(table, intake, IDLE_MS)
    for partition in (0, 1):
        sweep.heard(partition, NOW_MS, NOW_MS)
    return sweep


def sessions(partition: int, count: int, event_ms: int) -> dict[tuple[int, bytes], Session]:
    made = session(partition=partition, event_ms=event_ms)
    return {(partition, b"%05d-%d" % (place, event_ms)): made for place in range(count)}


def whole(sweep: Sweep) -> list[SweptSlice]:
    """Sweep all partitions once, deleting what may go."""
    slices = []
    sweep.begin()
    while sweep.under_way:
        slices.append(sweep.next_slice())
        sweep.table.delete(slices[-1].partition, slices[-1].keys)
    return slices


def test_ended_sessions_of_every_partition_may_go_and_others_stay(table: StateTable, sweep: Sweep) -> None:
    ended = sessions(0, 3, ENDED_MS) | sessions(1, 2, ENDED_MS)
    table.write(ended | sessions(0, 2, NOW_MS) | sessions(1, 1, NOW_MS - IDLE_MS))
    slices = whole(sweep)
    assert {(part.partition, key) for part in slices for key in part.keys} == ended.keys()
    assert [part.finished for part in slices] == [None, 3]


def test_a_session_as_old_as_the_idle_time_stays(table: StateTable, sweep: Sweep) -> None:
    table.write(sessions(0, 1, NOW_MS - IDLE_MS))
    assert whole(sweep)[0].keys == []


def test_a_session_whose_click_is_not_committed_stays(table: StateTable, intake: Intake, sweep: Sweep) -> None:
    table.write({(0, b"below"): session(999, event_ms=ENDED_MS), (0, b"at"): session(1_000, event_ms=ENDED_MS)})
    assert whole(sweep)[0].keys == [b"below"]
    intake.mark_committed({0: 1_001})
    assert whole(sweep)[0].keys == [b"at"]


def test_nothing_goes_before_the_first_commit_of_an_assignment(table: StateTable, intake: Intake, sweep: Sweep) -> None:
    table.write(sessions(0, 3, ENDED_MS))
    intake.assign([0, 1])
    assert [part.keys for part in whole(sweep)] == [[], []]


def test_a_partition_without_clicks_keeps_its_sessions(table: StateTable, intake: Intake) -> None:
    table.write(sessions(0, 3, ENDED_MS))
    assert [part.keys for part in whole(Sweep(table, intake, IDLE_MS))] == [[], []]


def test_clicks_of_one_partition_do_not_end_the_sessions_of_another(table: StateTable, intake: Intake) -> None:
    table.write(sessions(0, 1, ENDED_MS) | sessions(1, 1, ENDED_MS))
    sweep = Sweep(table, intake, IDLE_MS)
    sweep.heard(1, NOW_MS, NOW_MS)
    assert [len(part.keys) for part in whole(sweep)] == [0, 1]


def test_a_click_from_the_future_ends_nothing_before_its_time(table: StateTable, sweep: Sweep) -> None:
    table.write(sessions(0, 1, NOW_MS))
    sweep.heard(0, NOW_MS + 10 * IDLE_MS, NOW_MS)
    assert whole(sweep)[0].keys == []


def test_a_large_partition_is_swept_in_slices(table: StateTable, sweep: Sweep) -> None:
    count = 2 * SLICE_RECORDS + 500
    table.write(sessions(0, count, ENDED_MS) | sessions(0, 5, NOW_MS))
    table.set_persisted_offset(0, 3)
    slices = whole(sweep)
    assert sum(len(part.keys) for part in slices) == count
    assert max(len(part.keys) for part in slices) <= SLICE_RECORDS
    assert [part.partition for part in slices] == [0, 0, 0, 1]
    assert slices[-1].finished == 5


@pytest.mark.parametrize("count", [SLICE_RECORDS - 2, SLICE_RECORDS - 1, SLICE_RECORDS, SLICE_RECORDS + 1])
@pytest.mark.parametrize("has_offset", [False, True], ids=["", "with Faust's own record"])
def test_no_session_is_missed_at_the_edge_of_a_slice(
    table: StateTable,
    sweep: Sweep,
    count: int,
    has_offset: bool,  # noqa: FBT001
) -> None:
    # Behind Faust's own key, which begins with an underscore, so that it takes a place in the first slice.
    table.write({(0, b"z" + key): made for (_, key), made in sessions(0, count, ENDED_MS).items()})
    if has_offset:
        table.set_persisted_offset(0, 3)
    assert sum(len(part.keys) for part in whole(sweep)) == count


def test_a_sweep_goes_on_while_sessions_are_written(table: StateTable, sweep: Sweep) -> None:
    table.write(sessions(0, SLICE_RECORDS + 10, ENDED_MS))
    sweep.begin()
    table.delete(0, sweep.next_slice().keys)
    table.write(sessions(0, 3, NOW_MS) | {(0, b"zzz"): session(event_ms=ENDED_MS)})
    assert b"zzz" in sweep.next_slice().keys


def test_beginning_again_does_not_start_a_sweep_under_way_over(table: StateTable, sweep: Sweep) -> None:
    table.write(sessions(0, SLICE_RECORDS + 10, ENDED_MS))
    sweep.begin()
    first = sweep.next_slice()
    sweep.begin()
    assert not set(sweep.next_slice().keys) & set(first.keys)


def test_a_new_assignment_ends_a_sweep_under_way(table: StateTable, intake: Intake, sweep: Sweep) -> None:
    table.write(sessions(0, SLICE_RECORDS + 10, ENDED_MS))
    sweep.begin()
    sweep.next_slice()
    intake.assign([1])
    assert not sweep.under_way
    assert {part.partition for part in whole(sweep)} == {1}


def test_no_sweep_begins_between_two_assignments(intake: Intake, sweep: Sweep) -> None:
    intake.close()
    sweep.begin()
    assert not sweep.under_way
