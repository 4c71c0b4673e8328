"""BPR-MF: matrix factorisation learned from pairs, a clicked item against one that was not.

Shape letters: B histories or examples of a mini-batch, N items, S sessions, D factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.contract import OnProgress, VectorBaseline, mean_vectors, require_sessions, require_tensors, silent
from model.baselines.histories import Histories
from model.clicks import Sessions

_ITEMS, _BIAS = "item_factors", "item_bias"


@dataclass(frozen=True)
class BPRMFSettings:
    """The recipe; the defaults are those of the GRU4Rec authors' code for session data, but for rate and epochs.

    They took 10 epochs of steps of 0.01 over 30 million clicks; over a hundred thousand clicks that learns little
    more than popularity.

    Attributes:
        factors: D.
        learning_rate: Step of plain stochastic gradient descent.
        regularisation: Weight of the L2 penalty, the same for sessions and items.
        initial_scale: Factors start uniform within plus and minus this.
        epochs: Passes; one is as many draws as there are clicks.
        batch_size: Draws whose gradients are added up before a step. The paper steps after each.

    Raises:
        ValueError: A value is out of range.
    """

    factors: int = 80
    learning_rate: float = 0.05
    regularisation: float = 0.0
    initial_scale: float = 0.05
    epochs: int = 100
    batch_size: int = 256

    def __post_init__(self) -> None:
        if min(self.factors, self.epochs, self.batch_size) < 1:
            raise ValueError(f"factors, epochs and batch_size must be at least 1, got {self}")
        if self.learning_rate <= 0 or self.regularisation < 0:
            raise ValueError(f"learning_rate > 0 and regularisation >= 0 are needed, got {self}")


class BPRMF(VectorBaseline):
    """Scores an item by the product of its factors with the session's, plus its bias.

    Training learns factors for its own sessions, which no later session can use. So a history is answered with the
    mean of its items' factors in their place, as the GRU4Rec authors did: it need not have been seen, and no order is
    known.

    For a click on i in session s and an item j that s does not hold, x = u_s . (v_i - v_j) + b_i - b_j, and
    -log sigmoid(x) + regularisation / 2 * (|u_s|^2 + |v_i|^2 + |v_j|^2) is minimised. Draws whose j lies in the session
    are skipped.

    Source: Rendle et al. 2009, arXiv:1205.2618, LearnBPR with bootstrap sampling; the bias and the mean are those of
    the baseline in Hidasi et al. 2016, arXiv:1511.06939.
    """

    kind = "bpr-mf"
    settings_type = BPRMFSettings
    window = None

    def __init__(self, settings: BPRMFSettings, item_factors: Tensor, item_bias: Tensor) -> None:
        """Take float32 [N, D] and float32 [N]."""
        self.settings = settings
        self.item_count = len(item_factors)
        self._item_factors = item_factors
        self._item_bias = item_bias

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: BPRMFSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`."""
        require_sessions(sessions, item_count)
        session_of = np.repeat(np.arange(len(sessions)), sessions.lengths)
        held = np.unique(session_of * item_count + sessions.items)
        users = _uniform((len(sessions), settings.factors), settings, generator)
        items = _uniform((item_count, settings.factors), settings, generator)
        bias = torch.zeros(item_count, device=generator.device)
        steps = -(-len(sessions.items) // settings.batch_size)
        for epoch in range(settings.epochs):
            triples = _draw(sessions.items, session_of, held, item_count, generator)
            for step, start in enumerate(range(0, len(sessions.items), settings.batch_size)):
                descend(users, items, bias, triples[:, start : start + settings.batch_size], settings)
                on_progress(epoch * steps + step + 1, settings.epochs * steps)
        return cls(settings, items, bias)

    def encode(self, histories: Histories) -> Tensor:
        """Return the mean of each history's item factors, float32 [B, D]; zeros for an empty one."""
        return mean_vectors(self._item_factors, histories)

    @property
    def item_vectors(self) -> Tensor:
        """See `VectorBaseline`."""
        return self._item_factors

    @property
    def item_bias(self) -> Tensor:
        """See `VectorBaseline`."""
        return self._item_bias

    def to_tensors(self) -> dict[str, Tensor]:
        """See `Baseline`."""
        return {_ITEMS: self._item_factors, _BIAS: self._item_bias}

    @classmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """See `Baseline`."""
        item_count = len(tensors.get(_BIAS, ()))
        expected = {_ITEMS: (item_count, settings.factors), _BIAS: (None,)}
        require_tensors(tensors, {name: (shape, torch.float32) for name, shape in expected.items()})
        return cls(settings, tensors[_ITEMS], tensors[_BIAS])


@torch.no_grad()
def descend(users: Tensor, items: Tensor, bias: Tensor, triples: Tensor, settings: BPRMFSettings) -> None:
    """Take one step down the gradient of a mini-batch's summed loss, in place.

    Args:
        users: Factors of the sessions, float [S, D].
        items: float [N, D]
        bias: float [N]
        triples: int64 [3, B]: session, clicked item, and the item it is held against; the last is -1 to skip it.
        settings: Learning rate and regularisation.
    """
    user, clicked, other = triples[:, triples[2] >= 0]
    u, i, j = users[user], items[clicked], items[other]
    margin = (u * (i - j)).sum(dim=1) + bias[clicked] - bias[other]
    pull = torch.sigmoid(-margin)  # minus the derivative of the loss
    rate, shrink = settings.learning_rate, settings.regularisation
    users.index_add_(0, user, pull[:, None] * (i - j) - shrink * u, alpha=rate)
    items.index_add_(0, clicked, pull[:, None] * u - shrink * i, alpha=rate)
    items.index_add_(0, other, -pull[:, None] * u - shrink * j, alpha=rate)
    bias.index_add_(0, clicked, pull, alpha=rate)
    bias.index_add_(0, other, -pull, alpha=rate)


def _uniform(shape: tuple[int, int], settings: BPRMFSettings, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(shape, generator=generator, device=generator.device)
    return (drawn * 2 - 1) * settings.initial_scale


def _draw(
    items: NDArray[np.int64],
    session_of: NDArray[np.int64],
    held: NDArray[np.int64],
    item_count: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw as many triples as there are clicks, all clicks and all items equally likely; see `descend`."""
    count, device = len(items), generator.device
    clicks = torch.randint(count, (count,), generator=generator, device=device).cpu().numpy()
    others = torch.randint(item_count, (count,), generator=generator, device=device).cpu().numpy()
    keys = session_of[clicks] * item_count + others
    place = np.minimum(np.searchsorted(held, keys), len(held) - 1)
    others[held[place] == keys] = -1
    return torch.from_numpy(np.stack([session_of[clicks], items[clicks], others])).to(device)
