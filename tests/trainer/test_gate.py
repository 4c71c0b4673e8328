import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.gate import judge

EACH_ITS_OWN = np.arange(1000)


def ranks(generator: np.random.Generator, hit_rate: float, cases: int = 1000) -> NDArray[np.int64]:
    """Return ranks of which a share of `hit_rate` are 1 and all others 100."""
    return np.where(generator.random(cases) < hit_rate, 1, 100)


def test_a_better_candidate_is_published_with_the_figures_of_both() -> None:
    generator = np.random.default_rng(0)
    verdict = judge(ranks(generator, 0.6), ranks(generator, 0.4), EACH_ITS_OWN, confidence=0.95, margin=0.0)
    assert verdict.publish
    assert verdict.metrics["cases"] == 1000
    assert verdict.metrics["recall@20"] > verdict.metrics["incumbent_recall@20"]
    assert verdict.metrics["recall@20_difference_lower"] > 0.1


def test_a_worse_candidate_is_refused_and_the_reason_names_what_fell() -> None:
    generator = np.random.default_rng(0)
    verdict = judge(ranks(generator, 0.4), ranks(generator, 0.6), EACH_ITS_OWN, confidence=0.95, margin=0.05)
    assert not verdict.publish
    assert "recall@20 and mrr@20 must differ by at least -0.05" in verdict.reason


def test_a_candidate_that_only_orders_worse_is_refused_for_mrr_alone() -> None:
    verdict = judge(np.full(1000, 2), np.ones(1000, dtype=np.int64), EACH_ITS_OWN, confidence=0.95, margin=0.05)
    assert not verdict.publish
    assert verdict.reason.startswith("mrr@20 must")


def test_an_equal_candidate_passes_the_margin_and_does_not_win() -> None:
    same = ranks(np.random.default_rng(0), 0.5)
    assert judge(same, same, EACH_ITS_OWN, confidence=0.95, margin=0.0).publish
    assert not judge(same, same, EACH_ITS_OWN, confidence=0.95, margin=0.0, must_win=True).publish


def test_pairing_sees_a_small_difference_that_two_independent_samples_would_hide() -> None:
    incumbent = ranks(np.random.default_rng(0), 0.5)
    candidate = incumbent.copy()
    candidate[np.flatnonzero(incumbent > 20)[:20]] = 1  # two points better, unpaired error 2.2 points
    assert judge(candidate, incumbent, EACH_ITS_OWN, confidence=0.95, margin=0.0, must_win=True).publish


def test_copies_of_cases_in_their_own_session_add_no_confidence() -> None:
    generator = np.random.default_rng(0)
    candidate, incumbent = ranks(generator, 0.5), ranks(generator, 0.5)
    once = judge(candidate, incumbent, EACH_ITS_OWN, confidence=0.95, margin=0.0)
    four_times = judge(
        np.repeat(candidate, 4), np.repeat(incumbent, 4), np.repeat(EACH_ITS_OWN, 4), confidence=0.95, margin=0.0
    )
    for name in ("recall@20_difference_lower", "mrr@20_difference_lower"):
        assert four_times.metrics[name] == pytest.approx(once.metrics[name])


def test_the_bound_lies_under_the_true_difference_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    below = 0
    for _ in range(400):
        # Sessions of four cases that share their luck, the worst kind of dependence.
        candidate, incumbent = (np.repeat(ranks(generator, rate, 250), 4) for rate in (0.5, 0.45))
        session = np.repeat(np.arange(250), 4)
        verdict = judge(candidate, incumbent, session, confidence=0.9, margin=0.0)
        below += verdict.metrics["recall@20_difference_lower"] < 0.05
    # Binomial(400, 0.9) has mean 360 and deviation 6: outside 342..378 once in 370 seeds.
    assert 342 <= below <= 378


def test_one_session_proves_nothing() -> None:
    one_session = np.zeros(1000, dtype=np.int64)
    verdict = judge(np.full(1000, 1), np.full(1000, 100), one_session, confidence=0.95, margin=0.05)
    assert not verdict.publish


@pytest.mark.parametrize(("ours", "theirs", "sessions"), [(0, 0, 0), (3, 4, 3), (3, 3, 4)])
def test_cases_that_do_not_pair_are_an_error(ours: int, theirs: int, sessions: int) -> None:
    ones = np.ones(9, dtype=np.int64)
    with pytest.raises(ValueError, match="as many ranks"):
        judge(ones[:ours], ones[:theirs], ones[:sessions], confidence=0.95, margin=0.0)
