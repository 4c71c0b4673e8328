"""The serving face: states and clicks in, states and the best items out. Pure; no input or output.

Shape letters: S sessions, C clicks of a micro-batch, W state width, D embedding width, E input width, N items,
L clicks of a history, k items asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import as_floats, catalogue_of
from model.companion import Companion, histories_of
from model.gru4rec import EMBEDDING, ITEM_BIAS, GRU4Rec
from model.mixing import Mixer, histories_after
from model.playing import player_of
from model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Played:
    """What the sessions of a micro-batch clicked, for a version with a companion.

    Attributes:
        before: int64 [S, L], each session's newest rows before the batch, as `model.companion.histories_of` has them.
        counts: bool [C], false for a click that is in its session's history already.
    """

    before: NDArray[np.int64]
    counts: NDArray[np.bool_]

    @classmethod
    def anew(cls, sessions: int) -> "Played":
        """Return the first click of each of as many sessions."""
        return cls(histories_of([()] * sessions), np.ones(sessions, dtype=np.bool_))


@dataclass(frozen=True)
class Forward:
    """What a micro-batch of clicks leads to; k' = min(k, N).

    Attributes:
        states: float32 [S, W], after all clicks.
        top_rows: int32 [C, k'], the best rows after each click, best first.
        scores: float32 [C, k'], their scores: the network's, or the mixture's where there is a companion.
        known: bool [C], whether the click's session has a known item up to that click; where not, its row of
            `top_rows` comes from a zero state and means little.
    """

    states: NDArray[np.float32]
    top_rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    known: NDArray[np.bool_]


class Recommender:
    """One version, ready to serve, in one thread at a time. The network's tensors must not be changed afterwards.

    Args:
        network: The weights.
        vocabulary: Its items.
        version: Its name.
        device: Where micro-batches are scored.
        companion: What is mixed with the network's answers; None for the network alone.
        lasting_items: How many of its rows mean the same item for as long as this version serves; by default all. The
            next refresh may give the others another meaning.

    Raises:
        ValueError: Network and vocabulary do not have the same number of items, or none.
    """

    def __init__(
        self,
        network: GRU4Rec,
        vocabulary: Vocabulary,
        version: str,
        device: torch.device | str = "cpu",
        companion: Companion | None = None,
        *,
        lasting_items: int | None = None,
    ) -> None:
        if not network.item_count == len(vocabulary) > 0:
            raise ValueError(f"the network has {network.item_count} items and the vocabulary {len(vocabulary)}")
        self.vocabulary = vocabulary
        self.version = version
        self.companion = companion
        self.lasting_items = len(vocabulary) if lasting_items is None else lasting_items
        self._device = torch.device(device)
        self._network = network.to(self._device)
        self._player = player_of(self._network, self._device)
        self._catalogue = catalogue_of(
            self._network.as_compared(self._network.parameters[EMBEDDING]), self._network.parameters.get(ITEM_BIAS)
        )
        self._mixer = None if companion is None else Mixer(self._catalogue, companion)

    @property
    def state_width(self) -> int:
        """W, the number of float32 values that a session carries."""
        return self._network.state_width

    def encode(self, histories: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Return the states after each history from a zero state, float32 [S, W].

        Args:
            histories: Known rows of each session, oldest first; an empty one gives zeros.
        """
        lengths = np.fromiter(map(len, histories), np.int64, len(histories))
        slots = np.repeat(np.arange(len(histories)), lengths)
        rows = np.fromiter(chain.from_iterable(histories), np.int64, len(slots))
        nothing = np.zeros((len(histories), self.state_width), dtype=np.float32)
        return self._player.play(nothing, np.full(len(histories), -1), slots, rows).states

    def forward(
        self,
        states: NDArray[np.float32],
        last_rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        rows: NDArray[np.int64],
        k: int,
        *,
        played: Played | None = None,
    ) -> Forward:
        """Apply a micro-batch of clicks and return the best items after each; no input is changed.

        The n-th known click of a session is computed in wave n: one GRU step per wave, then one scoring over all
        clicks. A click on an unknown item leaves the state as it was.

        Args:
            states: float32 [S, W], before the first click; zeros for a new session.
            last_rows: int64 [S], row of each session's last known item, -1 for none.
            slots: int64 [C], each click's session as a place in `states`; clicks stand in order of arrival.
            rows: int64 [C], each click's item, -1 for an unknown one.
            k: How many items to return.
            played: What the sessions clicked; a version without a companion does not look at it.

        Raises:
            ValueError: A version with a companion is not told what the sessions clicked.
        """
        reached = self._player.play(states, last_rows, slots, rows)
        queries = reached.queries
        if self._mixer is None or self.companion is None:
            best = self._catalogue.best(queries, k)
            top_rows, scores = best.rows, self._activated(best.scores)
        elif played is None:
            raise ValueError(f"version {self.version} has a companion, which needs the histories of the sessions")
        else:
            histories = histories_after(played.before, slots, rows, played.counts)
            best = self._catalogue.best(queries, k, self.companion.mixing.temper)
            top_rows, scores = self._mixer.mix(best, as_floats(queries), histories)
        return Forward(reached.states, top_rows, scores, reached.known)

    def _activated(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._network.settings.activation == "linear":
            return scores
        return self._network.activated(torch.from_numpy(scores)).numpy()
