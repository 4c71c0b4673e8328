from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batches import session_parallel
from model.clicks import Sessions
from model.negatives import PopularitySampler

COUNTS = np.array([0, 1, 1000, 3, 50, 0, 7, 200, 2, 0])


def sampler(
    alpha: float, *, counts: Sequence[float] = COUNTS.tolist(), seed: int = 1, block: int = 1000
) -> PopularitySampler:
    return PopularitySampler(counts, alpha, torch.Generator().manual_seed(seed), block_size=block)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_items_are_drawn_as_often_as_their_probability_says(alpha: float) -> None:
    weights = COUNTS.astype(np.float64) ** alpha
    probabilities = weights / weights.sum()
    draws = 200_000
    drawn = np.bincount(sampler(alpha).sample(draws).numpy(), minlength=len(COUNTS))
    # Five standard deviations for each of ten items: for another seed the odds of a false alarm are about 6e-6.
    allowed = 5 * np.sqrt(draws * probabilities * (1 - probabilities))
    assert np.all(np.abs(drawn - draws * probabilities) <= allowed)
    np.testing.assert_allclose(sampler(alpha).probabilities, probabilities, rtol=1e-12)


@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=20).filter(any),
    alpha=st.floats(0.1, 1),
    seed=st.integers(0, 99),
)
def test_items_that_were_never_clicked_are_never_drawn(counts: list[int], alpha: float, seed: int) -> None:
    drawn = sampler(alpha, counts=counts, seed=seed).sample(200).tolist()
    assert all(counts[row] > 0 for row in drawn)


def test_alpha_zero_draws_items_without_clicks_too() -> None:
    # 1,000 draws that miss one of ten equal items: odds 10 * 0.9^1000, about 2e-45.
    assert set(sampler(0.0).sample(1000).tolist()) == set(range(10))


@pytest.mark.parametrize("counts", [[5.0], [1, 2, 3], COUNTS.tolist(), list(range(1, 1001))])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_item_owns_a_share_of_the_interval_as_wide_as_its_probability(counts: list[float], alpha: float) -> None:
    """The distribution itself, not a sample of it: where each item's share of [0, 1) begins and ends."""
    found = sampler(alpha, counts=counts)
    bounds = np.concatenate([[0.0], found._cumulative.numpy()])
    weights = np.array(counts, dtype=np.float64) ** alpha
    np.testing.assert_allclose(np.diff(bounds), weights / weights.sum(), rtol=0, atol=1e-15)
    assert bounds[-1] == 1
    inside = np.flatnonzero(np.diff(bounds))
    middles = torch.from_numpy((bounds[inside] + bounds[inside + 1]) / 2)
    assert torch.searchsorted(found._cumulative, middles, right=True).tolist() == inside.tolist()


def test_alpha_zero_makes_all_items_alike() -> None:
    assert sampler(0.0).probabilities.tolist() == [0.1] * 10


def test_asking_for_no_samples_gives_none_and_leaves_the_generator_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    samples = PopularitySampler(COUNTS, 0.5, generator, block_size=0).sample(0)
    assert (samples.tolist(), samples.dtype) == ([], torch.int64)
    assert torch.equal(generator.get_state(), before)


def test_negatives_of_the_mini_batch_alone_come_as_often_as_items_are_clicked_next() -> None:
    """Without samples a row's negatives are the other rows' targets: over an epoch exactly in proportion to clicks."""
    items = np.random.default_rng(1).choice(6, size=600, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05])
    nothing = np.zeros(100, dtype=np.int64)
    sessions = Sessions(items.astype(np.int64), np.arange(0, 601, 6), nothing, nothing)
    steps = [step for step in session_parallel(sessions, 10) if len(step.targets) == 10]
    targets = np.array([step.targets for step in steps])
    negatives = np.array([np.delete(step.targets, row) for step in steps for row in range(10)])
    assert len(steps) == 50, "100 sessions of 5 transitions in 10 lanes leave no lane idle"
    assert np.bincount(negatives.ravel()).tolist() == (9 * np.bincount(targets.ravel())).tolist()
    assert np.bincount(targets.ravel()).tolist() == np.bincount(items.reshape(100, 6)[:, 1:].ravel()).tolist()


def test_samples_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = sampler(0.5, block=100).sample(100)
    parts = sampler(0.5, block=100)
    assert torch.equal(torch.cat([parts.sample(count) for count in (1, 60, 0, 39)]), whole)


def test_request_that_outruns_the_block_draws_a_new_one() -> None:
    parts = sampler(0.5, block=10)
    assert [len(parts.sample(count)) for count in (7, 7, 25, 3)] == [7, 7, 25, 3]


def test_same_seed_gives_the_same_samples_and_another_seed_others() -> None:
    samples = [sampler(0.5, seed=seed).sample(50) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_samples_are_rows() -> None:
    assert sampler(0.5).sample(3).dtype == torch.int64


@pytest.mark.parametrize("counts", [[1, -1], [1, float("nan")], [float("inf")]])
def test_impossible_counts_are_refused(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        sampler(0.5, counts=counts)


@pytest.mark.parametrize("counts", [[], [0, 0]])
def test_counts_without_a_click_are_refused(counts: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one item"):
        sampler(0.5, counts=counts)
