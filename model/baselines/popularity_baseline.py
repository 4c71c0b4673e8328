"""Popularity as a baseline: of all time, of late, or of the session itself. `popularity` holds the live counter.

Shape letters: B histories, N items, n clicks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from model.baselines.contract import Baseline, OnProgress, require_sessions, require_tensors, silent
from model.baselines.histories import Histories
from model.clicks import Sessions

_WEIGHTS = "weights"


@dataclass(frozen=True)
class PopularitySettings:
    """Which popularity.

    Attributes:
        half_life_clicks: A click counts half as much when this many clicks have come after it; None for all alike.
        in_session: Whether an item's clicks in the history come first and its popularity only decides among equals.

    Raises:
        ValueError: The half-life is not positive.
    """

    half_life_clicks: float | None = None
    in_session: bool = False

    def __post_init__(self) -> None:
        if self.half_life_clicks is not None and self.half_life_clicks <= 0:
            raise ValueError(f"half_life_clicks must be above 0, got {self.half_life_clicks}")


class PopularityBaseline(Baseline):
    """Scores items by how often they were clicked, whatever the history, unless `in_session`.

    Source: POP and S-POP of Hidasi et al. 2016, arXiv:1511.06939. Age is counted in clicks, not in hours, so that it
    means the same for clicks without times.
    """

    kind = "popularity"
    settings_type = PopularitySettings

    def __init__(self, settings: PopularitySettings, weights: Tensor) -> None:
        """Take the weight of every item, float32 [N]."""
        self.settings = settings
        self.window = None if settings.in_session else 0
        self.item_count = len(weights)
        self._weights = weights
        ladder, place = torch.unique(weights, return_inverse=True)
        self._below_one = place.to(torch.float32) / len(ladder)

    @classmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: PopularitySettings,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """See `Baseline.fit`; nothing is random."""
        del generator
        require_sessions(sessions, item_count)
        weights = None
        if settings.half_life_clicks is not None:
            weights = np.exp2(np.arange(1 - len(sessions.items), 1) / settings.half_life_clicks)
        counts = np.bincount(sessions.items, weights=weights, minlength=item_count)
        on_progress(1, 1)
        return cls(settings, torch.from_numpy(counts.astype(np.float32)))

    def score(self, histories: Histories) -> Tensor:
        """See `Baseline`; on the CPU."""
        if not self.settings.in_session:
            return self._weights.expand(len(histories), -1)
        scores: Tensor = self._below_one.repeat(len(histories))
        cell = torch.from_numpy(histories.owners * self.item_count + histories.rows)
        scores.index_add_(0, cell, torch.ones(len(cell)))
        return scores.view(len(histories), self.item_count)

    def to_tensors(self) -> dict[str, Tensor]:
        """See `Baseline`."""
        return {_WEIGHTS: self._weights}

    @classmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """See `Baseline`."""
        require_tensors(tensors, {_WEIGHTS: ((None,), torch.float32)})
        return cls(settings, tensors[_WEIGHTS])
