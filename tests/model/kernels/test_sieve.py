from typing import Any

import numpy as np
import pytest

from model.kernels.compiling import compiled
from model.kernels.sieve import HAS_PERMUTATION, SIFTED, sifted, sifted_one_by_one, sifted_permuted


@compiled
def at_once(scores: Any, rows: Any, bar: Any, kept_scores: Any, kept_rows: Any) -> int:
    count = 0
    for at in range(0, len(scores), SIFTED):
        count += sifted(scores, at, rows, at, bar, kept_scores, kept_rows, count)
    return count


@compiled
def permuted(scores: Any, rows: Any, bar: Any, kept_scores: Any, kept_rows: Any) -> int:
    count = 0
    for at in range(0, len(scores), SIFTED):
        count += sifted_permuted(scores, at, rows, at, bar, kept_scores, kept_rows, count)
    return count


@compiled
def one_by_one(scores: Any, rows: Any, bar: Any, kept_scores: Any, kept_rows: Any) -> int:
    count = 0
    for at in range(0, len(scores), SIFTED):
        count += sifted_one_by_one(scores, at, rows, at, bar, kept_scores, kept_rows, count)
    return count


needs_permutation = pytest.mark.skipif(not HAS_PERMUTATION, reason="no permutation of lanes here")
WAYS = pytest.mark.parametrize("sift", [at_once, pytest.param(permuted, marks=needs_permutation), one_by_one])


def drawn(chunks: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(chunks)
    scores = rng.normal(size=chunks * SIFTED).astype(np.float32)
    scores[rng.integers(len(scores), size=4)] = np.nan
    return scores, rng.integers(1 << 30, size=len(scores)).astype(np.int32)


@WAYS
@pytest.mark.parametrize("bar", [-np.inf, -0.3, 0.0, 1.7, 9.0, np.inf, np.nan])
@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_what_beats_the_bar_stands_side_by_side_in_order(sift: Any, chunks: int, bar: float) -> None:
    scores, rows = drawn(chunks)
    kept_scores, kept_rows = np.zeros(len(scores) + SIFTED, np.float32), np.zeros(len(scores) + SIFTED, np.int32)
    count = sift(scores, rows, np.float32(bar), kept_scores, kept_rows)
    expected = scores > bar  # never, for what is not a number
    assert count == expected.sum()
    assert kept_scores[:count].tolist() == scores[expected].tolist()
    assert kept_rows[:count].tolist() == rows[expected].tolist()


@WAYS
def test_no_more_than_was_sifted_is_overwritten(sift: Any) -> None:
    scores, rows = drawn(1)
    kept, kept_rows = np.full(2 * SIFTED, 7, np.float32), np.full(2 * SIFTED, 7, np.int32)
    sift(scores, rows, np.float32(0.5), kept, kept_rows)
    assert (kept[SIFTED:] == 7).all()
    assert (kept_rows[SIFTED:] == 7).all()


@WAYS
def test_values_may_be_sifted_where_they_lie(sift: Any) -> None:
    scores, rows = drawn(6)
    expected = scores[scores > 0.2].tolist(), rows[scores > 0.2].tolist()
    count = sift(scores, rows, np.float32(0.2), scores, rows)
    assert (scores[:count].tolist(), rows[:count].tolist()) == expected
