import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.catalogue import Catalogue, PackedCatalogue, PlainCatalogue, catalogue_of
from model.integer_search import ITEMS_PER_TILE, QUERIES_PER_BLOCK
from model.kernels.packing import HAS_FOURS, ITEMS, QUERIES

TILE = ITEMS_PER_TILE
BLOCK = QUERIES_PER_BLOCK


def both(vectors: torch.Tensor, bias: torch.Tensor) -> tuple[Catalogue, Catalogue]:
    return PackedCatalogue(vectors, bias), PlainCatalogue(vectors, bias)


def drawn(items: int, queries: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(  # type: ignore[return-value]
        torch.randn(shape, generator=generator) for shape in ((items, width), (items,), (queries, width))
    )


def assert_same_answers(
    vectors: torch.Tensor, bias: torch.Tensor, queries: torch.Tensor, k: int, temper: float | None = None
) -> None:
    packed, plain = both(vectors, bias)
    found, expected = packed.best(queries, k, temper), plain.best(queries, k, temper)
    scores = (queries.double() @ vectors.double().T + bias.double()).numpy()
    largest = np.abs(scores).max(initial=1.0)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=3e-6 * largest)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(scores, found.rows.astype(np.int64), axis=1), rtol=0, atol=3e-6 * largest
    )
    assert all(len(set(line)) == len(line) for line in found.rows.tolist())
    np.testing.assert_allclose(found.log_sums, expected.log_sums, rtol=0, atol=(1e-4 if HAS_FOURS else 5e-4) * largest)


@settings(max_examples=60, deadline=None)
@given(
    items=st.integers(1, 3 * TILE),
    queries=st.integers(1, 3 * QUERIES),
    width=st.integers(1, 40),
    k=st.integers(1, 30),
    size=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_the_best_are_those_of_all_scores(items: int, queries: int, width: int, k: int, size: float) -> None:
    vectors, bias, asked = drawn(items, queries, width, seed=items * queries)
    assert_same_answers(vectors * size, bias, asked, k)


@pytest.mark.parametrize("items", [1, ITEMS, ITEMS + 1, TILE - 1, TILE, TILE + 1, 5 * TILE + 3])
@pytest.mark.parametrize("queries", [1, QUERIES, QUERIES + 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_tiles_and_blocks_that_are_not_full_count_as_much(items: int, queries: int) -> None:
    assert_same_answers(*drawn(items, queries, 12), k=20, temper=0.9)


def test_vectors_of_very_unlike_lengths_are_told_apart() -> None:
    """One vector a thousand times as long leaves the others ten of their sixteen bits, and ranks change with less."""
    vectors, bias, queries = drawn(2000, 40, 32)
    vectors[7] *= 1000
    assert_same_answers(vectors, bias, queries, 20)


def test_items_too_near_to_tell_apart_in_integers_are_ranked_in_float32() -> None:
    vectors, bias, queries = drawn(600, 30, 16)
    crowd = vectors[:1] + torch.randn(600, 16, generator=torch.Generator().manual_seed(1)) * 1e-5
    packed, plain = both(crowd, bias * 0)
    found, expected = packed.best(queries, 5), plain.best(queries, 5)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=2e-6)
    assert np.mean(found.rows == expected.rows) > 0.9


def test_equal_items_and_a_query_of_nothing_have_equal_scores() -> None:
    packed, _ = both(torch.ones(300, 8), torch.zeros(300))
    best = packed.best(torch.cat([torch.ones(1, 8), torch.zeros(1, 8)]), 4, 1.0)
    assert best.scores.tolist() == [[8.0] * 4, [0.0] * 4]
    np.testing.assert_allclose(best.log_sums, [8 + np.log(300), np.log(300)], rtol=1e-4)
    assert all(len(set(line)) == 4 for line in best.rows.tolist())


def test_vectors_of_nothing_leave_the_bias() -> None:
    packed, _ = both(torch.zeros(40, 6), torch.arange(40.0))
    assert packed.best(torch.ones(1, 6), 3).rows.tolist() == [[39, 38, 37]]


def test_scores_far_below_zero_still_have_a_log_sum() -> None:
    vectors, _, queries = drawn(400, 6, 8)
    assert_same_answers(vectors, torch.full((400,), -500.0), queries, 5, temper=2.0)


def test_no_query_has_no_answer() -> None:
    for catalogue in both(torch.ones(3, 2), torch.zeros(3)):
        best = catalogue.best(torch.empty(0, 2), 2)
        assert (best.rows.shape, best.scores.shape, best.log_sums.shape) == ((0, 2), (0, 2), (0,))


def test_items_on_the_cpu_are_packed_and_may_have_no_bias() -> None:
    vectors, _, queries = drawn(50, 4, 6)
    catalogue = catalogue_of(vectors, None)
    assert isinstance(catalogue, PackedCatalogue)
    np.testing.assert_allclose(catalogue.best(queries, 1).scores[:, 0], (queries @ vectors.T).amax(1), rtol=1e-5)


def test_what_it_answers_from_is_not_changed() -> None:
    vectors, bias, queries = drawn(200, 9, 10)
    before = vectors.clone(), bias.clone(), queries.clone()
    PackedCatalogue(vectors, bias).best(queries, 5, 1.0)
    assert all(torch.equal(now, was) for now, was in zip((vectors, bias, queries), before, strict=True))
