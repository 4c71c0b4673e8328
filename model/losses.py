"""What training minimises: how well the target is told from the other candidates.

Shape letters: B rows of a mini-batch, C candidates shared by all rows.

Every loss takes scores, float [B, C], and returns the mean over the rows, a scalar. What all have in common:

* `targets`, int64 [B]: the candidate that is each row's target; None where it is candidate i for row i. All other
  candidates, the other rows' targets and the sampled items, are the row's negatives.
* `excluded`, bool [B, C]: candidates that are none for a row, such as a sample that is the row's own target. The target
  itself always counts. A row without any negative adds zero.
* `log_q`, [C] or [B, C], for the losses with a softmax over all candidates: the logarithm of how often a candidate is
  expected among the candidates, which is taken off its score (Bengio & Senecal 2008). A constant added to all of it
  changes nothing; None for no correction.

In the formulas r are a row's scores, t is its target, j runs over its n negatives, and sigma(x) = 1 / (1 + exp(-x)).
They are computed from logarithms, so that scores far apart give finite losses and gradients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(
    scores: Tensor,
    log_q: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    excluded: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of the softmax over candidates, corrected for how they were sampled.

    With p = softmax(r - log_q) over the target and the negatives: -(1 - a) log p_t - a mean log p, the mean over the
    same candidates. The label smoothing a, 0 <= a < 1, is the share of the target's probability that is spread over
    them all.

    Source: Hidasi & Karatzoglou 2018; the smoothing from Szegedy et al. 2016.
    """
    corrected = scores if log_q is None else scores - log_q
    if excluded is None:
        columns = torch.arange(len(scores), device=scores.device) if targets is None else targets
        return functional.cross_entropy(corrected, columns, label_smoothing=label_smoothing)
    allowed = ~excluded | _is_target(scores, targets)
    log_p = corrected.masked_fill(~allowed, -torch.inf).log_softmax(dim=1)
    smoothed = log_p.masked_fill(~allowed, 0).sum(dim=1) / allowed.sum(dim=1)
    return -((1 - label_smoothing) * _of_target(log_p, targets) + label_smoothing * smoothed).mean()


