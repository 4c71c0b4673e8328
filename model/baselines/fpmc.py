"""FPMC: a factorised Markov chain over items, and the taste of the user where the user is known.

Shape letters: B histories or examples of a mini-batch, L longest basket, N items, U users, D factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.contract import OnProgress, VectorBaseline, mean_vectors, require_sessions, require_tensors, silent
from model.baselines.histories import Histories, Integers, spans, starts_of
from model.clicks import Sessions

_USERS, _WANTED = "user_to_item", "item_from_user"
_NEXT, _LAST = "item_from_last", "last_to_item"


@dataclass(frozen=True)
class FPMCSettings:
    """The recipe. The paper tunes all of it per data set; these defaults are ours, for sessions of clicks.

    Attributes:
        factors: D, the same for both parts.
        basket: How many of the last clicks are the basket that the next one follows.
        learning_rate: Step of plain stochastic gradient descent.
        regularisation: Weight of the L2 penalty on every factor used.
        initial_scale: Standard deviation of the factors at the start.
        epochs: Passes; one is as many draws as there are transitions.
        batch_size: Draws whose gradients are added up before a step. The paper steps after each.

    Raises:
        ValueError: A value is out of range.
    """

    factors: int = 64
    basket: int = 1
    learning_rate: float = 0.05
    regularisation: float = 0.001
    initial_scale: float = 0.1
    epochs: int = 100
    batch_size: int = 256

    def __post_init__(self) -> None:
        if min(self.factors, self.basket, self.epochs, self.batch_size) < 1:
            raise ValueError(f"factors, basket, epochs and batch_size must be at least 1, got {self}")
        if self.learning_rate <= 0 or self.regularisation < 0:
            raise ValueError(f"learning_rate > 0 and regularisation >= 0 are needed, got {self}")


@dataclass(frozen=True)
class Examples:
    """What one step learns from.

    Attributes:
        users: int64 [B], -1 for an unknown one.
        baskets: int64 [B, L], filled up behind each.
        is_in_basket: float [B, L], 1 where there is a click, 0 where it was filled up; every basket has one.
        clicked: int64 [B], the next click.
        others: int64 [B], an item that was not it.
    """

    users: Tensor
    baskets: Tensor
    is_in_basket: Tensor
    clicked: Tensor
    others: Tensor


class FPMC(VectorBaseline):
    """Scores item i for user u after basket T as <user_u, item_i> + mean over l in T of <last_l, item_i>.

    The two parts have item factors of their own. Without users the first part is missing, and an unknown user gets
    nothing from it. Learned by S-BPR: with x the score of the clicked item minus that of an item drawn uniformly,
    -log sigmoid(x) + regularisation / 2 * (the squares of all factors used) is minimised over transitions drawn with
    replacement. A history's baskets are single clicks, so a basket here is its last `basket` clicks.

    Source: Rendle, Freudenthaler & Schmidt-Thieme 2010, "Factorizing Personalized Markov Chains for Next-Basket
    Recommendation"; what users and last items have to say to each other is left out, as it is the same for every item.
    """

    kind = "fpmc"
    settings_type = FPMCSettings

    def __init__(self, settings: FPMCSettings, factors: Mapping[str, Tensor]) -> None:
        """Take float32 [N, D] for the items' factors and [U, D] for the users', see `to_tensors`."""
        self.settings = settings
        self.window = settings.basket
        self.item_count = len(factors[_NEXT])
        self._factors = dict(factors)
        self._item_vectors = torch.cat([factors[name] for name in (_NEXT, _WANTED) if name in factors], dim=1)

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: FPMCSettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
        *,
        users: Integers | None = None,
    ) -> Self:
        """See `Baseline.fit`.

        Args:
            sessions: See there.
            item_count: See there.
            settings: See there.
            generator: See there.
            on_progress: See there.
            users: int64 [S], the user of each session, numbered from 0, -1 for an unknown one; None for nobody known.
        """
        require_sessions(sessions, item_count)
        sizes = {_NEXT: item_count, _LAST: item_count}
        if users is not None:
            sizes |= {_WANTED: item_count, _USERS: int(users.max(initial=-1)) + 1}
        factors = {name: _normal((size, settings.factors), settings, generator) for name, size in sizes.items()}
        transitions = _transitions(sessions, users)
        steps = -(-len(transitions) // settings.batch_size)
        for epoch in range(settings.epochs):
            drawn = torch.randint(len(transitions), (len(transitions),), generator=generator, device=generator.device)
            for step, start in enumerate(range(0, len(transitions), settings.batch_size)):
                places = drawn[start : start + settings.batch_size]
                descend(factors, transitions.examples(places, item_count, settings.basket, generator), settings)
                on_progress(epoch * steps + step + 1, settings.epochs * steps)
        return cls(settings, factors)

    def encode(self, histories: Histories) -> Tensor:
        """Return a basket's mean factors and, where there are users, the user's behind: float32 [B, D] or [B, 2D]."""
        means = mean_vectors(self._factors[_LAST], histories.latest(self.settings.basket))
        if _USERS not in self._factors:
            return means
        tastes = torch.zeros_like(means)
        if histories.users is not None:
            users = torch.from_numpy(histories.users).to(means.device)
            known = (users >= 0) & (users < len(self._factors[_USERS]))
            tastes[known] = self._factors[_USERS][users[known]]
        return torch.cat([means, tastes], dim=1)

    @property
    def item_vectors(self) -> Tensor:
        """See `VectorBaseline`; as wide as `encode`."""
        return self._item_vectors

    def to_tensors(self) -> dict[str, Tensor]:
        """See `Baseline`."""
        return dict(self._factors)

    @classmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """See `Baseline`."""
        item_count, width = len(tensors.get(_NEXT, ())), settings.factors
        expected: dict[str, tuple[int | None, int]] = {_NEXT: (None, width), _LAST: (item_count, width)}
        if _USERS in tensors:
            expected |= {_USERS: (None, width), _WANTED: (item_count, width)}
        require_tensors(tensors, {name: (shape, torch.float32) for name, shape in expected.items()})
        return cls(settings, tensors)


@torch.no_grad()
def descend(factors: dict[str, Tensor], examples: Examples, settings: FPMCSettings) -> None:
    """Take one step down the gradient of a mini-batch's summed loss, in place; see `FPMC` for the loss."""
    clicked, others, present = examples.clicked, examples.others, examples.is_in_basket
    last = factors[_LAST][examples.baskets] * present[:, :, None]  # [B, L, D]
    share = present / present.sum(dim=1, keepdim=True)
    context = (last * share[:, :, None]).sum(dim=1)
    i, j = factors[_NEXT][clicked], factors[_NEXT][others]
    margin = (context * (i - j)).sum(dim=1)
    known = torch.nonzero(examples.users >= 0).squeeze(1) if _USERS in factors else examples.users[:0]
    if len(known):
        taste = factors[_USERS][examples.users[known]]
        wanted_i, wanted_j = factors[_WANTED][clicked[known]], factors[_WANTED][others[known]]
        margin[known] += (taste * (wanted_i - wanted_j)).sum(dim=1)
    pull = torch.sigmoid(-margin)[:, None]  # minus the derivative of the loss
    rate, shrink = settings.learning_rate, settings.regularisation
    factors[_NEXT].index_add_(0, clicked, pull * context - shrink * i, alpha=rate)
    factors[_NEXT].index_add_(0, others, -pull * context - shrink * j, alpha=rate)
    change = (pull * (i - j))[:, None, :] * share[:, :, None] - shrink * last
    factors[_LAST].index_add_(0, examples.baskets.flatten(), change.flatten(0, 1), alpha=rate)
    if len(known):
        pull = pull[known]
        factors[_USERS].index_add_(0, examples.users[known], pull * (wanted_i - wanted_j) - shrink * taste, alpha=rate)
        factors[_WANTED].index_add_(0, clicked[known], pull * taste - shrink * wanted_i, alpha=rate)
        factors[_WANTED].index_add_(0, others[known], -pull * taste - shrink * wanted_j, alpha=rate)


