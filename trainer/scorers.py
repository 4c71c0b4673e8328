"""What ranks the next click offline, as it would serve.

Shape letters: S sessions of a chunk, N items, E input width, W state width, L clicks of a history, n clicks, c counted
ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.clicks import Sessions
from model.companion import HISTORY, Companion
from model.gru4rec import GRU4Rec
from model.mixing import mixture_ranks
from model.ranking import UNRANKED, Ties, ranks
from model.seen import without_seen

_SESSIONS = 256
_MOST_SCORES = 1 << 24  # 64 MiB of float32 at a time


class Scorer(Protocol):
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
            network = self.network.ready()
            for start in range(0, len(sessions), _SESSIONS):
                self._play(network, sessions, longest_first[start : start + _SESSIONS], counted, ties, found=found)
        return found[counted]

    def _play(
        self,
        network: GRU4Rec,
        sessions: Sessions,
        chunk: NDArray[np.int64],
        counted: NDArray[np.bool_],
        ties: Ties,
        *,
        found: NDArray[np.int64],
    ) -> None:
        """Play a chunk of sessions in step, the longest first, and fill in the ranks of their counted clicks.

        Args:
            network: `ready`.
            sessions: As in `next_click_ranks`.
            chunk: int64 [S], which of them.
            counted: As there.
            ties: As there.
            found: int64 [n], one for each of `sessions.items`.
        """
        table = network.input_table
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
            embedded = network.inputs(torch.from_numpy(rows[known]).to(table.device))
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
        return ranks(self._ranked(sessions, places, scores), targets, ties).cpu().numpy()

    def _ranked(self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor) -> Tensor:
        """Return scores with minus infinity for what is left out of the ranking."""
        return without_seen(scores, sessions, places + 1) if self.removes_seen else scores

    def _affordable(self, lanes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Cut lanes into pieces whose scores of all items fit in memory."""
        most = max(1, _MOST_SCORES // max(1, self.network.item_count))
        for start in range(0, len(lanes), most):
            yield lanes[start : start + most]


@dataclass(frozen=True)
class CompanionScorer(NetworkScorer):
    """Ranks by the mixture of `model.mixing`.

    Attributes:
        companion: What is mixed with the network's scores.
    """

    companion: Companion

    def _ranks(
        self, sessions: Sessions, places: NDArray[np.int64], scores: Tensor, targets: Tensor, ties: Ties
    ) -> NDArray[np.int64]:
        companion = self.companion
        return mixture_ranks(
            scores.cpu(),
            targets.cpu().numpy(),
            histories_at(sessions, places),
            companion.neighbours,
            companion.mixing,
            ties,
            ranked=self._ranked(sessions, places, scores).cpu(),
        )


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


def scorer_of(network: GRU4Rec, companion: Companion | None, *, removes_seen: bool = False) -> NetworkScorer:
    """Return what ranks as a version of these serves."""
    if companion is None:
        return NetworkScorer(network, removes_seen=removes_seen)
    return CompanionScorer(network, companion, removes_seen=removes_seen)


def histories_at(sessions: Sessions, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the session up to each place, int64 [c, L] as `model.mixing.mix` takes it."""
    begins = sessions.offsets[np.searchsorted(sessions.offsets, places, side="right") - 1]
    columns = places[:, None] - np.arange(HISTORY - 1, -1, -1)
    return np.where(columns >= begins[:, None], sessions.items[np.maximum(columns, 0)], -1)
