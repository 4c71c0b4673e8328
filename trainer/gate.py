"""May a candidate replace the incumbent? Both rank the same next clicks, which neither has seen."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

GATE_K = 20


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        publish: Whether the candidate may serve.
        reason: In words, with the figures.
        metrics: Means of both sides, and the lower bounds of their differences, by name.
    """

    publish: bool
    reason: str
    metrics: dict[str, float]


def judge(
    candidate: NDArray[np.int64],
    incumbent: NDArray[np.int64],
    session: NDArray[np.int64],
    *,
    confidence: float,
    margin: float,
    must_win: bool = False,
) -> Verdict:
    """Compare two rankings of the same next clicks, case by case.

    The candidate passes when, at the confidence given, neither Recall@20 nor MRR@20 is worse by more than the margin:
    the lower bound of the mean paired difference is at least -margin. Cases of one session depend on each other, so the
    bound treats the session as the unit.

    Args:
        candidate: int64 [n], the 1-based ranks that the candidate gave the clicked items.
        incumbent: int64 [n], those of the other side.
        session: int64 [n], which session each case is of.
        confidence: One-sided, between 0.5 and 1.
        margin: How much worse may be passed, 0.01 being one point.
        must_win: Ask for better instead: both lower bounds above zero. The margin is then not used.

    Raises:
        ValueError: There are no cases, or not equally many on both sides.
    """
    if not 0 < len(candidate) == len(incumbent) == len(session):
        raise ValueError(
            f"expected as many ranks on both sides, got {len(candidate)} and {len(incumbent)} for {len(session)} cases"
        )
    z = NormalDist().inv_cdf(confidence)
    metrics = {"cases": float(len(candidate))}
    failed = []
    for name, value in ((f"recall@{GATE_K}", _recall), (f"mrr@{GATE_K}", _reciprocal_rank)):
        ours, theirs = value(candidate), value(incumbent)
        lower = _lower_bound(ours - theirs, session, z)
        metrics |= {
            name: float(ours.mean()),
            f"incumbent_{name}": float(theirs.mean()),
            f"{name}_difference_lower": lower,
        }
        if lower < -margin if not must_win else lower <= 0:
            failed.append(name)
    wanted = "above 0" if must_win else f"at least {-margin:+.4f}"
    figures = ", ".join(
        f"{name} {metrics[name]:.4f} against {metrics[f'incumbent_{name}']:.4f}, "
        f"difference at least {metrics[f'{name}_difference_lower']:+.4f}"
        for name in (f"recall@{GATE_K}", f"mrr@{GATE_K}")
    )
    found = f"{' and '.join(failed)} must differ by {wanted}" if failed else "not worse"
    return Verdict(not failed, f"{found} ({figures}; {len(candidate)} cases)", metrics)


def _recall(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    return (ranks <= GATE_K).astype(np.float64)


def _reciprocal_rank(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(ranks <= GATE_K, 1.0 / ranks, 0.0)


def _lower_bound(difference: NDArray[np.float64], session: NDArray[np.int64], z: float) -> float:
    """Return the mean less z standard errors, with whole sessions as the independent units.

    The mean is a ratio of two sums over sessions; its variance is the usual linearisation (Cochran, Sampling
    Techniques, 3rd ed., 1977, eq. 6.13).
    """
    mean = float(difference.mean())
    _, codes = np.unique(session, return_inverse=True)
    residuals = np.bincount(codes, weights=difference - mean)
    sessions = len(residuals)
    if sessions == 1:
        return -math.inf
    variance = float((residuals**2).sum()) * sessions / (sessions - 1) / len(difference) ** 2
    return mean - z * math.sqrt(variance)
