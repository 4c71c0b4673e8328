from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.losses import bpr_max, cross_entropy

ROWS, CANDIDATES = 4, 9
Array = NDArray[np.float64]


def drawn(seed: int = 1) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Scores [B, C], log q [C], and exclusions [B, C], the target among those of some rows."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((ROWS, CANDIDATES)) * 3
    excluded = generator.random((ROWS, CANDIDATES)) < 0.3
    excluded[2, 2] = True
    return scores, np.log(generator.random(CANDIDATES)), excluded


def cross_entropy_by_the_formula(scores: Array, log_q: Array, excluded: NDArray[np.bool_], smoothing: float) -> float:
    losses = []
    for row, values in enumerate(scores - log_q):
        candidates = [j for j in range(len(values)) if j == row or not excluded[row, j]]
        p = np.exp(values[candidates]) / np.exp(values[candidates]).sum()
        target = candidates.index(row)
        losses.append(-(1 - smoothing) * np.log(p[target]) - smoothing * np.log(p).mean())
    return float(np.mean(losses))


def bpr_max_by_the_formula(scores: Array, excluded: NDArray[np.bool_], regularisation: float, elu: float) -> float:
    losses = []
    if elu:
        scores = np.where(scores > 0, scores, elu * (np.exp(scores) - 1))
    for row, values in enumerate(scores):
        r = values[[j for j in range(len(values)) if j != row and not excluded[row, j]]]
        s = np.exp(r) / np.exp(r).sum()
        beaten = (s / (1 + np.exp(r - values[row]))).sum()
        losses.append(-np.log(beaten) + regularisation * (s * r**2).sum())
    return float(np.mean(losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_the_formula_in_float64(smoothing: float) -> None:
    scores, log_q, excluded = drawn()
    nothing, none = np.zeros(CANDIDATES), np.zeros_like(excluded)
    q = torch.tensor(log_q)
    for given_q, array_q in ((None, nothing), (q, log_q), (q.expand(ROWS, -1), log_q)):
        for given_excluded, array_excluded in ((None, none), (torch.tensor(excluded), excluded)):
            loss = cross_entropy(torch.tensor(scores), given_q, excluded=given_excluded, label_smoothing=smoothing)
            expected = cross_entropy_by_the_formula(scores, array_q, array_excluded, smoothing)
            assert loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("regularisation", [0.0, 1.95])
@pytest.mark.parametrize("elu", [0.0, 0.5, 1.0])
def test_bpr_max_equals_the_formula_in_float64(regularisation: float, elu: float) -> None:
    scores, _, excluded = drawn()
    for given_excluded, array in ((None, np.zeros_like(excluded)), (torch.tensor(excluded), excluded)):
        loss = bpr_max(torch.tensor(scores), regularisation=regularisation, elu=elu, excluded=given_excluded)
        expected = bpr_max_by_the_formula(scores, array, regularisation, elu)
        assert loss.item() == pytest.approx(expected, rel=1e-12)


LOSSES: list[Callable[[Tensor], Tensor]] = [
    lambda scores: cross_entropy(scores, torch.tensor(drawn()[1]), label_smoothing=0.1),
    lambda scores: cross_entropy(scores, excluded=torch.tensor(drawn()[2]), label_smoothing=0.1),
    lambda scores: bpr_max(scores, regularisation=1.0),
    lambda scores: bpr_max(scores, elu=0.5, excluded=torch.tensor(drawn()[2])),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_finite_differences(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, torch.tensor(drawn()[0], requires_grad=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_agrees_with_float64(loss: Callable[[Tensor], Tensor]) -> None:
    scores = torch.tensor(drawn()[0])
    assert loss(scores.float()).item() == pytest.approx(loss(scores).item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_scores_far_apart_give_finite_losses_and_gradients(loss: Callable[[Tensor], Tensor], scale: float) -> None:
    scores = (torch.tensor(drawn()[0], dtype=torch.float32) * scale).requires_grad_()
    value = loss(scores)
    value.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(value)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("loss", [cross_entropy, bpr_max])
def test_raising_the_target_s_score_lowers_the_loss(loss: Callable[[Tensor], Tensor]) -> None:
    scores = torch.tensor(drawn()[0])
    assert loss(scores + torch.eye(*scores.shape)) < loss(scores)


def test_excluded_candidates_get_no_gradient() -> None:
    excluded = torch.tensor(drawn()[2])
    only_others = excluded & ~torch.eye(*excluded.shape, dtype=torch.bool)
    for loss in (cross_entropy, bpr_max):
        scores = torch.tensor(drawn()[0], requires_grad=True)
        loss(scores, excluded=excluded).backward()  # type: ignore[no-untyped-call]
        assert scores.grad is not None
        assert not scores.grad[only_others].any()
        assert scores.grad.diagonal().all()


def test_constant_added_to_log_q_changes_nothing() -> None:
    scores, log_q, _ = (torch.tensor(values) for values in drawn())
    assert cross_entropy(scores, log_q + 5).item() == pytest.approx(cross_entropy(scores, log_q).item(), rel=1e-12)
