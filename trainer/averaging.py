"""The mean of the weights over the last mini-batches, which ranks better than the last weights of a noisy descent."""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.gru4rec import GRU4Rec
from trainer.settings import TrainerSettings

_EVERY_STEPS = 16  # averaging walks through all weights, a mini-batch through few: rarely is enough, and nearly free


class WeightAverage:
    """An exponential moving average of a network's parameters; does nothing where nothing is kept.

    Source: Polyak & Juditsky 1992, with exponentially fading weights.

    Args:
        parameters: What changes in place while it trains.
        kept: What the average keeps of itself with each mini-batch, from 0 (no average) to below 1.
    """

    def __init__(self, parameters: Mapping[str, Tensor], kept: float) -> None:
        self._kept = kept
        self._parameters = {name: tensor.detach() for name, tensor in parameters.items()} if kept else {}
        self._average: dict[str, Tensor] = {}
        self._mass = 0.0
        self._steps = 0

    @staticmethod
    def of(network: GRU4Rec, settings: TrainerSettings) -> "WeightAverage":
        """Return the average that the settings ask for."""
        return WeightAverage(network.parameters, settings.weight_averaging)

    def note_step(self) -> None:
        """Take in the weights after one more mini-batch."""
        self._steps += 1
        if self._parameters and self._steps % _EVERY_STEPS == 0:
            self._take_in()

    @torch.no_grad()
    def _take_in(self) -> None:
        # The share of the newest weights in a mean whose older parts have faded: 1 for the first.
        self._mass = self._mass * self._kept**_EVERY_STEPS + 1
        if not self._average:
            self._average = {name: tensor.clone() for name, tensor in self._parameters.items()}
        for name, average in self._average.items():
            average.lerp_(self._parameters[name], 1 / self._mass)

    @torch.no_grad()
    def apply(self) -> None:
        """Give the network the average; after too few mini-batches for one its weights stay."""
        for name, average in self._average.items():
            self._parameters[name].copy_(average)
