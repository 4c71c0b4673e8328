import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.vocabulary import Vocabulary
from stream.json_arrays import DECIMALS, items_as_json, scores_as_json


@given(
    st.lists(
        st.lists(st.floats(-(2.0**36), 2.0**36, width=32), min_size=3, max_size=3),
        max_size=5,
    )
)
def test_numbers_read_back_are_the_rounded_ones(lines: list[list[float]]) -> None:
    scores = np.array(lines, dtype=np.float32).reshape(-1, 3)
    found = [msgspec.json.decode(line, type=list[float]) for line in scores_as_json(scores)]
    expected = np.round(scores.astype(np.float64), DECIMALS)
    np.testing.assert_allclose(np.array(found).reshape(-1, 3), expected, rtol=1e-12, atol=1.01e-5)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, b"0.0"),
        (-0.0, b"0.0"),
        (1.0, b"1.0"),
        (0.5, b"0.5"),
        (0.00001, b"0.00001"),
        (0.000001, b"0.0"),
        (-0.000001, b"0.0"),
        (0.10001, b"0.10001"),
        (-12.25, b"-12.25"),
        (1234567.0, b"1234567.0"),
        (0.999999, b"1.0"),
    ],
)
def test_a_number_is_written_without_an_exponent_or_needless_zeros(score: float, text: bytes) -> None:
    assert scores_as_json(np.array([[score, 2.0]], dtype=np.float32)) == [b"[" + text + b",2.0]"]


def test_numbers_too_large_for_that_are_numbers_all_the_same() -> None:
    (line,) = scores_as_json(np.array([[3e38, -1e13]], dtype=np.float32))
    assert msgspec.json.decode(line) == pytest.approx([3e38, -1e13])


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=8, unique=True), st.data())
def test_items_read_back_are_those_of_the_rows(item_ids: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[st.integers(0, len(item_ids) - 1)] * 3), max_size=4))
    table = np.array(rows, dtype=np.int32).reshape(-1, 3)
    found = [msgspec.json.decode(line) for line in items_as_json(table, Vocabulary(item_ids).json_ids)]
    assert found == [[item_ids[row] for row in line] for line in rows]


def test_no_answers_and_empty_answers() -> None:
    assert scores_as_json(np.empty((0, 4), dtype=np.float32)) == []
    assert scores_as_json(np.empty((2, 0), dtype=np.float32)) == [b"[]", b"[]"]
