"""Faults found in other implementations of GRU4Rec, each with a test that would notice it here.

Source: Hidasi & Czapp 2023, "The Effect of Third Party Implementations on Reproducibility". Those that only training or
evaluation can have are in tests/trainer/test_known_faults.py.
"""

import math

import numpy as np
import pytest
import torch

from model.batches import session_parallel
from model.clicks import Sessions
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.losses import LOSSES, LossName, bpr_max, cross_entropy
from model.optimizer import Accumulator, SparseAdagrad
from model.recommender import Recommender
from model.vocabulary import Vocabulary

OPTIONS = {"label_smoothing": 0.0, "regularisation": 1.0, "elu": 0.0, "temperature": 1.0}


def network_of(settings: GRU4RecSettings, items: int = 30) -> GRU4Rec:
    return GRU4Rec.initialised(settings, items, torch.Generator().manual_seed(1))


def recommender_of(items: int = 30) -> Recommender:
    network = network_of(GRU4RecSettings(embedding_size=8, hidden_sizes=(6, 8)), items)
    return Recommender(network, Vocabulary([str(row) for row in range(items)]), "v")


def sessions_of(*lengths: int) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    nothing = np.zeros(len(lengths), dtype=np.int64)
    return Sessions(np.arange(offsets[-1]), offsets, nothing, nothing)


