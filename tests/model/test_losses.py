from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.losses import LOSSES, Loss, LossName, cross_entropy, info_nce

ROWS, CANDIDATES = 4, 9
TARGETS = [3, 0, 8, 3]
Array = NDArray[np.float64]
OPTIONS = {"label_smoothing": 0.1, "regularisation": 1.95, "elu": 0.5, "temperature": 0.3}
NO_OPTIONS = {"label_smoothing": 0.0, "regularisation": 0.0, "elu": 0.0, "temperature": 1.0}

names = pytest.mark.parametrize("name", LOSSES)


def drawn(seed: int = 1) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Scores [B, C], log q [C], and exclusions [B, C], targets among them in some rows."""
    generator = np.random.default_rng(seed)
    scores = generator.standard_normal((ROWS, CANDIDATES)) * 3
    excluded = generator.random((ROWS, CANDIDATES)) < 0.3
    excluded[2, 2] = excluded[2, 8] = True
    return scores, np.log(generator.random(CANDIDATES)), excluded


def loss_named(name: LossName) -> Loss:
    return LOSSES[name].with_options(OPTIONS)


def sigma(x: Array | float) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x))))


def softmax(x: Array) -> Array:
    return np.asarray(np.exp(x) / np.exp(x).sum())


# The formulas of one row: t is the target's score, r those of its negatives; both corrected by log q where that counts.
def cross_entropy_of(t: float, r: Array, o: dict[str, float]) -> float:
    p = softmax(np.array([t, *r]))
    return float(-(1 - o["label_smoothing"]) * np.log(p[0]) - o["label_smoothing"] * np.log(p).mean())


def bpr_max_of(t: float, r: Array, o: dict[str, float]) -> float:
    if o["elu"]:
        t, *others = (x if x > 0 else o["elu"] * (np.exp(x) - 1) for x in [t, *r])
        r = np.array(others)
    s = softmax(r)
    return float(-np.log((s * sigma(t - r)).sum()) + o["regularisation"] * (s * r**2).sum())


def lambda_rank_of(t: float, r: Array, _: dict[str, float]) -> float:
    ordered = sorted([(-x, 0) for x in r] + [(-t, 1)])  # best first, the target behind its equals
    gain = {entry: 1 / np.log2(2 + place) for place, entry in enumerate(ordered)}
    return float(sum(abs(gain[-t, 1] - gain[-x, 0]) * np.log1p(np.exp(x - t)) for x in r))


BY_THE_FORMULA: dict[LossName, Callable[[float, Array, dict[str, float]], float]] = {
    "cross_entropy": cross_entropy_of,
    "info_nce": lambda t, r, o: cross_entropy_of(t, r, o | {"label_smoothing": 0.0}),
    "bpr": lambda t, r, _: float(-np.log(sigma(t - r)).mean()),
    "top1": lambda t, r, _: float((sigma(r - t) + sigma(r**2)).mean()),
    "top1_max": lambda t, r, _: float((softmax(r) * (sigma(r - t) + sigma(r**2))).sum()),
    "bpr_max": bpr_max_of,
    "binary_cross_entropy": lambda t, r, _: float(-np.log(sigma(t)) - np.log(1 - sigma(r)).mean()),
    "lambda_rank": lambda_rank_of,
}


@names
@pytest.mark.parametrize("options", [OPTIONS, NO_OPTIONS], ids=["options", "no options"])
@pytest.mark.parametrize("with_log_q", [False, True])
@pytest.mark.parametrize("with_excluded", [False, True])
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_loss_equals_its_formula_in_float64(
    *, name: LossName, options: dict[str, float], with_log_q: bool, with_excluded: bool, targets: list[int] | None
) -> None:
    scores, log_q, excluded = drawn()
    excluded &= with_excluded
    corrected = scores / (options["temperature"] if name == "info_nce" else 1)
    if with_log_q and LOSSES[name].takes_log_q:
        corrected = corrected - log_q
    expected = []
    for row, target in enumerate(targets or range(ROWS)):
        negatives = [j for j in range(CANDIDATES) if j != target and not excluded[row, j]]
        expected.append(BY_THE_FORMULA[name](corrected[row, target], corrected[row, negatives], options))

    loss = LOSSES[name].with_options(options)(
        torch.tensor(scores),
        torch.tensor(log_q) if with_log_q else None,
        targets=torch.tensor(targets) if targets else None,
        excluded=torch.tensor(excluded) if with_excluded else None,
    )
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_losses_by_name_are_all_there_are() -> None:
    assert set(LOSSES) == set(get_args(LossName)) == set(BY_THE_FORMULA)


@pytest.mark.parametrize("name", ["cross_entropy", "bpr_max", "info_nce"])
def test_loss_whose_own_options_are_missing_is_not_made(name: LossName) -> None:
    with pytest.raises(KeyError):
        LOSSES[name].with_options({})


@names
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_gradients_equal_finite_differences(name: LossName, targets: list[int] | None) -> None:
    scores, log_q, excluded = (torch.tensor(values) for values in drawn())
    columns = torch.tensor(targets) if targets else None
    for mask in (None, excluded):
        assert torch.autograd.gradcheck(
            lambda s, mask=mask: loss_named(name)(s, log_q, targets=columns, excluded=mask), scores.requires_grad_()
        )


@names
def test_float32_agrees_with_float64(name: LossName) -> None:
    scores, excluded = torch.tensor(drawn()[0]), torch.tensor(drawn()[2])
    for mask in (None, excluded):
        exact = loss_named(name)(scores, excluded=mask)
        found = loss_named(name)(scores.float(), excluded=mask)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=1e-5)


@names
def test_raising_the_target_s_score_lowers_the_loss(name: LossName) -> None:
    scores = torch.tensor(drawn()[0])
    assert loss_named(name)(scores + torch.eye(*scores.shape)) < loss_named(name)(scores)


@names
@pytest.mark.parametrize("targets", [None, TARGETS])
def test_excluded_candidates_get_no_gradient(name: LossName, targets: list[int] | None) -> None:
    excluded = torch.tensor(drawn()[2])
    columns = torch.tensor(targets or range(ROWS))
    scores = torch.tensor(drawn()[0], requires_grad=True)
    loss = loss_named(name)(scores, targets=columns if targets else None, excluded=excluded)
    gradient = torch.autograd.grad(loss, scores)[0]
    only_others = excluded.scatter(1, columns.unsqueeze(1), value=False)
    assert not gradient[only_others].any()
    assert gradient.gather(1, columns.unsqueeze(1)).all()


@names
@pytest.mark.parametrize("mask", [None, torch.zeros(1, 1, dtype=torch.bool)])
def test_single_candidate_gives_a_loss_of_zero_and_no_gradient(name: LossName, mask: Tensor | None) -> None:
    """The last mini-batch of an epoch may hold one session, and where nothing is sampled it has no negative."""
    scores = torch.tensor([[2.5]], requires_grad=True)
    loss = loss_named(name)(scores, excluded=mask)
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, scores)[0].any()


@names
def test_row_without_a_negative_leaves_the_other_rows_alone(name: LossName) -> None:
    scores = torch.tensor(drawn()[0], requires_grad=True)
    excluded = torch.zeros(ROWS, CANDIDATES, dtype=torch.bool)
    excluded[1] = True
    without = loss_named(name)(scores[[0, 2, 3]], targets=torch.tensor([0, 2, 3]))
    with_it = loss_named(name)(scores, excluded=excluded)
    assert with_it.item() * ROWS == pytest.approx(without.item() * (ROWS - 1), rel=1e-12)
    assert not torch.autograd.grad(with_it, scores)[0][1].any()


@names
def test_order_of_the_negatives_does_not_matter(name: LossName) -> None:
    scores = torch.tensor(drawn()[0])
    shuffled = torch.cat([scores[:, :ROWS], scores[:, ROWS:].flip(1)], dim=1)
    assert loss_named(name)(shuffled).item() == pytest.approx(loss_named(name)(scores).item(), rel=1e-12)


def test_constant_added_to_log_q_changes_nothing() -> None:
    scores, log_q, _ = (torch.tensor(values) for values in drawn())
    assert cross_entropy(scores, log_q + 5).item() == pytest.approx(cross_entropy(scores, log_q).item(), rel=1e-12)


def test_log_q_may_differ_from_row_to_row() -> None:
    scores, log_q, _ = (torch.tensor(values) for values in drawn())
    by_row = log_q + torch.arange(ROWS).unsqueeze(1)
    assert cross_entropy(scores, by_row).item() == pytest.approx(cross_entropy(scores, log_q).item(), rel=1e-12)


def test_info_nce_at_temperature_one_is_the_cross_entropy() -> None:
    scores, log_q, _ = (torch.tensor(values) for values in drawn())
    assert torch.equal(info_nce(scores, log_q), cross_entropy(scores, log_q))


def test_lambda_rank_weighs_a_pair_by_what_its_swap_is_worth() -> None:
    """Passing the first from rank 2 is worth 1 - 1 / log2 3, passing rank 9 from rank 10 hardly anything."""
    rising = torch.arange(10.0, requires_grad=True)  # the target is the second best, then the worst
    for target, rival, ranks in ((8, 9, (2, 1)), (0, 1, (10, 9))):
        loss = LOSSES["lambda_rank"].with_options({})(rising.unsqueeze(0), targets=torch.tensor([target]))
        worth = 1 / np.log2(1 + ranks[1]) - 1 / np.log2(1 + ranks[0])
        pull = torch.autograd.grad(loss, rising)[0][rival].item()
        assert pull == pytest.approx(worth * sigma(1.0), rel=1e-5)
