import numpy as np
import pytest

from model.intervals import bootstrap_interval


def test_equal_values_leave_nothing_open() -> None:
    bounds = bootstrap_interval(np.full(50, 0.3), np.arange(50), np.random.default_rng(0))
    assert bounds == pytest.approx((0.3, 0.3))


def test_independent_cases_have_the_interval_of_the_normal_distribution() -> None:
    """1.96 standard errors on either side; the odds of missing by a tenth of the width are below one in a thousand."""
    generator = np.random.default_rng(1)
    values = generator.normal(size=4000)
    low, high = bootstrap_interval(values, np.arange(4000), generator)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert low == pytest.approx(values.mean() - half, abs=0.2 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.2 * half)


def test_cases_of_one_session_count_as_one() -> None:
    """Twenty-five equal cases a session say no more than one of them: the interval is that of the sessions."""
    values = np.random.default_rng(2).normal(size=100)
    once = bootstrap_interval(values, np.arange(100), np.random.default_rng(3))
    repeated = bootstrap_interval(np.repeat(values, 25), np.repeat(np.arange(100), 25), np.random.default_rng(3))
    assert repeated == pytest.approx(once)


def test_no_cases_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no cases"):
        bootstrap_interval(np.empty(0), np.empty(0, dtype=np.int64), np.random.default_rng(0))
