import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.waves import plan_waves

# Clicks as (session, row), -1 for an unknown item.
click_lists = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 5)), max_size=30)


@given(clicks=click_lists, last_rows=st.lists(st.integers(-1, 5), min_size=4, max_size=4))
def test_states_computed_in_waves_are_those_of_one_click_at_a_time(
    clicks: list[tuple[int, int]], last_rows: list[int]
) -> None:
    """A state is a tuple of what was applied to it, so that any click left out, doubled or misplaced shows."""
    slots, rows = np.array(clicks, dtype=np.int64).reshape(-1, 2).T
    waves = plan_waves(np.array(last_rows), slots, rows)

    places: list[tuple[int, ...]] = [(100 + session,) for session in range(4)]
    sizes = np.diff(waves.bounds).tolist()
    for start, size in zip(waves.bounds[:-1], sizes, strict=True):
        # Everything in a wave is computed at once, from what lay there before it.
        for place in range(start, start + size):
            assert waves.before[place] < 4 + start
        places += [(*places[waves.before[place]], int(waves.clicks[place])) for place in range(start, start + size)]

    state = dict(enumerate(places[:4]))
    newest = dict(enumerate(last_rows))
    for click, (session, row) in enumerate(clicks):
        if row >= 0:
            state[session] = (*state[session], click)
            newest[session] = row
        assert places[waves.after_click[click]] == state[session]
        assert waves.last_row[click] == newest[session]
    assert [places[place] for place in waves.after_all] == list(state.values())


def test_sessions_of_one_click_each_take_one_wave() -> None:
    waves = plan_waves(np.full(5, -1), np.array([3, 0, 4]), np.array([7, 8, 9]))
    assert waves.bounds == [0, 3]


def test_unknown_items_make_no_wave() -> None:
    waves = plan_waves(np.full(2, -1), np.array([0, 0, 1, 0]), np.array([-1, 4, -1, -1]))
    assert waves.bounds == [0, 1]
    assert waves.clicks.tolist() == [1]
