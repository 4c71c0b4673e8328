# ruff: noqa: FBT001 - a switch that tests are given
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.integer_search import ITEMS_PER_TILE, Candidates, Items, search
from model.kernels.compiling import Floats
from model.kernels.packing import QUERIES, packed_items
from tests.model.kernels.packed import WAYS, packed_queries


def found_by(
    vectors: Floats, bias: Floats, asked: Floats, k: int, *, fours: bool, temper: float = 0.0
) -> tuple[Candidates, Floats]:
    """Return the candidates, and how far off each query's scores in integers may be."""
    queries, items = packed_queries(asked, fours=fours), packed_items(vectors)
    lengths = np.linalg.norm(asked, axis=1)
    errors = queries.errors * np.linalg.norm(vectors, axis=1).max() + (lengths + queries.errors) * items.errors.max()
    return search(queries, Items.of(items, bias), k, temper), errors + 1e-5 * lengths


def drawn(items: int, queries: int, width: int, seed: int) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    vectors, bias, asked = (rng.normal(size=shape) for shape in ((items, width), items, (queries, width)))
    return vectors.astype(np.float32), bias.astype(np.float32), asked.astype(np.float32)


@WAYS
@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, 6 * ITEMS_PER_TILE),
    queries=st.integers(1, 2 * QUERIES),
    width=st.integers(1, 60),
    k=st.integers(1, 40),
)
def test_the_best_by_exact_scores_are_among_the_candidates(
    fours: bool, items: int, queries: int, width: int, k: int
) -> None:
    vectors, bias, asked = drawn(items, queries, width, seed=items + width)
    found, _ = found_by(vectors, bias, asked, min(k, items), fours=fours)
    best = np.argsort(-(asked.astype(np.float64) @ vectors.T.astype(np.float64) + bias), axis=1)[:, : min(k, items)]
    for rows, count, expected in zip(found.rows, found.counts, best, strict=True):
        if count >= 0:
            assert set(expected.tolist()) <= set(rows[:count].tolist())
            assert len(set(rows[:count].tolist())) == count


@WAYS
def test_few_of_many_items_are_candidates(fours: bool) -> None:
    vectors, bias, asked = drawn(20_000, 30, 96, seed=1)
    found, errors = found_by(vectors, bias, asked, 20, fours=fours)
    exact = asked @ vectors.T + bias
    in_reach = (exact > np.sort(exact, axis=1)[:, [-25]] - 4 * errors[:, None]).sum(axis=1)
    assert (found.counts >= 20).all()
    assert (found.counts <= in_reach).all()
    assert found.counts.max() < (200 if fours else 250)


@WAYS
def test_more_items_within_the_error_than_can_be_held_are_given_up(fours: bool) -> None:
    rng = np.random.default_rng(0)
    vectors, _, asked = drawn(3_000, 3, 24, seed=2)
    crowd = (vectors[:1] + rng.normal(size=vectors.shape) * 1e-6).astype(np.float32)
    found, _ = found_by(crowd, np.zeros(3_000, np.float32), asked, 5, fours=fours)
    assert (found.counts == -1).all()


@WAYS
def test_of_equal_scores_without_error_any_are_the_best(fours: bool) -> None:
    vectors, _, _ = drawn(5_000, 1, 24, seed=3)
    bias = np.zeros(5_000, np.float32)
    bias[[7, 4_000]] = 1
    found, _ = found_by(vectors, bias, np.zeros((2, 24), np.float32), 10, fours=fours)
    for rows, count in zip(found.rows, found.counts, strict=True):
        assert 10 <= count < 100
        assert {7, 4_000} <= set(rows[:count].tolist())


@WAYS
def test_the_highest_score_and_the_sum_of_powers_are_those_of_all_items(fours: bool) -> None:
    vectors, bias, asked = drawn(1_000, 5, 32, seed=4)
    found, errors = found_by(vectors, bias, asked, 20, fours=fours, temper=0.7)
    exact = asked @ vectors.T + bias
    assert (np.abs(found.highest - exact.max(axis=1)) <= errors).all()
    expected = np.log(np.exp(0.7 * exact.astype(np.float64)).sum(axis=1))
    assert (np.abs(np.log(found.totals) + 0.7 * found.highest - expected) <= 0.7 * errors).all()
