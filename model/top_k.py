"""The k best of every row of scores, exactly, without sorting the row.

Shape letters: C rows, N scores in each, m members of a group, G groups.
"""

import math

import torch
from torch import Tensor


def top_k_plain(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best scores and their columns, each [C, k], best first; the reference for `top_k`."""
    best = torch.topk(scores, k, dim=1)
    return best.values, best.indices


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best scores and their columns, each [C, k], best first; k <= N.

    Exact: columns j, j + G, j + 2G, ... form group j, and the k best scores lie in the k groups with the best maxima
    (and among the fewer than m columns that fill no whole group). So one pass of maxima over contiguous memory and
    two small selections replace a selection over N. Among equal scores any may be kept, as in `torch.topk`.
    """
    count = scores.shape[1]
    members = math.isqrt(count // max(k, 1))  # about as many group maxima as members of the k groups
    if members <= 1:
        return top_k_plain(scores, k)
    groups = count // members
    whole = members * groups
    maxima = scores[:, :whole].view(-1, members, groups).amax(dim=1)
    best_groups = torch.topk(maxima, k, dim=1, sorted=False).indices
    offsets = torch.arange(0, whole, groups, device=scores.device)
    columns = (best_groups.unsqueeze(1) + offsets.unsqueeze(1)).flatten(1)
    if whole < count:
        rest = torch.arange(whole, count, device=scores.device).expand(len(scores), -1)
        columns = torch.cat([columns, rest], dim=1)
    values, places = torch.topk(scores.gather(1, columns), k, dim=1)
    return values, columns.gather(1, places)
