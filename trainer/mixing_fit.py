"""The weights of a mixture that suit held-out clicks best.

Only what can be among a click's best `CUTOFF` is kept of it: the items to which the companion gives something, and the
network's best others. So trying a choice of weights costs the same however many items there are.

Shape letters: n entries of all cases, T tempers of `GRID`.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.clicks import Sessions
from model.companion import HISTORY, Mixing
from model.gru4rec import GRU4Rec
from model.mixing import arrays_of
from model.ranking import UNRANKED, RankingMetrics, Ties
from model.transitions import Neighbours
from trainer.kernels.mixing import collect, rank
from trainer.scorers import NetworkScorer, histories_at

CUTOFF = 20
MOST_CASES = 8000
"""Of one network; fewer, and the weights fit what is chance."""
GRID: dict[str, tuple[float, ...]] = {
    "repeat": (0.0, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
    "forward": (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "backward": (0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "last": (-0.2, -0.1, -0.05, -0.025, 0.0, 0.025, 0.05, 0.1, 0.2),
    "fade": (0.5, 0.65, 0.8, 0.9),
    "temper": (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0, 4.0),
}
ALONE = Mixing(temper=1.0, forward=0.0, backward=0.0, last=0.0, repeat=0.0)
"""The network's own order."""
# Weights hold each other: a search that begins with strong ones ends in another place than one from none.
STARTS = (
    ALONE,
    Mixing(temper=1.0, forward=0.1, backward=0.1, last=0.0, repeat=0.1),
    Mixing(temper=1.15, forward=0.4, backward=0.4, last=0.05, repeat=0.2),
)
_MOST_SWEEPS = 3
_PARTS = ("scores", "forward", "backward", "age", "norms")


@dataclass(frozen=True)
class FittedMixing:
    """Weights, and what they change on the clicks that they were chosen on.

    Attributes:
        mixing: The weights.
        cases: How many clicks they were chosen on; 0: none could be ranked, and the weights are those to begin with.
        network: Metrics of the network alone.
        mixture: Metrics with the companion.
    """

    mixing: Mixing
    cases: int
    network: dict[str, float]
    mixture: dict[str, float]


def unseen_cases(
    network: GRU4Rec,
    neighbours: Neighbours,
    sessions: Sessions,
    *,
    counted: NDArray[np.bool_] | None = None,
    most_cases: int = MOST_CASES,
) -> "Cases":
    """Return clicks to choose weights on.

    Args:
        network: What the companion goes with; it must not have learned from the counted clicks.
        neighbours: Counted without them, or repeats of the very same pair look better than they are.
        sessions: Of rows.
        counted: bool, one for each of `sessions.items`: which clicks to choose on; by default all but each first.
        most_cases: Clicks to choose on at most, spread evenly.
    """
    if counted is None:
        counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted = counted.copy()
    counted[sessions.offsets[:-1]] = False
    places = np.flatnonzero(counted)
    some = places[np.linspace(0, max(0, len(places) - 1), min(most_cases, len(places))).astype(np.int64)]
    counted[:] = False
    counted[some] = True
    collector = _Collector(network, neighbours)
    collector.next_click_ranks(sessions, counted, "conservative")
    return Cases.joined([_NONE, *collector.kept])


def fit_mixing(cases: "Cases", start: Mixing | None = None) -> FittedMixing:
    """Choose the weights by coordinate search on Recall@20 + MRR@20; deterministic.

    Args:
        cases: What to choose on.
        start: Where to begin; by default at `STARTS`, and the best end is taken.
    """
    starts = STARTS if start is None else (start,)
    found = [_climb(cases, one) if len(cases) else one for one in starts]
    best = max(found, key=cases.worth)
    return FittedMixing(best, len(cases), network=cases.metrics(ALONE), mixture=cases.metrics(best))


def _climb(cases: "Cases", start: Mixing) -> Mixing:
    """Return the best weights that changing one after the other leads to."""
    # What is kept of a case answers for the grid's tempers alone, and `start` may be of another grid.
    best = replace(start, temper=min(GRID["temper"], key=lambda temper: abs(temper - start.temper)))
    reached = cases.worth(best)
    for _ in range(_MOST_SWEEPS):
        before = best
        for name, values in GRID.items():
            for value in values:
                if (name == "repeat" and value < -best.last) or (name == "last" and value < -best.repeat):
                    continue
                tried = replace(best, **{name: value})
                worth = cases.worth(tried)
                if worth > reached:
                    best, reached = tried, worth
        if best == before:
            break
    return best


