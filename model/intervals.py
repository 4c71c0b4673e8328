"""How sure a mean over clicks is, when clicks of one session are alike.

Shape letters: n cases, S sessions, R resamples.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_AT_ONCE = 100


def bootstrap_interval(
    values: NDArray[np.float64],
    sessions: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the bounds of the mean of `values`, by resampling whole sessions `RESAMPLES` times.

    Args:
        values: float64 [n], one of each case.
        sessions: int64 [n], which session each is of.
        generator: Draws the resamples.
        confidence: Share of resamples between the bounds, between 0 and 1.

    Raises:
        ValueError: There are no cases.

    Source: Efron 1979; the percentile interval, over clusters.
    """
    if not len(values):
        raise ValueError("no cases, so no interval")
    _, codes = np.unique(sessions, return_inverse=True)
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    means = []
    for start in range(0, RESAMPLES, _AT_ONCE):
        drawn = generator.integers(len(sums), size=(min(_AT_ONCE, RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    outside = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [outside, 1 - outside])
    return float(low), float(high)
