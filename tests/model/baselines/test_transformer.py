import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from model.baselines.histories import Histories
from model.baselines.transformer import Descent, _mini_batches, attend, dropout_of, initialised, no_dropout, trained
from tests.model.baselines.sessions_of_rows import sessions_of


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_that_of_torch(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 5, 8, generator=generator).unbind()
    allowed = torch.rand(2, 5, 5, generator=generator) < 0.5
    allowed |= torch.eye(5, dtype=torch.bool)
    found = attend(query, key, value, heads=heads, allowed=allowed, dropout=no_dropout)
    split = [x.view(2, 5, heads, -1).transpose(1, 2) for x in (query, key, value)]
    expected = scaled_dot_product_attention(split[0], split[1], split[2], attn_mask=allowed.unsqueeze(1))
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(2))


def test_dropout_keeps_the_mean_and_drops_the_share_asked_for() -> None:
    """The share dropped of 100,000 has a deviation of 0.0014; the bound is 5 deviations: 1 in 1,700,000 fails."""
    dropped = dropout_of(0.3, torch.Generator().manual_seed(0))(torch.ones(100_000))
    assert sorted(set(dropped.tolist())) == pytest.approx([0, 1 / 0.7])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.0073)


def test_an_epoch_holds_every_session_once_in_batches_of_about_as_many_clicks() -> None:
    generator = np.random.default_rng(0)
    clicks = [[place] * int(generator.geometric(0.3)) for place in range(500)]
    histories = Histories.of(clicks)
    for batch_size in (1, 16, 1000):
        descent = Descent(batch_size=batch_size, epochs=2, length=8)
        batches = list(_mini_batches(histories, descent, torch.Generator().manual_seed(0)))
        sessions = [int(rows[0]) for batch in batches for rows in np.split(batch.rows, batch.offsets[1:-1])]
        assert sorted(sessions[:500]) == sorted(sessions[500:]) == list(range(500))
        assert sessions[:500] != sessions[500:]
        most = batch_size * np.minimum(histories.lengths, 8).mean()
        assert all(np.minimum(batch.lengths, 8).sum() <= most + 8 for batch in batches)
        assert len(batches) <= 2 * -(-500 // batch_size)


def test_training_minimises_by_sessions_of_two_clicks_or_more() -> None:
    """The mean length of sessions is learnt; that of one click does not count."""
    parameters = initialised({"length_shift": (1,)}, 1.0, torch.Generator().manual_seed(0))
    learnt = trained(
        parameters,
        torch.optim.SGD(parameters.values(), lr=0.1),
        sessions_of([[0], [0, 1], [0, 1, 1, 0]]),
        lambda batch: (parameters["length_shift"] - float(batch.lengths.mean())).square().sum(),
        descent=Descent(batch_size=2, epochs=100, length=10),
        generator=torch.Generator().manual_seed(0),
        on_progress=lambda _done, _total: None,
    )
    assert learnt["length_shift"].item() == pytest.approx(3.0, abs=1e-3)
    assert not learnt["length_shift"].requires_grad


def test_training_that_diverges_says_so() -> None:
    parameters = initialised({"x_shift": (1,)}, 1.0, torch.Generator().manual_seed(0))
    with pytest.raises(FloatingPointError, match="'x_shift' is not finite; try a smaller learning rate"):
        trained(
            parameters,
            torch.optim.SGD(parameters.values(), lr=1e30),
            sessions_of([[0, 1]]),
            lambda _batch: (parameters["x_shift"] - 1).pow(4).sum(),
            descent=Descent(batch_size=1, epochs=5, length=10),
            generator=torch.Generator().manual_seed(0),
            on_progress=lambda _done, _total: None,
        )