def test_hidden_state_of_one_session_never_reaches_the_next() -> None:
    """Sessions that were played before, beside or in the same batch change nothing about a new one."""
    recommender, width = recommender_of(), 14
    alone = recommender.forward(np.zeros((1, width), np.float32), np.array([-1]), np.zeros(2, int), np.array([4, 9]), 5)
    busy = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    busy[1] = 0
    slots, rows = np.array([0, 1, 2, 0, 1, 2]), np.array([3, 4, 8, 7, 9, 1])
    together = recommender.forward(busy, np.array([2, -1, 5]), slots, rows, 5)
    np.testing.assert_allclose(together.states[1], alone.states[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(together.scores[[1, 4]], alone.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(recommender.encode([[3] * 9, [4, 9], [1]])[1], alone.states[0], rtol=0, atol=1e-6)


def test_state_is_reset_where_a_session_begins_and_nowhere_else() -> None:
    """The middle session ends first: its lane is reset at the next step, and only there is any lane reset again."""
    schedule = session_parallel(sessions_of(5, 2, 4, 3), 3)
    assert [step.resets.tolist() for step in schedule] == [
        [True, True, True],
        [False, True, False],
        [False, False, False],
        [False],
    ]
    assert [step.inputs.tolist() for step in schedule] == [[0, 5, 7], [1, 11, 8], [2, 12, 9], [3]]


def test_softmax_is_applied_once() -> None:
    """Twice, the loss of a sure guess could not fall below log(1 + (C - 1) / e)."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1]], dtype=torch.float64)
    expected = -(math.log(0.7) + math.log(0.6)) / 2
    assert cross_entropy(probabilities.log()).item() == pytest.approx(expected, rel=1e-12)
    assert cross_entropy(torch.eye(3) * 100).item() == 0


def test_no_softmax_is_applied_before_sampling() -> None:
    """An item's score is the same whichever other items there are, and all scores may rise together."""
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(4,)))
    queries = torch.ones(1, 4)
    scores = network.score_all(queries)
    network.parameters["item_bias"].add_(torch.arange(30.0))
    torch.testing.assert_close(network.score_all(queries), scores + torch.arange(30.0))


def test_bpr_max_weighs_the_chances_inside_the_logarithm() -> None:
    """Target 0 against 0 and log 3: weights 1/4 and 3/4, chances 1/2 and 1/4, so -log(1/8 + 3/16)."""
    scores = torch.tensor([[0.0, 0.0, math.log(3)]], dtype=torch.float64)
    assert bpr_max(scores).item() == pytest.approx(math.log(16 / 5), rel=1e-12)


def test_bpr_max_weights_leave_out_the_target() -> None:
    """A target far ahead must not draw the weight to itself: its negatives are still told from each other."""
    scores = torch.tensor([[9.0, 0.0, math.log(3)]], dtype=torch.float64)
    assert bpr_max(scores, regularisation=1.0).item() == pytest.approx(0.75 * math.log(3) ** 2, abs=1e-3)


def test_bpr_max_has_its_score_regulariser() -> None:
    scores = torch.tensor([[9.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    plain, regularised = bpr_max(scores), bpr_max(scores, regularisation=2.0)
    weights = torch.softmax(scores[0, 1:], dim=0)
    expected = 2 * (weights * scores[0, 1:] ** 2).sum()
    assert (regularised - plain).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1e2, 1e3, 1e4])
def test_no_loss_takes_the_logarithm_of_zero(name: LossName, scale: float) -> None:
    """Half the targets are hopelessly behind, half as far ahead."""
    scores = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    scores[:3].diagonal().sub_(5)
    scores[3:, 3:].diagonal().add_(5)
    scores = (scores * scale).requires_grad_()
    excluded = torch.rand(6, 20, generator=torch.Generator().manual_seed(2)) < 0.3
    for mask in (None, excluded):
        loss = LOSSES[name].with_options(OPTIONS)(scores, excluded=mask)
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()


@pytest.mark.parametrize("name", ["bpr_max", "cross_entropy"])
@pytest.mark.parametrize("gap", [50.0, 200.0, 5000.0])
def test_target_far_behind_is_pulled_as_hard_as_any(name: LossName, gap: float) -> None:
    """A small number added inside the logarithm would cap the loss near 55 and end the gradient there."""
    scores = torch.tensor([[-gap, 0.0, -1.0]], requires_grad=True)
    loss = LOSSES[name].with_options(OPTIONS | {"regularisation": 0.0})(scores)
    assert loss.item() == pytest.approx(gap, abs=1)
    assert torch.autograd.grad(loss, scores)[0][0, 0].item() == pytest.approx(-1, abs=1e-3)


def test_dropout_reaches_every_layer_on_its_way_up_and_the_final_one() -> None:
    network = network_of(GRU4RecSettings(embedding_size=4, hidden_sizes=(5, 6, 4)))
    seen: list[int] = []

    def dropout(output: torch.Tensor) -> torch.Tensor:
        seen.append(output.shape[1])
        return torch.zeros_like(output)

    x = torch.ones(2, 4)
    state = network.advance(x, torch.zeros(2, 15), dropout)
    assert seen == [5, 6, 4]
    assert torch.equal(network.query(state, x, dropout), x), "of the final layer nothing is left but the skip"
    assert seen == [5, 6, 4, 4]


def test_dropout_is_no_part_of_a_network_that_serves() -> None:
    recommender = recommender_of()
    histories = [[1, 2, 3]] * 2
    states = recommender.encode(histories)
    assert np.array_equal(states[0], states[1])
    assert np.array_equal(states, recommender.encode(histories))


@pytest.mark.parametrize("accumulator", ["element", "row"])
@pytest.mark.parametrize("size", [0.01, 1.0, 50.0])
def test_first_step_is_as_long_as_the_learning_rate_whatever_the_gradient(
    accumulator: Accumulator, size: float
) -> None:
    """An accumulator that starts above zero makes the first steps of small gradients too short."""
    table, dense = torch.zeros(4, 3), torch.zeros(2)
    optimizer = SparseAdagrad(0.1, accumulator=accumulator)
    optimizer.update_rows("t", table, torch.tensor([2]), torch.full((1, 3), -size))
    optimizer.update_dense("d", dense, torch.full((2,), -size))
    torch.testing.assert_close(table, torch.tensor([[0.0] * 3, [0.0] * 3, [0.1] * 3, [0.0] * 3]), rtol=0.01, atol=0)
    torch.testing.assert_close(dense, torch.full((2,), 0.1), rtol=0.01, atol=0)


def test_learning_rate_decays_with_a_row_s_own_gradients_alone() -> None:
    table = torch.zeros(2, 1)
    optimizer = SparseAdagrad(0.1)
    for _ in range(500):
        optimizer.update_rows("t", table, torch.tensor([0]), torch.ones(1, 1))
    optimizer.update_rows("t", table, torch.tensor([1]), -torch.ones(1, 1))
    assert table[1].item() == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 5, 100])
def test_epoch_goes_on_when_fewer_sessions_than_lanes_are_left(batch_size: int) -> None:
    sessions = sessions_of(2, 9, 3, 5)
    played = [item for step in session_parallel(sessions, batch_size) for item in step.targets.tolist()]
    assert sorted(played) == [item for item in range(19) if item not in {0, 2, 11, 14}]


def test_unknown_items_are_answered_and_do_not_crash() -> None:
    recommender = recommender_of()
    rows = recommender.vocabulary.rows(["never seen", "3", "never seen either"])
    states = np.zeros((2, recommender.state_width), np.float32)
    forward = recommender.forward(states, np.array([-1, -1]), np.array([0, 0, 1]), rows, 5)
    assert forward.top_rows.shape == (3, 5)
    assert np.isfinite(forward.scores).all()
    assert forward.known.tolist() == [False, True, False]
