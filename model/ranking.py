"""Where the next item stands among all items, and what that is worth.

Shape letters: B cases, N items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

UNRANKED = np.iinfo(np.int64).max
"""The rank of an item that a scorer does not know, or was asked for before it knew any item of the session."""

Ties = Literal["conservative", "standard"]


def ranks(scores: Tensor, targets: Tensor, ties: Ties = "conservative") -> Tensor:
    """Return the rank of each target among all items, 1 for the best, int64 [B].

    Args:
        scores: float [B, N].
        targets: int64 [B], the row of the item that came next.
        ties: `conservative` ranks the target behind all items of the same score, so that a model that gives many items
            one score gains nothing: #(s >= s_target). `standard` ranks it before them: #(s > s_target) + 1. A score
            that is not a number counts as better than the target, and a target without one comes last.
    """
    target = scores.gather(1, targets.unsqueeze(1))
    if ties == "conservative":
        return scores.shape[1] - torch.count_nonzero(scores < target, dim=1)
    return (scores.shape[1] + 1 - torch.count_nonzero(scores <= target, dim=1)).clamp_(max=scores.shape[1])


@dataclass(frozen=True)
class RankingMetrics:
    """Means over all cases, each by cut-off k.

    Attributes:
        cases: How many cases.
        recall: Share of the cases whose rank is at most k.
        mrr: Mean of 1 / rank, counting 0 beyond k.
        ndcg: Mean of 1 / log2(rank + 1), counting 0 beyond k; with one relevant item the ideal is 1.
    """

    cases: int
    recall: dict[int, float]
    mrr: dict[int, float]
    ndcg: dict[int, float]

    @staticmethod
    def from_ranks(ranks: NDArray[np.int64] | Tensor, ks: Sequence[int]) -> "RankingMetrics":
        """Return the metrics of 1-based ranks; all zero where there are no cases."""
        values = np.asarray(ranks, dtype=np.float64)
        cases = max(len(values), 1)
        within = {k: values[values <= k] for k in ks}
        return RankingMetrics(
            cases=len(values),
            recall={k: len(hits) / cases for k, hits in within.items()},
            mrr={k: float((1 / hits).sum()) / cases for k, hits in within.items()},
            ndcg={k: float((1 / np.log2(hits + 1)).sum()) / cases for k, hits in within.items()},
        )

    @property
    def hr(self) -> dict[int, float]:
        """Hit rate; with one relevant item per case it is the recall."""
        return self.recall

    def to_dict(self) -> dict[str, float]:
        """Return the metrics by name, such as `recall@20`."""
        named = {"recall": self.recall, "hr": self.hr, "mrr": self.mrr, "ndcg": self.ndcg}
        return {f"{name}@{k}": value for name, by_k in named.items() for k, value in by_k.items()}
