"""Popularity sampling for the fast step: the same samples as `model.negatives.PopularitySampler`, sooner.

Shape letters: K samples of a mini-batch, N items.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.kernels.chance import invert
from trainer.sampling import SAMPLED_AHEAD_STEPS, popularity_sampler
from trainer.settings import TrainerSettings

_GUIDES_PER_ITEM = 4


class GuidedSampler:
    """Draws exactly what `PopularitySampler` draws from the same generator, without its searches.

    A table says where in the cumulative distribution to begin looking, so that a sample takes a step or two.

    Args:
        counts: int64 [N], how often each item was clicked, above 0.
        settings: The recipe.
        generator: On the CPU.
    """

    def __init__(self, counts: NDArray[np.int64], settings: TrainerSettings, generator: torch.Generator) -> None:
        self.probabilities = popularity_sampler(counts, settings, generator).probabilities
        cumulative = np.cumsum(self.probabilities)
        self._cumulative = cumulative / cumulative[-1]
        cells = _GUIDES_PER_ITEM * len(counts)
        guide = np.searchsorted(self._cumulative, np.arange(cells) / cells, side="right")
        # A cell's border may be rounded up past a share that lies in it: looking begins one row earlier.
        self._guide = np.maximum(guide - 1, 0)
        self._generator = generator
        self._count = settings.negative_samples
        self._block = np.empty(SAMPLED_AHEAD_STEPS * self._count, dtype=np.int64)
        self._used = len(self._block)

    def sample(self) -> NDArray[np.int64]:
        """Return the samples of the next mini-batch, int64 [K]; they are the caller's to read, until the next call."""
        if self._used + self._count > len(self._block):
            uniform = torch.rand(len(self._block), dtype=torch.float64, generator=self._generator).numpy()
            invert(self._cumulative, self._guide, uniform, self._block, len(self._cumulative) - 1)
            self._used = 0
        self._used += self._count
        return self._block[self._used - self._count : self._used]
