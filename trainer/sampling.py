"""What a mini-batch's targets are told from: items drawn by popularity, and the correction for how often that is.

Shape letters: B transitions in a mini-batch, K sampled items, N items.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.clicks import Sessions
from model.negatives import PopularitySampler
from trainer.settings import TrainerSettings

SAMPLED_AHEAD_STEPS = 256


def click_counts(sessions: Sessions, item_count: int) -> NDArray[np.int64]:
    """Return how often each item was clicked, int64 [N]: one more, so that what only older clicks have is drawn too."""
    return np.bincount(sessions.items, minlength=item_count) + 1


def popularity_sampler(
    counts: NDArray[np.int64], settings: TrainerSettings, generator: torch.Generator
) -> PopularitySampler:
    """Return what draws the K items of each mini-batch."""
    ahead = SAMPLED_AHEAD_STEPS * settings.negative_samples
    return PopularitySampler(counts, settings.sampling_alpha, generator, block_size=ahead)


def log_expected(counts: NDArray[np.int64], sampled: NDArray[np.float64], settings: TrainerSettings) -> Tensor:
    """Return the log of the chance that an item is among a mini-batch's candidates, float32 [N].

    A candidate is a target of the mini-batch or a sample: 1 - exp(-(B p_target + K p_sample)), Poisson's approximation.
    """
    target = counts / counts.sum()
    expected = settings.step_transitions * target + settings.negative_samples * sampled
    return torch.from_numpy(np.log(-np.expm1(-expected)).astype(np.float32))
