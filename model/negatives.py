"""Negative samples: items drawn by how popular they are."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class PopularitySampler:
    """Draws rows with replacement, row j with probability counts[j]^alpha / sum of all counts^alpha.

    Drawing is by inversion of the cumulative distribution, in blocks: one search for a block costs far less than one
    per mini-batch. An item with count 0 is never drawn, unless alpha is 0: then all items are alike.

    Args:
        counts: [N], how often each item was clicked, finite and not negative.
        alpha: 0 for uniform, 1 for proportional to the counts.
        generator: Source of randomness; samples come to lie on its device.
        block_size: How many samples are drawn at once.

    Raises:
        ValueError: A count is negative or not finite, or no item can be drawn.
    """

    def __init__(
        self,
        counts: NDArray[np.int64] | NDArray[np.float64] | Sequence[float],
        alpha: float,
        generator: torch.Generator,
        *,
        block_size: int = 1 << 20,
    ) -> None:
        weights = np.asarray(counts, dtype=np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise ValueError("counts must be finite and not negative")
        weights = np.power(weights, alpha)
        if weights.sum() <= 0:
            raise ValueError("at least one item must have a count above zero")
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        self._generator = generator
        self._block_size = block_size
        cumulative = torch.from_numpy(np.cumsum(self.probabilities)).to(generator.device)
        self._cumulative = cumulative / cumulative[-1]
        self._last = int(np.flatnonzero(weights)[-1])
        self._block = torch.empty(0, dtype=torch.int64, device=generator.device)
        self._used = 0

    def sample(self, count: int) -> Tensor:
        """Return the next `count` samples, int64 [count]; the tensor is the caller's to read, not to change."""
        if self._used + count > len(self._block):
            self._block = self._draw(max(count, self._block_size))
            self._used = 0
        self._used += count
        return self._block[self._used - count : self._used]

    def _draw(self, count: int) -> Tensor:
        uniform = torch.rand(count, dtype=torch.float64, generator=self._generator, device=self._generator.device)
        rows = torch.searchsorted(self._cumulative, uniform, right=True)
        return rows.clamp_(max=self._last)
