import numpy as np
import pytest
import torch
from torch import nn

from model.baselines.bert4rec import BERT4Rec, BERT4RecSettings
from model.baselines.histories import Histories
from model.baselines.transformer import initialised, no_dropout

SETTINGS = BERT4RecSettings(embedding_size=8, blocks=2, heads=2, length=6)
ITEMS = 10


def untrained(settings: BERT4RecSettings = SETTINGS) -> BERT4Rec:
    parameters = initialised(settings.shapes(ITEMS), 0.3, torch.Generator().manual_seed(0))
    return BERT4Rec(settings, {name: tensor.detach() for name, tensor in parameters.items()})


def layer_of_torch(weights: dict[str, torch.Tensor]) -> nn.TransformerEncoderLayer:
    """Torch's own encoder layer with the weights of one block."""
    layer = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, activation="gelu", batch_first=True)
    three = ("query", "key", "value")
    layer.self_attn.in_proj_weight.data = torch.cat([weights[f"{name}_weight"].T for name in three])
    layer.self_attn.in_proj_bias.data = torch.cat([weights[f"{name}_bias"] for name in three])
    for linear, name in ((layer.self_attn.out_proj, "mixed"), (layer.linear1, "hidden"), (layer.linear2, "output")):
        linear.weight.data, linear.bias.data = weights[f"{name}_weight"].T.contiguous(), weights[f"{name}_bias"]
    for norm, name in ((layer.norm1, "attention"), (layer.norm2, "feedforward")):
        norm.weight.data, norm.bias.data = weights[f"{name}_scale"], weights[f"{name}_shift"]
    return layer


def by_layers_of_torch(baseline: BERT4Rec, rows: list[int], masked: int) -> torch.Tensor:
    """Score one sequence at its masked place with torch's own layers."""
    weights = baseline.to_tensors()
    x = weights["embedding"][rows].clone()
    x[masked] = weights["mask"][0]
    x += weights["position"][: len(rows)]
    x = nn.functional.layer_norm(x, (8,), weights["embedding_scale"], weights["embedding_shift"]).unsqueeze(0)
    for block in range(2):
        x = layer_of_torch(
            {name.removeprefix(f"block.{block}."): tensor for name, tensor in weights.items() if "block" in name}
        )(x)
    mapped = nn.functional.gelu(x[0, masked] @ weights["head_weight"] + weights["head_bias"])
    head = nn.functional.layer_norm(mapped, (8,), weights["head_scale"], weights["head_shift"])
    return (weights["embedding"] @ head + weights["item_bias"]).detach()


def test_a_history_is_scored_at_a_mask_behind_it_as_by_the_layers_of_torch() -> None:
    baseline = untrained()
    found = baseline.score(Histories.of([[1, 5, 2, 2], [3], [0, 1, 2, 3, 4, 5, 6, 7], []]))
    sequences = ([1, 5, 2, 2, 0], [3, 0], [3, 4, 5, 6, 7, 0], [0])
    expected = [by_layers_of_torch(baseline, rows, len(rows) - 1) for rows in sequences]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_loss_is_the_cross_entropy_of_what_is_masked_given_all_else() -> None:
    baseline = untrained(BERT4RecSettings(embedding_size=8, blocks=2, heads=2, length=6, last_share=1.0))
    sessions = [[1, 5, 2, 2], [3, 0]]
    found = baseline.loss(Histories.of(sessions), no_dropout, torch.Generator().manual_seed(0))
    log_p = [by_layers_of_torch(baseline, rows, len(rows) - 1).log_softmax(dim=0)[rows[-1]] for rows in sessions]
    assert float(found) == pytest.approx(-float(torch.stack(log_p).mean()), rel=1e-5)


def test_masks_are_drawn_at_the_share_asked_for_and_every_session_has_one() -> None:
    """A click is masked with a chance of 0.2, and where none of 5 is, one is: 0.2 * 5 + 0.8^5 = 1.328 in the mean.

    Over 20,000 sessions the mean has a deviation below 0.007; the bound is 5 deviations: 1 in 1,700,000 runs fails.
    """
    sessions = Histories.of([[1, 2, 3, 4, 5]] * 20_000)
    is_row = sessions.padded()[1]
    masked = untrained(BERT4RecSettings(last_share=0.0))._masks(sessions, is_row, torch.Generator().manual_seed(0))
    assert masked.any(axis=1).all()
    assert masked.sum(axis=1).mean() == pytest.approx(1.328, abs=0.035)
    assert masked.mean(axis=0) == pytest.approx(np.full(5, 1.328 / 5), abs=0.02)


def test_masks_never_lie_on_what_was_filled_up() -> None:
    sessions = Histories.of([[1, 2], [3, 4, 5, 6, 7], [8, 9, 1]] * 200)
    is_row = sessions.padded()[1]
    for last_share in (0.0, 1.0):
        settings = BERT4RecSettings(last_share=last_share, mask_share=0.7)
        masked = untrained(settings)._masks(sessions, is_row, torch.Generator().manual_seed(0))
        assert not (masked & ~is_row).any()
    last = masked.argmax(axis=1).tolist()
    assert masked.sum() == 600
    assert last == [1, 4, 2] * 200
