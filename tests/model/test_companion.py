import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.companion import HISTORY, Mixing, histories_of
from model.mixing import histories_after

SESSIONS = 3
BEFORE = st.lists(st.lists(st.integers(-1, 9), max_size=25), min_size=SESSIONS, max_size=SESSIONS)
CLICKS = st.lists(st.tuples(st.integers(0, SESSIONS - 1), st.integers(-1, 9), st.booleans()), max_size=60)


@given(BEFORE, CLICKS)
def test_the_history_at_each_click_of_a_batch_is_that_of_its_session_played_click_by_click(
    before: list[list[int]], clicks: list[tuple[int, int, bool]]
) -> None:
    plays, expected = [list(rows) for rows in before], []
    for slot, row, counts in clicks:
        if counts:
            plays[slot].append(row)
        expected.append(list(plays[slot]))
    slots, rows, counts = (
        np.array([click[part] for click in clicks], dtype=kind)
        for part, kind in enumerate((np.int64, np.int64, np.bool_))
    )
    found = histories_after(histories_of(before), slots, rows, counts)
    assert found.tolist() == histories_of(expected).tolist()


def test_a_history_keeps_the_newest_rows_with_the_last_in_the_last_column() -> None:
    found = histories_of([range(25), [7], []])
    assert found[0].tolist() == list(range(25 - HISTORY, 25))
    assert found[1].tolist() == [-1] * (HISTORY - 1) + [7]
    assert found[2].tolist() == [-1] * HISTORY


def test_weights_survive_the_way_through_a_manifest_and_others_are_refused() -> None:
    mixing = Mixing(forward=0.7, last=-0.02)
    assert Mixing.of(mixing.to_dict()) == mixing
    with pytest.raises(ValueError, match=r"expected the mixing weights .*'fade'.* got \['forward'\]"):
        Mixing.of({"forward": 0.5})
    with pytest.raises(ValueError, match="must be finite"):
        Mixing(forward=float("nan"))
