"""Recommenders that have learned, measured offline by what they answer.

Shape letters: B histories, k items of an answer, N items, c cases, n clicks.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.baselines.contract import Baseline
from model.baselines.histories import Histories
from model.clicks import Sessions
from model.companion import histories_of
from model.intervals import bootstrap_interval
from model.recommender import Played, Recommender
from trainer.scorers import Scorer

CUTOFF = 20
_LOOKED_AT = 2000


class System(Protocol):
    """A recommender that has learned."""

    scorer: Scorer

    def answer(self, histories: list[list[int]]) -> NDArray[np.int32]:
        """Return the best rows after each history, int32 [B, k], best first."""

    def ready(self, history: list[int]) -> Callable[[], object]:
        """Return what answers one click: all that is known before it is prepared."""


class GRU4RecSystem:
    """A version as a worker serves it, or its network alone."""

    def __init__(self, recommender: Recommender, scorer: Scorer) -> None:
        self._recommender, self.scorer = recommender, scorer

    def _forward(self, histories: list[list[int]]) -> Callable[[], NDArray[np.int32]]:
        states = self._recommender.encode([history[:-1] for history in histories])
        before = np.array([history[-2] if len(history) > 1 else -1 for history in histories])
        slots, rows = np.arange(len(histories)), np.array([history[-1] for history in histories])
        played = Played(histories_of([history[:-1] for history in histories]), np.ones(len(histories), dtype=np.bool_))
        return lambda: self._recommender.forward(states, before, slots, rows, CUTOFF, played=played).top_rows

    def answer(self, histories: list[list[int]]) -> NDArray[np.int32]:
        """See `System`."""
        return self._forward(histories)()

    def ready(self, history: list[int]) -> Callable[[], object]:
        """See `System`."""
        return self._forward([history])


class BaselineSystem:
    """One of the systems that GRU4Rec is compared with."""

    def __init__(self, baseline: Baseline, scorer: Scorer) -> None:
        self._baseline, self.scorer = baseline, scorer

    def answer(self, histories: list[list[int]]) -> NDArray[np.int32]:
        """See `System`."""
        return self._baseline.top_k(Histories.of(histories), CUTOFF)[0]

    def ready(self, history: list[int]) -> Callable[[], object]:
        """See `System`."""
        one = Histories.of([history])
        return lambda: self._baseline.top_k(one, CUTOFF)


def intervals(ranks: NDArray[np.int64], ranked: Sessions, counted: NDArray[np.bool_], seed: int) -> dict[str, Any]:
    """Return the 95 % bounds of Recall@`CUTOFF` and MRR@`CUTOFF`, over sessions; none without cases.

    Args:
        ranks: int64 [c], of the counted clicks.
        ranked: What they were ranked in.
        counted: bool [n], which of `ranked.items` they are.
        seed: Of the resamples.
    """
    if not len(ranks):
        return {}
    session = np.repeat(np.arange(len(ranked)), ranked.lengths)[counted]
    within = (ranks <= CUTOFF).astype(np.float64)
    values = {f"recall@{CUTOFF}": within, f"mrr@{CUTOFF}": within / ranks.astype(np.float64)}
    return {
        f"{name}_interval": bootstrap_interval(value, session, np.random.default_rng(seed))
        for name, value in values.items()
    }


def histories_before(ranked: Sessions, counted: NDArray[np.bool_]) -> list[list[int]]:
    """Return what is known before some of the cases, evenly spread: rows, the newest last."""
    places = np.flatnonzero(counted)
    if not len(places):
        return []
    places = places[np.linspace(0, len(places) - 1, min(_LOOKED_AT, len(places))).astype(np.int64)]
    begins = ranked.offsets[np.searchsorted(ranked.offsets, places, side="right") - 1]
    histories = (ranked.items[begin:place] for begin, place in zip(begins, places, strict=True))
    return [known for history in histories if (known := history[history >= 0].tolist())]


def answer_metrics(answers: NDArray[np.int32], clicks: NDArray[np.int64]) -> dict[str, float]:
    """Return the share of all items that occur in some answers, and how popular the answered ones are.

    Args:
        answers: int32 [B, k], rows.
        clicks: int64 [N], how often each item was clicked.

    Returns:
        `coverage@20`, and `popularity@20`, the mean share of items that are less popular than an answered one.
    """
    less_popular = np.searchsorted(np.sort(clicks), clicks[answers]) / len(clicks)
    return {
        f"coverage@{CUTOFF}": len(np.unique(answers)) / len(clicks),
        f"popularity@{CUTOFF}": float(less_popular.mean()),
    }
