"""Items that a session has clicked already, taken out of a ranking.

Shape letters: c cases, N items.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.histories import spans
from model.clicks import Sessions


def without_seen(scores: Tensor, sessions: Sessions, cases: NDArray[np.int64]) -> Tensor:
    """Return scores with minus infinity for what each case's session clicked before it, but never for the case's own.

    Args:
        scores: float [c, N].
        sessions: Of rows; rows that are no items, -1 included, hide nothing.
        cases: int64 [c], places in `sessions.items`, of clicks on known items.
    """
    begins = sessions.offsets[np.searchsorted(sessions.offsets, cases, side="right") - 1]
    lengths = cases - begins
    owners = np.repeat(np.arange(len(cases)), lengths)
    rows = sessions.items[spans(begins, lengths)]
    hidden = (rows >= 0) & (rows < scores.shape[1]) & (rows != sessions.items[cases][owners])
    where = (torch.from_numpy(owners[hidden]).to(scores.device), torch.from_numpy(rows[hidden]).to(scores.device))
    return scores.index_put(where, scores.new_tensor(-torch.inf))
