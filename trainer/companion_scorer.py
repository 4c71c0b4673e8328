"""The network and its companion, scored offline as they serve, and the weights that suit held-out clicks best."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.clicks import Sessions
from model.companion import HISTORY, Mixing
from model.mixing import mixture_ranks
from model.ranking import RankingMetrics, Ties
from model.transitions import Neighbours
from trainer.evaluate import NetworkScorer

CUTOFF = 20
GRID: dict[str, tuple[float, ...]] = {
    "repeat": (0.0, 0.05, 0.1, 0.2, 0.4, 0.8),
    "forward": (0.0, 0.1, 0.2, 0.4, 0.8, 1.6),
    "backward": (0.0, 0.1, 0.2, 0.4, 0.8),
    "last": (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2),
    "fade": (0.5, 0.65, 0.8, 0.9),
    "temper": (0.85, 1.0, 1.15, 1.3),
}
_SWEEPS = 2


@dataclass(frozen=True)
class CompanionScorer(NetworkScorer):
    """Ranks by the mixture of `model.mixing`.

    Raises:
        ValueError: Seen items are to be left out, which the mixture cannot.
    """

    neighbours: Neighbours
    mixing: Mixing

    def __post_init__(self) -> None:
        if self.removes_seen:
            raise ValueError("the companion scores items of the session itself: it cannot leave out seen items")

    def _ranks(
        self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor, targets: Tensor, ties: Ties
    ) -> NDArray[np.int64]:
        histories = histories_at(sessions, places)
        return mixture_ranks(scores.cpu(), targets.cpu().numpy(), histories, self.neighbours, self.mixing, ties)


@dataclass(frozen=True)
class FittedMixing:
    """Weights, and what they change on the clicks that they were chosen on.

    Attributes:
        mixing: The weights.
        cases: How many clicks they were chosen on.
        network: Metrics of the network alone.
        mixture: Metrics with the companion.
    """

    mixing: Mixing
    cases: int
    network: dict[str, float]
    mixture: dict[str, float]


@dataclass(frozen=True)
class _Cases(NetworkScorer):
    """Keeps what it is asked to rank, in the order in which it is asked."""

    scores: list[Tensor] = field(default_factory=list)
    targets: list[NDArray[np.int64]] = field(default_factory=list)
    histories: list[NDArray[np.int64]] = field(default_factory=list)

    def _ranks(
        self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor, targets: Tensor, ties: Ties
    ) -> NDArray[np.int64]:
        self.scores.append(scores.cpu())
        self.targets.append(targets.cpu().numpy())
        self.histories.append(histories_at(sessions, places))
        return super()._ranks(sessions, places, scores, targets, ties)


def histories_at(sessions: Sessions, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the session up to each place, int64 [c, L] as `model.mixing.mix` takes it."""
    begins = sessions.offsets[np.searchsorted(sessions.offsets, places, side="right") - 1]
    columns = places[:, None] - np.arange(HISTORY - 1, -1, -1)
    return np.where(columns >= begins[:, None], sessions.items[np.maximum(columns, 0)], -1)


def fit_mixing(
    network: NetworkScorer,
    neighbours: Neighbours,
    sessions: Sessions,
    *,
    most_cases: int = 4000,
    start: Mixing | None = None,
) -> FittedMixing:
    """Choose the weights by coordinate search on Recall@20 + MRR@20; deterministic.

    Args:
        network: What the companion goes with; it must not have learned from the sessions.
        neighbours: Counted without the sessions, or repeats of the very same pair look better than they are.
        sessions: Held-out sessions of rows.
        most_cases: Clicks to choose on, spread evenly; memory is this times N float32 scores.
        start: Where to begin.

    Raises:
        ValueError: No click can be ranked.
    """
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    places = np.flatnonzero(counted)
    some = places[np.linspace(0, len(places) - 1, min(most_cases, len(places))).astype(np.int64)]
    counted[:] = False
    counted[some] = True
    cases = _Cases(network.network)
    cases.next_click_ranks(sessions, counted, "conservative")
    if not cases.scores:
        raise ValueError(f"{len(sessions)} sessions hold no click that the network can rank")
    scores = torch.cat(cases.scores)
    targets, histories = np.concatenate(cases.targets), np.concatenate(cases.histories)

    def metrics(mixing: Mixing) -> dict[str, float]:
        found = mixture_ranks(scores, targets, histories, neighbours, mixing)
        return RankingMetrics.from_ranks(found, (CUTOFF,)).to_dict()

    best = start or Mixing()
    reached = metrics(best)
    for _ in range(_SWEEPS):
        for name, values in GRID.items():
            for value in values:
                if (name == "repeat" and value < -best.last) or (name == "last" and value < -best.repeat):
                    continue
                tried = replace(best, **{name: value})
                got = metrics(tried)
                if _worth(got) > _worth(reached):
                    best, reached = tried, got
    alone = Mixing(temper=1.0, forward=0.0, backward=0.0, last=0.0, repeat=0.0)
    return FittedMixing(mixing=best, cases=len(targets), network=metrics(alone), mixture=reached)


def _worth(metrics: dict[str, float]) -> float:
    return metrics[f"recall@{CUTOFF}"] + metrics[f"mrr@{CUTOFF}"]
