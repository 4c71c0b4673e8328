"""What training minimises: how well the target is told from the other candidates.

Shape letters: B rows of a mini-batch, C candidates shared by all rows. The target of row i is candidate i; the
other rows' targets and the sampled items are its negatives. Every loss is the mean over the B rows.

Source: Hidasi & Karatzoglou 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations".
"""

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    scores: Tensor,
    log_q: Tensor | None = None,
    *,
    excluded: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of the softmax over candidates, corrected for how they were sampled.

    With r' = scores - log_q and p = softmax(r') over a row's candidates, a row's loss is
    -(1 - a) log p_target - a mean_j log p_j, where a is the label smoothing and j runs over the row's candidates.

    Args:
        scores: float [B, C], C >= B.
        log_q: Logarithm of how often a candidate is expected among the candidates, [C] or [B, C]; a constant added to
            all of it changes nothing. None for no correction.
        excluded: bool [B, C], candidates that are none for a row, such as a sample that is the row's own target. The
            target itself always counts.
        label_smoothing: Share of the target's probability that is spread over all candidates, 0 <= a < 1.

    Returns:
        A scalar.
    """
    corrected = scores if log_q is None else scores - log_q
    if excluded is None:
        return functional.cross_entropy(corrected, _targets(scores), label_smoothing=label_smoothing)
    allowed = ~_without_target(excluded)
    log_p = corrected.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    smoothed = log_p.masked_fill(~allowed, 0).sum(dim=1) / allowed.sum(dim=1)
    return -((1 - label_smoothing) * log_p.diagonal() + label_smoothing * smoothed).mean()


def bpr_max(scores: Tensor, *, regularisation: float = 0.0, elu: float = 0.0, excluded: Tensor | None = None) -> Tensor:
    """Return BPR-max: the target's chance to beat the negatives, weighted by how strong they are.

    With r the scores and s = softmax(r) over a row's negatives only, a row's loss is
    -log sum_j s_j sigmoid(r_target - r_j) + regularisation * sum_j s_j r_j^2. It is computed from logarithms, so it is
    finite for any finite scores.

    Args:
        scores: float [B, C], C > B or B > 1, so that every row has a negative.
        regularisation: Weight of the score regulariser.
        elu: Where positive, scores first go through ELU with this alpha; 0 leaves them as they are.
        excluded: bool [B, C], candidates that are no negatives for a row. Every row must keep one.

    Returns:
        A scalar.
    """
    if elu > 0:
        scores = functional.elu(scores, alpha=elu)
    is_target = torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    no_negative = is_target if excluded is None else is_target | excluded
    log_s = scores.masked_fill(no_negative, -torch.inf).log_softmax(dim=1)
    target = scores.diagonal().unsqueeze(1)
    gain = torch.logsumexp(log_s + functional.logsigmoid(target - scores), dim=1)
    penalty = (log_s.exp() * scores.square()).sum(dim=1)
    return (regularisation * penalty - gain).mean()


def _targets(scores: Tensor) -> Tensor:
    return torch.arange(len(scores), device=scores.device)


def _without_target(excluded: Tensor) -> Tensor:
    is_target = torch.eye(*excluded.shape, dtype=torch.bool, device=excluded.device)
    return excluded & ~is_target
