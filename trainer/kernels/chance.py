"""Random choices: which items are drawn, which values dropout keeps."""

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import ZERO, Floats, Ints, compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def invert(cumulative: NDArray[np.float64], guide: Ints, uniform: NDArray[np.float64], rows: Ints, last: int) -> None:
    """Write, for each uniform number, the first row whose cumulative share is above it, `last` at most.

    Args:
        cumulative: float64 [N], rising to 1.
        guide: int64 [G], the answer for g / G: where to begin looking.
        uniform: float64 [n], in [0, 1).
        rows: int64 [n], written.
        last: The last row that can be drawn.
    """
    cells = len(guide)
    for i in range(len(uniform)):
        row = guide[int(uniform[i] * cells)]
        while row < last and cumulative[row] <= uniform[i]:
            row += 1
        rows[i] = row


@compiled
def fill_dropout_mask(mask: Floats, seed: int, draw: int, rate: float) -> None:
    """Write 0 with chance `rate` and 1 / (1 - rate) otherwise, the same for the same seed and draw.

    Source: the finaliser of MurmurHash3 over a counter; the key is SplitMix64's (Steele, Lea & Flood 2014).
    """
    key = np.uint64(seed) + np.uint64(draw) * _GOLDEN
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    key ^= key >> np.uint64(31)
    low, high = np.uint32(key), np.uint32(key >> np.uint64(32))
    limit, kept = np.uint32(rate * 4294967296.0), np.float32(1 / (1 - rate))
    flat = mask.ravel()
    for i in range(flat.size):
        h = np.uint32(np.uint32(i) * np.uint32(0x9E3779B1)) ^ low
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)) ^ high
        h = np.uint32((h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        h ^= h >> np.uint32(16)
        flat[i] = kept if h >= limit else ZERO
