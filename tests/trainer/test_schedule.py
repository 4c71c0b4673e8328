import pytest

from trainer.schedule import Schedule


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def schedule(clock: FakeClock, *, round_clicks: int | None = 100, interval_s: float | None = 60.0) -> Schedule:
    return Schedule(
        round_clicks=round_clicks,
        round_interval_s=interval_s,
        first_round_clicks=30,
        retry_wait_s=lambda failures: min(8.0, 2.0**failures),
        clock=clock,
    )


def test_the_first_round_starts_at_its_own_number_of_clicks() -> None:
    waiting = schedule(FakeClock())
    assert not waiting.is_due(29)
    assert waiting.is_due(30)


def test_the_first_round_waits_for_its_own_number_even_where_later_ones_need_fewer() -> None:
    waiting = schedule(FakeClock(), round_clicks=10)
    assert not waiting.is_due(29)
    waiting.started(30)
    assert waiting.is_due(40)


def test_later_rounds_start_after_that_many_new_clicks() -> None:
    waiting = schedule(FakeClock())
    waiting.started(30)
    assert not waiting.is_due(129)
    assert waiting.is_due(130)


def test_a_round_starts_after_the_interval_however_few_clicks_there_are() -> None:
    clock = FakeClock()
    waiting = schedule(clock)
    waiting.started(30)
    clock.now_s += 59.9
    assert not waiting.is_due(30)
    clock.now_s += 0.1
    assert waiting.is_due(30)


def test_the_interval_runs_from_the_start_of_the_last_round() -> None:
    clock = FakeClock()
    waiting = schedule(clock)
    waiting.started(30)
    clock.now_s += 40
    waiting.ended()
    clock.now_s += 20
    assert waiting.is_due(30)


def test_without_an_interval_only_clicks_start_a_round() -> None:
    clock = FakeClock()
    waiting = schedule(clock, interval_s=None)
    waiting.started(30)
    clock.now_s += 10**6
    assert not waiting.is_due(129)
    assert waiting.is_due(130)


def test_without_a_number_of_clicks_only_the_interval_starts_a_later_round() -> None:
    clock = FakeClock()
    waiting = schedule(clock, round_clicks=None)
    waiting.started(30)
    assert not waiting.is_due(10**6)
    clock.now_s += 60
    assert waiting.is_due(10**6)


def test_a_refused_round_is_not_tried_again_on_the_same_clicks() -> None:
    waiting = schedule(FakeClock())
    waiting.started(130)
    waiting.ended()
    assert not waiting.is_due(130)


def test_a_failed_round_is_tried_again_after_waits_that_double_up_to_the_longest() -> None:
    clock = FakeClock()
    waiting = schedule(clock)
    waits_s = []
    for _ in range(5):
        waiting.started(30)
        waits_s.append(waiting.failed())
        clock.now_s += waits_s[-1] - 0.1
        assert not waiting.is_due(10**6)
        clock.now_s += 0.1
        assert waiting.is_due(30)
    assert waits_s == [1, 2, 4, 8, 8]


def test_a_round_that_could_be_held_ends_the_growing_of_waits() -> None:
    waiting = schedule(FakeClock())
    waiting.failed()
    waiting.failed()
    waiting.ended()
    assert waiting.failures == 0
    assert waiting.failed() == pytest.approx(1)
