"""How well the next click is foreseen: every position of every session, all items ranked.

Shape letters: S sessions of a chunk, N items, E input width, W state width, n clicks, c counted ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.popularity_baseline import PopularityBaseline, PopularitySettings
from model.baselines.scorer import BaselineScorer
from model.clicks import Sessions
from model.gru4rec import GRU4Rec
from model.ranking import UNRANKED, RankingMetrics, Ties, ranks
from model.seen import without_seen
from model.vocabulary import Vocabulary
from trainer.protocols import Protocol

_SESSIONS = 256
_MOST_SCORES = 1 << 24  # 64 MiB of float32 at a time


class Scorer(Interface):
    """Ranks what was clicked next."""

    def next_click_ranks(self, sessions: Sessions, counted: NDArray[np.bool_], ties: Ties) -> NDArray[np.int64]:
        """Return the 1-based ranks of the counted clicks, int64 [c], in the order of `sessions.items`.

        Args:
            sessions: Of rows; a row that the scorer does not know, -1 included, tells it nothing.
            counted: bool [n], which of `sessions.items` to rank; never the first click of a session.
            ties: See `model.ranking.ranks`.
        """


@dataclass(frozen=True)
class NetworkScorer:
    """A network that plays each session from a zero state, as serving does.

    Attributes:
        network: On the device to score on.
        removes_seen: Whether items that the session has clicked already are left out of the ranking.
    """

    network: GRU4Rec
    removes_seen: bool = field(default=False, kw_only=True)

    def next_click_ranks(self, sessions: Sessions, counted: NDArray[np.bool_], ties: Ties) -> NDArray[np.int64]:
        """See `Scorer`."""
        found = np.full(len(counted), UNRANKED, dtype=np.int64)
        longest_first = np.argsort(-sessions.lengths, kind="stable")
        with torch.inference_mode():
            for start in range(0, len(sessions), _SESSIONS):
                self._play(sessions, longest_first[start : start + _SESSIONS], counted, ties, found)
        return found[counted]

    def _play(
        self,
        sessions: Sessions,
        chunk: NDArray[np.int64],
        counted: NDArray[np.bool_],
        ties: Ties,
        found: NDArray[np.int64],
    ) -> None:
        """Play a chunk of sessions in step, the longest first, and fill in the ranks of their counted clicks."""
        network, table = self.network, self.network.input_table
        state = table.new_zeros(len(chunk), network.state_width)  # [S, W]
        x = table.new_zeros(len(chunk), table.shape[1])  # [S, E], of the last known item
        begun = np.zeros(len(chunk), dtype=np.bool_)
        begins, lengths = sessions.offsets[chunk], sessions.lengths[chunk]
        for position in range(int(lengths.max(initial=0)) - 1):
            playing = int(np.searchsorted(-lengths, -(position + 1)))  # those with a click after this one
            places = begins[:playing] + position
            rows = sessions.items[places]
            known = np.flatnonzero((rows >= 0) & (rows < network.item_count))
            lanes = torch.from_numpy(known).to(table.device)
            embedded = table.index_select(0, torch.from_numpy(rows[known]).to(table.device))
            state.index_copy_(0, lanes, network.advance(embedded, state.index_select(0, lanes)))
            x.index_copy_(0, lanes, embedded)
            begun[known] = True
            targets = sessions.items[places + 1]
            asked = np.flatnonzero(
                counted[places + 1] & begun[:playing] & (targets >= 0) & (targets < network.item_count)
            )
            for some in self._affordable(asked):
                lanes = torch.from_numpy(some).to(table.device)
                query = network.query(state.index_select(0, lanes), x.index_select(0, lanes))
                wanted = torch.from_numpy(targets[some]).to(table.device)
                found[places[some] + 1] = self._ranks(sessions, places[some], network.score_all(query), wanted, ties)

    def _ranks(
        self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor, targets: Tensor, ties: Ties
    ) -> NDArray[np.int64]:
        """Return the ranks of the clicks after those at the given places of `sessions.items`."""
        if self.removes_seen:
            scores = without_seen(scores, sessions, places + 1)
        return ranks(scores, targets, ties).cpu().numpy()

    def _affordable(self, lanes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut lanes into pieces whose scores of all items fit in memory."""
        most = max(1, _MOST_SCORES // max(1, self.network.item_count))
        for start in range(0, len(lanes), most):
            yield lanes[start : start + most]


@dataclass(frozen=True)
class PopularityScorer:
    """Ranks by clicks in the past, whatever the session.

    Attributes:
        counts: int64 [N], of every row.
    """

    counts: NDArray[np.int64]

    def next_click_ranks(self, sessions: Sessions, counted: NDArray[np.bool_], ties: Ties) -> NDArray[np.int64]:
        """See `Scorer`."""
        rising = np.sort(self.counts)
        if ties == "conservative":
            rank_of_row = len(rising) - np.searchsorted(rising, self.counts, side="left")
        else:
            rank_of_row = len(rising) - np.searchsorted(rising, self.counts, side="right") + 1
        rows = sessions.items[counted]
        known = (rows >= 0) & (rows < len(self.counts))
        found = np.full(len(rows), UNRANKED, dtype=np.int64)
        found[known] = rank_of_row[rows[known]]
        return found


def evaluate(
    network: GRU4Rec,
    vocabulary: Vocabulary,
    protocol: Protocol,
    *,
    ks: Sequence[int] = (1, 5, 10, 20),
    ties: Ties = "conservative",
    removes_seen: bool = False,
) -> dict[str, dict[str, float]]:
    """Compare a network with popularity on the same clicks, ranked among all items of the vocabulary.

    Args:
        network: On the device to score on.
        vocabulary: Its items.
        protocol: What popularity counts, and which clicks are ranked.
        ks: Cut-offs.
        ties: See `model.ranking.ranks`.
        removes_seen: Whether items that the session has clicked already are left out of the ranking.

    Returns:
        `{"gru4rec": {"cases": ..., "recall@20": ..., "mrr@20": ..., "ndcg@20": ...}, "popularity": {...}}`
    """
    sessions, counted = protocol.cases(vocabulary)
    trained = vocabulary.rows(protocol.train.item_ids)[protocol.train.item]
    counts = np.bincount(trained[trained >= 0], minlength=len(vocabulary))
    popularity = PopularityBaseline(PopularitySettings(), torch.from_numpy(counts.astype(np.float32)))
    scorers: dict[str, Scorer] = {
        "gru4rec": NetworkScorer(network, removes_seen=removes_seen),
        "popularity": BaselineScorer(popularity, removes_seen=removes_seen),
    }
    return {name: summary(scorer.next_click_ranks(sessions, counted, ties), ks) for name, scorer in scorers.items()}


def summary(found: NDArray[np.int64], ks: Sequence[int]) -> dict[str, float]:
    """Return the number of cases and their metrics by name."""
    metrics = RankingMetrics.from_ranks(found, ks)
    return {"cases": float(metrics.cases), **metrics.to_dict()}