@dataclass(frozen=True)
class Cases:
    """Clicks by what can be among their best; the entries of one case stand together.

    Attributes:
        begins: int64 [cases], where each case's entries begin.
        target: int64 [cases], place of the clicked item among the entries, -1 where it cannot be among the best.
        scores: float32 [n], the network's.
        forward: float64 [n], `model.mixing`'s F.
        backward: float64 [n], B.
        age: int8 [n], clicks since the item's last in the session, -1 where it is not in it.
        norms: float64 [cases, T], log of the sum of exp(temper s) over all items.
    """

    begins: NDArray[np.int64]
    target: NDArray[np.int64]
    scores: NDArray[np.float32]
    forward: NDArray[np.float64]
    backward: NDArray[np.float64]
    age: NDArray[np.int8]
    norms: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.begins)

    @staticmethod
    def joined(parts: "list[Cases]") -> "Cases":
        """Return all cases of at least one part, which may be of different networks."""
        moves = np.cumsum([0, *(len(part.scores) for part in parts)])
        begins = [part.begins + move for part, move in zip(parts, moves, strict=False)]
        target = [np.where(part.target >= 0, part.target + move, -1) for part, move in zip(parts, moves, strict=False)]
        others = (np.concatenate([getattr(part, name) for part in parts]) for name in _PARTS)
        return Cases(np.concatenate(begins), np.concatenate(target), *others)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return np.diff(self.begins, append=len(self.scores))

    @cached_property
    def _chances(self) -> dict[float, NDArray[np.float64]]:
        return {}

    def _softmax(self, temper: float) -> NDArray[np.float64]:
        """Return the network's chances of the entries, float64 [n]; the last are kept, as most choices share them."""
        if temper not in self._chances:
            self._chances.clear()
            norms = np.repeat(self.norms[:, GRID["temper"].index(temper)], self._lengths)
            self._chances[temper] = np.exp(temper * self.scores - norms)
        return self._chances[temper]

    def worth(self, mixing: Mixing) -> float:
        """Return Recall@20 + MRR@20."""
        metrics = self.metrics(mixing)
        return metrics[f"recall@{CUTOFF}"] + metrics[f"mrr@{CUTOFF}"]

    def metrics(self, mixing: Mixing) -> dict[str, float]:
        """Return what a choice of weights reaches."""
        repeats = np.zeros(1 + HISTORY)
        repeats[1:] = mixing.repeat * mixing.fade ** np.arange(HISTORY)
        repeats[1] += mixing.last
        entries = self._softmax(mixing.temper), self.forward, self.backward, self.age
        ranks = np.empty(len(self), dtype=np.int64)
        rank(self.begins, self.target, *entries, mixing.forward, mixing.backward, repeats, ranks)
        return RankingMetrics.from_ranks(ranks, (CUTOFF,)).to_dict()


@dataclass(frozen=True)
class _Collector(NetworkScorer):
    """Keeps what it is asked to rank, and ranks nothing."""

    neighbours: Neighbours
    kept: list[Cases] = field(default_factory=list)

    def _ranks(
        self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor, targets: Tensor, _ties: Ties
    ) -> NDArray[np.int64]:
        clicks = scores.cpu().numpy(), targets.cpu().numpy(), histories_at(sessions, places)
        self.kept.append(Cases(*collect(*clicks, *arrays_of(self.neighbours), CUTOFF, np.array(GRID["temper"]))))
        return np.full(len(places), UNRANKED)


_NONE = Cases(
    begins=np.empty(0, dtype=np.int64),
    target=np.empty(0, dtype=np.int64),
    scores=np.empty(0, dtype=np.float32),
    forward=np.empty(0),
    backward=np.empty(0),
    age=np.empty(0, dtype=np.int8),
    norms=np.empty((0, len(GRID["temper"]))),
)
