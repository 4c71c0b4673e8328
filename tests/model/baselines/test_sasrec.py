import pytest
import torch
from torch import nn

from model.baselines.histories import Histories
from model.baselines.sasrec import SASRec, SASRecSettings
from model.baselines.transformer import initialised, no_dropout
from model.ranking import ranks
from tests.model.baselines.sessions_of_rows import cyclic, fitted, next_clicks

SETTINGS = SASRecSettings(embedding_size=8, blocks=2, heads=2, length=6)
ITEMS = 10


def untrained(settings: SASRecSettings = SETTINGS) -> SASRec:
    parameters = initialised(settings.shapes(ITEMS), 0.3, torch.Generator().manual_seed(0))
    return SASRec(settings, {name: tensor.detach() for name, tensor in parameters.items()})


def by_modules_of_torch(baseline: SASRec, rows: list[int]) -> torch.Tensor:
    """Encode one history with torch's own layers holding the same weights."""
    weights = baseline.to_tensors()
    x = (weights["embedding"][rows] * 8**0.5 + weights["position"][: len(rows)]).unsqueeze(0)
    causal = nn.Transformer.generate_square_subsequent_mask(len(rows))
    for block in range(2):
        its = {name.removeprefix(f"block.{block}."): tensor for name, tensor in weights.items()}
        attention = nn.MultiheadAttention(8, 2, bias=False, batch_first=True)
        attention.in_proj_weight.data = torch.cat([its[f"{name}_weight"].T for name in ("query", "key", "value")])
        attention.out_proj.weight.data = torch.eye(8)
        calm = nn.functional.layer_norm(x, (8,), its["attention_scale"], its["attention_shift"])
        x = x + attention(calm, calm, calm, attn_mask=causal, need_weights=False)[0]
        calm = nn.functional.layer_norm(x, (8,), its["feedforward_scale"], its["feedforward_shift"])
        hidden = torch.relu(calm @ its["hidden_weight"] + its["hidden_bias"])
        x = x + hidden @ its["output_weight"] + its["output_bias"]
    return nn.functional.layer_norm(x, (8,), weights["final_scale"], weights["final_shift"])[0, -1].detach()


def test_a_history_is_encoded_as_by_the_layers_of_torch() -> None:
    baseline = untrained()
    found = baseline.encode(Histories.of([[1, 5, 2, 2], [3], [0, 1, 2, 3, 4, 5, 6, 7]]))
    expected = [by_modules_of_torch(baseline, rows) for rows in ([1, 5, 2, 2], [3], [2, 3, 4, 5, 6, 7])]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_loss_is_the_mean_cross_entropy_of_each_next_click_given_those_before() -> None:
    baseline = untrained()
    sessions = [[1, 5, 2, 2], [3, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8]]
    generator = torch.Generator().manual_seed(0)
    found = baseline.loss(Histories.of(sessions), no_dropout, generator)
    kept = [session[-7:] for session in sessions]  # of a long session, as many clicks as there are positions and one
    cases = [(rows[:place], rows[place]) for rows in kept for place in range(1, len(rows))]
    log_p = baseline.score(Histories.of([history for history, _ in cases])).log_softmax(dim=1)
    expected = -torch.stack([log_p[case, target] for case, (_, target) in enumerate(cases)]).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_sampled_loss_is_the_cross_entropy_over_the_target_and_samples_that_are_not_it() -> None:
    baseline = untrained(SASRecSettings(embedding_size=8, blocks=2, heads=2, length=6, negatives=5))
    drawn = torch.randint(ITEMS, (5,), generator=torch.Generator().manual_seed(3))
    target = int(drawn[0])  # so that one sample at least is the target
    found = baseline.loss(Histories.of([[1, 5, target]]), no_dropout, torch.Generator().manual_seed(3))
    scores = baseline.score(Histories.of([[1], [1, 5]]))
    expected = 0.0
    for row, wanted in enumerate([5, target]):
        others = drawn[drawn != wanted]
        expected -= float(torch.cat([scores[row, wanted, None], scores[row, others]]).log_softmax(dim=0)[0]) / 2
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_sampled_loss_learns_a_cycle_too() -> None:
    baseline = fitted("sasrec", cyclic(12, sessions=300), 12, negatives=4)
    histories, targets = next_clicks(cyclic(12, sessions=60, start=5))
    assert ranks(baseline.score(histories), torch.from_numpy(targets)).max() == 1