def info_nce(
    scores: Tensor,
    log_q: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    excluded: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Return InfoNCE: -log p_t with p = softmax(r / temperature - log_q) over the target and the negatives.

    The lower the temperature, above 0, the more the strongest negatives count. Meant for cosines and other scores that
    are bounded; at temperature 1 it is the cross-entropy.

    Source: van den Oord et al. 2018, arXiv:1807.03748; the temperature as in Chen et al. 2020, arXiv:2002.05709.
    """
    return cross_entropy(scores / temperature, log_q, targets=targets, excluded=excluded)


def binary_cross_entropy(scores: Tensor, *, targets: Tensor | None = None, excluded: Tensor | None = None) -> Tensor:
    """Return -log sigma(r_t) - (1/n) sum_j log(1 - sigma(r_j)): target or not, each candidate for itself.

    The negatives together weigh as much as the target, however many are sampled.

    Source: Kang & McAuley 2018, "Self-Attentive Sequential Recommendation", who have n = 1.
    """
    negatives = _negatives(scores, targets, excluded)
    missed = functional.softplus(-_of_target(scores, targets))
    # A row without negatives has nothing to tell its target from.
    missed = missed * negatives.any(dim=1)
    return (missed + _mean_over(functional.softplus(scores), negatives)).mean()


def bpr(scores: Tensor, *, targets: Tensor | None = None, excluded: Tensor | None = None) -> Tensor:
    """Return BPR: -(1/n) sum_j log sigma(r_t - r_j), the target's odds to beat each negative.

    Its gradient shrinks as negatives are added, most of which are beaten soon; `bpr_max` mends that.

    Source: Rendle et al. 2009; over several negatives Hidasi et al. 2016.
    """
    log_odds = functional.logsigmoid(_of_target(scores, targets).unsqueeze(1) - scores)
    return -_mean_over(log_odds, _negatives(scores, targets, excluded)).mean()


def top1(scores: Tensor, *, targets: Tensor | None = None, excluded: Tensor | None = None) -> Tensor:
    """Return TOP1: (1/n) sum_j [sigma(r_j - r_t) + sigma(r_j^2)], the target's relative rank with a score penalty.

    Source: Hidasi et al. 2016, arXiv:1511.06939.
    """
    return _mean_over(_top1_terms(scores, targets), _negatives(scores, targets, excluded)).mean()


def top1_max(scores: Tensor, *, targets: Tensor | None = None, excluded: Tensor | None = None) -> Tensor:
    """Return TOP1-max: sum_j s_j [sigma(r_j - r_t) + sigma(r_j^2)] with s = softmax(r) over the negatives only.

    Source: Hidasi & Karatzoglou 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations".
    """
    negatives = _negatives(scores, targets, excluded)
    weights = _log_softmax_over(scores, negatives).exp().masked_fill(~negatives, 0)
    return (weights * _top1_terms(scores, targets)).sum(dim=1).mean()


def bpr_max(
    scores: Tensor,
    *,
    targets: Tensor | None = None,
    excluded: Tensor | None = None,
    regularisation: float = 0.0,
    elu: float = 0.0,
) -> Tensor:
    """Return BPR-max: the target's chance to beat the negatives, weighted by how strong they are.

    -log sum_j s_j sigma(r_t - r_j) + regularisation * sum_j s_j r_j^2 with s = softmax(r) over the negatives only.
    Where `elu` is above 0, scores first go through ELU with this alpha.

    Source: Hidasi & Karatzoglou 2018, as for `top1_max`.
    """
    if elu > 0:
        scores = functional.elu(scores, alpha=elu)
    negatives = _negatives(scores, targets, excluded)
    log_s = _log_softmax_over(scores, negatives)
    target = _of_target(scores, targets).unsqueeze(1)
    gain = torch.logsumexp(log_s + functional.logsigmoid(target - scores), dim=1)
    penalty = (log_s.exp() * scores.square()).sum(dim=1)
    return ((regularisation * penalty - gain) * negatives.any(dim=1)).mean()


def lambda_rank(scores: Tensor, *, targets: Tensor | None = None, excluded: Tensor | None = None) -> Tensor:
    """Return LambdaRank: sum_j w_j log(1 + exp(r_j - r_t)), pairs weighted by what a swap would change in NDCG.

    With one relevant item NDCG is 1 / log2(1 + rank), so w_j = |1 / log2(1 + rank_t) - 1 / log2(1 + rank_j)|. The ranks
    are those among the target and the negatives, best first, the target behind negatives of its own score; the weights
    are constants to the gradient.

    Source: Burges 2010, "From RankNet to LambdaRank to LambdaMART"; as a loss Wang et al. 2018, "LambdaLoss".
    """
    negatives = _negatives(scores, targets, excluded)
    target = _of_target(scores, targets).unsqueeze(1)
    with torch.no_grad():
        order = scores.masked_fill(~negatives, -torch.inf).argsort(dim=1, descending=True, stable=True)
        place = torch.empty_like(order).scatter_(
            1, order, torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(order)
        )
        is_behind_target = target > scores
        rank = place + is_behind_target
        target_rank = 1 + (negatives & ~is_behind_target).sum(dim=1, keepdim=True)
        swap = (_gain(target_rank, scores.dtype) - _gain(rank, scores.dtype)).abs()
    return (swap * functional.softplus(scores - target)).masked_fill(~negatives, 0).sum(dim=1).mean()


class Loss(Protocol):
    """A loss whose options are chosen; what it takes is said at the top of this file."""

    def __call__(
        self,
        scores: Tensor,
        log_q: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        excluded: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of the rows, a scalar."""


@dataclass(frozen=True)
class LossForm:
    """One of the losses before its options are chosen.

    Attributes:
        function: The loss.
        options: The names of the options that are its own.
        takes_log_q: Whether it is corrected for how candidates were sampled.
    """

    function: Callable[..., Tensor]
    options: tuple[str, ...] = ()
    takes_log_q: bool = False

    def with_options(self, options: Mapping[str, float]) -> Loss:
        """Return the loss with its own ones among `options`; it ignores a log_q that it does not take.

        Raises:
            KeyError: One of its options is not given.
        """
        chosen = partial(self.function, **{name: options[name] for name in self.options})
        return chosen if self.takes_log_q else partial(_without_log_q, chosen)


LossName = Literal[
    "cross_entropy", "bpr_max", "top1_max", "bpr", "top1", "binary_cross_entropy", "info_nce", "lambda_rank"
]

LOSSES: Mapping[LossName, LossForm] = MappingProxyType(
    {
        "cross_entropy": LossForm(cross_entropy, ("label_smoothing",), takes_log_q=True),
        "bpr_max": LossForm(bpr_max, ("regularisation", "elu")),
        "top1_max": LossForm(top1_max),
        "bpr": LossForm(bpr),
        "top1": LossForm(top1),
        "binary_cross_entropy": LossForm(binary_cross_entropy),
        "info_nce": LossForm(info_nce, ("temperature",), takes_log_q=True),
        "lambda_rank": LossForm(lambda_rank),
    }
)
"""All losses by name; there are no others."""


def _without_log_q(loss: Callable[..., Tensor], scores: Tensor, log_q: Tensor | None = None, **more: Any) -> Tensor:
    del log_q
    return loss(scores, **more)


def _is_target(scores: Tensor, targets: Tensor | None) -> Tensor:
    if targets is None:
        return torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, targets.unsqueeze(1), value=True)


def _negatives(scores: Tensor, targets: Tensor | None, excluded: Tensor | None) -> Tensor:
    is_target = _is_target(scores, targets)
    return ~is_target if excluded is None else ~(is_target | excluded)


def _of_target(values: Tensor, targets: Tensor | None) -> Tensor:
    """Return each row's value of its target, [B]."""
    return values.diagonal() if targets is None else values.gather(1, targets.unsqueeze(1)).squeeze(1)


def _top1_terms(scores: Tensor, targets: Tensor | None) -> Tensor:
    return torch.sigmoid(scores - _of_target(scores, targets).unsqueeze(1)) + torch.sigmoid(scores.square())


def _gain(rank: Tensor, dtype: torch.dtype) -> Tensor:
    return 1 / torch.log2(1 + rank.to(dtype))


def _mean_over(values: Tensor, negatives: Tensor) -> Tensor:
    """Return each row's mean over its negatives, [B], 0 where it has none."""
    return values.masked_fill(~negatives, 0).sum(dim=1) / negatives.sum(dim=1).clamp(min=1)


def _log_softmax_over(scores: Tensor, negatives: Tensor) -> Tensor:
    """Return the log of the softmax over the negatives, [B, C]; finite everywhere, and means nothing where none is."""
    # The lowest number and not minus infinity: that would make gradients of a row without negatives not a number.
    return scores.masked_fill(~negatives, torch.finfo(scores.dtype).min).log_softmax(dim=1)