@dataclass(frozen=True)
class _Transitions:
    """Every click that follows another of its session: [T] each.

    Attributes:
        places: int64 [T], place of the click in `items`.
        within: int64 [T], how many clicks of the session came before it.
        users: int64 [T]
        items: int64 [n], of all sessions.
    """

    places: Integers
    within: Integers
    users: Integers
    items: Integers

    def __len__(self) -> int:
        return len(self.places)

    def examples(self, which: Tensor, item_count: int, basket: int, generator: torch.Generator) -> Examples:
        """Return the transitions chosen, each with an item drawn from all but the one clicked."""
        device = which.device
        chosen = which.cpu().numpy()
        before = np.minimum(self.within[chosen], basket)
        rows, is_row = _before(self.items, self.places[chosen], before)
        clicked = torch.from_numpy(self.items[self.places[chosen]]).to(device)
        skip = torch.randint(1, max(item_count, 2), (len(chosen),), generator=generator, device=device)
        return Examples(
            users=torch.from_numpy(self.users[chosen]).to(device),
            baskets=torch.from_numpy(rows).to(device),
            is_in_basket=torch.from_numpy(is_row.astype(np.float32)).to(device),
            clicked=clicked,
            others=(clicked + skip) % item_count,
        )


def _transitions(sessions: Sessions, users: Integers | None) -> _Transitions:
    within = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    places = np.flatnonzero(within > 0)
    session_users = np.full(len(sessions), -1, dtype=np.int64) if users is None else users
    return _Transitions(places, within[places], np.repeat(session_users, sessions.lengths)[places], sessions.items)


def _before(items: Integers, places: Integers, lengths: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return the `lengths` items before each place as a rectangle, see `Histories.padded`."""
    flat = spans(places - lengths, lengths)
    return Histories(items[flat], starts_of(lengths)).padded()


def _normal(shape: tuple[int, int], settings: FPMCSettings, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device) * settings.initial_scale
