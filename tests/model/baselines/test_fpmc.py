import numpy as np
import torch
from torch.nn.functional import logsigmoid

from model.baselines.fpmc import FPMC, Examples, FPMCSettings, _transitions, descend
from model.baselines.histories import Histories
from tests.model.baselines.sessions_of_rows import sessions_of


def test_a_step_goes_down_the_gradient_of_the_stated_loss() -> None:
    """Against autograd in float64, with rows that occur twice, baskets of one and two, and an unknown user."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"item_from_last": 6, "last_to_item": 6, "item_from_user": 6, "user_to_item": 3}
    start = {name: torch.randn(size, 3, generator=generator, dtype=torch.float64) for name, size in sizes.items()}
    examples = Examples(
        users=torch.tensor([0, 2, -1, 0]),
        baskets=torch.tensor([[1, 2], [1, 0], [3, 3], [4, 0]]),
        is_in_basket=torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0]], dtype=torch.float64),
        clicked=torch.tensor([5, 1, 2, 5]),
        others=torch.tensor([1, 5, 0, 3]),
    )
    settings = FPMCSettings(factors=3, learning_rate=0.1, regularisation=0.3)

    leaves = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    loss = torch.zeros((), dtype=torch.float64)
    for user, basket, i, j in [(0, [1, 2], 5, 1), (2, [1], 1, 5), (-1, [3, 3], 2, 0), (0, [4], 5, 3)]:
        after, last = leaves["item_from_last"], leaves["last_to_item"][basket]
        margin = last.mean(dim=0) @ (after[i] - after[j])
        used = [after[i], after[j], last]
        if user >= 0:
            taste, wanted = leaves["user_to_item"][user], leaves["item_from_user"]
            margin = margin + taste @ (wanted[i] - wanted[j])
            used += [taste, wanted[i], wanted[j]]
        loss = loss - logsigmoid(margin) + 0.3 / 2 * sum(factor.square().sum() for factor in used)
    torch.autograd.backward(loss)

    descend(start, examples, settings)
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(start[name], (leaf - 0.1 * leaf.grad).detach(), rtol=1e-12, atol=1e-12)


def test_examples_are_the_clicks_before_each_click_of_its_session_against_any_other_item() -> None:
    transitions = _transitions(sessions_of([[3, 1, 2], [0], [1, 0]]), np.array([7, -1, 4]))
    generator = torch.Generator().manual_seed(0)
    seen: dict[tuple[int, ...], set[int]] = {}
    for _ in range(100):
        drawn = transitions.examples(torch.arange(len(transitions)), 4, 2, generator)
        present = drawn.is_in_basket.bool()
        for place in range(len(transitions)):
            basket = drawn.baskets[place][present[place]].tolist()
            example = (int(drawn.users[place]), *basket, int(drawn.clicked[place]))
            seen.setdefault(example, set()).add(int(drawn.others[place]))
    assert seen == {(7, 3, 1): {0, 2, 3}, (7, 3, 1, 2): {0, 1, 3}, (4, 1, 0): {1, 2, 3}}


def test_users_of_different_taste_go_different_ways_from_the_same_item() -> None:
    """After item 0, users 0 to 4 click item 1 and users 5 to 9 item 2; who is unknown gets one of the two."""
    sessions = sessions_of([[0, 1 + user // 5] for user in range(10)] * 20)
    users = np.tile(np.arange(10), 20)
    settings = FPMCSettings(factors=8, learning_rate=0.1, epochs=60, batch_size=16)
    baseline = FPMC.fit(sessions, 4, settings, torch.Generator().manual_seed(0), users=users)
    known, _ = baseline.top_k(Histories.of([[0]] * 10, users=range(10)), 1)
    assert known[:, 0].tolist() == [1] * 5 + [2] * 5
    unknown, _ = baseline.top_k(Histories.of([[0]] * 2, users=[-1, 10]), 2)
    assert {frozenset(answer) for answer in unknown.tolist()} == {frozenset({1, 2})}
    assert baseline.score(Histories.of([[0]])).tolist() == baseline.score(Histories.of([[0]], users=[-1])).tolist()
    loaded = FPMC.from_tensors(settings, baseline.to_tensors())
    assert loaded.top_k(Histories.of([[0]] * 10, users=range(10)), 1)[0].tolist() == known.tolist()


def test_a_basket_is_the_mean_of_its_last_clicks() -> None:
    settings = FPMCSettings(factors=4, basket=2, epochs=1)
    baseline = FPMC.fit(sessions_of([[0, 1, 2]] * 5), 3, settings, torch.Generator().manual_seed(0))
    tensors = baseline.to_tensors()
    expected = tensors["item_from_last"] @ tensors["last_to_item"][[1, 2]].mean(dim=0)
    torch.testing.assert_close(baseline.score(Histories.of([[0, 1, 2]]))[0], expected)
