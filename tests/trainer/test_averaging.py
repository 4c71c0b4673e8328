import pytest
import torch

from tests.trainer.click_builders import SMALL, cyclic_clicks, table_of
from trainer.averaging import WeightAverage
from trainer.fit import fit


def test_the_average_is_the_mean_of_the_weights_met_the_older_the_less() -> None:
    weights = torch.zeros(2)
    average = WeightAverage({"w": weights}, 0.9)
    for step in range(1, 49):
        weights.fill_(step)
        average.note_step()
    average.apply()
    fades = [0.9**32, 0.9**16, 1.0]
    expected = sum(fade * step for fade, step in zip(fades, (16, 32, 48), strict=True)) / sum(fades)
    assert weights.tolist() == pytest.approx([expected] * 2)


def test_without_averaging_the_last_weights_stay() -> None:
    weights = torch.zeros(2)
    average = WeightAverage({"w": weights}, 0.0)
    for step in range(100):
        weights.fill_(step)
        average.note_step()
    average.apply()
    assert weights.tolist() == [99, 99]


def test_a_fit_with_averaging_ends_elsewhere_than_one_without() -> None:
    table = table_of(cyclic_clicks([f"item-{number}" for number in range(12)], sessions=120))
    last, mean = (
        fit(table, SMALL.model_copy(update={"weight_averaging": kept}), version="v", created_at_ms=0)[0].network
        for kept in (0.0, 0.9)
    )
    assert not torch.equal(last.parameters["embedding"], mean.parameters["embedding"])
