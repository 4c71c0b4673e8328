import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from model.baselines.bpr_mf import BPRMFSettings, _draw, descend
from model.baselines.histories import Histories
from tests.model.baselines.sessions_of_rows import cliques, fitted


def test_a_step_goes_down_the_gradient_of_the_stated_loss() -> None:
    """Against autograd in float64, with rows that occur twice, one on both sides, and a draw that is skipped."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"users": (4, 3), "items": (6, 3), "bias": (6,)}
    start = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    triples = torch.tensor([[0, 0, 3, 1, 2], [1, 2, 1, 5, 4], [2, 3, 2, 0, -1]])
    settings = BPRMFSettings(factors=3, learning_rate=0.1, regularisation=0.3)

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    user, clicked, other = triples[:, :4]
    u, i, j = leaves["users"][user], leaves["items"][clicked], leaves["items"][other]
    margin = (u * (i - j)).sum(dim=1) + leaves["bias"][clicked] - leaves["bias"][other]
    loss = -logsigmoid(margin).sum() + 0.3 / 2 * (u.square().sum() + i.square().sum() + j.square().sum())
    torch.autograd.backward(loss)

    descend(start["users"], start["items"], start["bias"], triples, settings)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(start[name], (leaf - 0.1 * leaf.grad).detach(), rtol=1e-12, atol=1e-12)


def test_draws_are_clicks_held_against_items_that_the_session_does_not_hold() -> None:
    items, session_of = np.array([0, 1, 2, 1, 1]), np.array([0, 0, 1, 1, 2])
    held = np.unique(session_of * 4 + items)
    clicks = set(zip(session_of.tolist(), items.tolist(), strict=True))
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        for session, clicked, other in _draw(items, session_of, held, 4, generator).T.tolist():
            assert (session, clicked) in clicks
            assert (session, other) not in clicks
            seen.add((session, other))
    assert seen == {(session, other) for session in range(3) for other in range(-1, 4)} - clicks


def test_a_history_is_the_mean_of_its_items_in_any_order() -> None:
    baseline = fitted("bpr-mf", cliques(3, 4, sessions=30, seed=0), 12, epochs=5)
    tensors = baseline.to_tensors()
    found = baseline.score(Histories.of([[1, 5, 5], [5, 1, 5], []]))
    mean = (tensors["item_factors"][1] + 2 * tensors["item_factors"][5]) / 3
    expected = tensors["item_factors"] @ mean + tensors["item_bias"]
    torch.testing.assert_close(found, torch.stack([expected, expected, tensors["item_bias"]]))


@pytest.mark.parametrize("width", [15, 17])
def test_factors_of_another_width_than_the_settings_say_are_refused(width: int) -> None:
    baseline = fitted("bpr-mf", cliques(3, 4, sessions=30, seed=0), 12, epochs=1)
    with pytest.raises(ValueError, match="'item_factors' must be"):
        type(baseline).from_tensors(baseline.settings, baseline.to_tensors() | {"item_factors": torch.zeros(12, width)})
