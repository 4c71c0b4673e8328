"""The clicks of a micro-batch played through the network: states before and after each, wave by wave.

Shape letters: S sessions, K known clicks, W state width, E input width, H width of one layer, B clicks of a wave.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compiling import Floats, compiled, sigmoid, tanh
from model.gru4rec import GRU4Rec
from model.waves import Waves


class Player(Protocol):
    """Plays micro-batches through one network."""

    def play(self, waves: Waves, states: Floats, rows: NDArray[np.int64]) -> Tensor:
        """Return the states before the batch and after each known click in wave order, float32 [S + K, W].

        Args:
            waves: What is computed when.
            states: float32 [S, W], before the batch.
            rows: int64 [C], each click's item.
        """


def player_of(network: GRU4Rec, device: torch.device) -> Player:
    """Return the player that suits the network and its device."""
    if device.type == "cpu" and network.settings.reset_gate == "before":
        return CompiledPlayer(network)
    return PlainPlayer(network, device)


class PlainPlayer:
    """Plays with the tensor library, on any device: the reference for `CompiledPlayer`."""

    def __init__(self, network: GRU4Rec, device: torch.device) -> None:
        self._network, self._device = network, device

    def play(self, waves: Waves, states: Floats, rows: NDArray[np.int64]) -> Tensor:
        """See `Player`."""
        places = np.empty((len(states) + len(waves.clicks), states.shape[1]), dtype=np.float32)
        places[: len(states)] = states
        hidden, before, clicked = (
            torch.from_numpy(array).to(self._device) for array in (places, waves.before, rows[waves.clicks])
        )
        x = self._network.inputs(clicked)
        for start, stop in pairwise(waves.bounds):
            stepped = self._network.advance(x[start:stop], hidden.index_select(0, before[start:stop]))
            hidden[len(states) + start : len(states) + stop] = stepped
        return hidden


class CompiledPlayer:
    """Plays on the CPU with a compiled pass between matrix products, for reset gates that act before the product.

    A wave is a few clicks, and a call into the tensor library for each small operation costs more than the operation.
    """

    def __init__(self, network: GRU4Rec) -> None:
        self._network = network
        self._layers = [_Layer(network, layer) for layer in range(len(network.settings.hidden_sizes))]

    def play(self, waves: Waves, states: Floats, rows: NDArray[np.int64]) -> Tensor:
        """See `Player`."""
        hidden = np.empty((len(states) + len(waves.clicks), states.shape[1]), dtype=np.float32)
        hidden[: len(states)] = states
        x = self._network.inputs(torch.from_numpy(rows[waves.clicks]))
        projected = self._layers[0].projected(x)
        trace = self._network.settings.trace_width
        for start, stop in pairwise(waves.bounds):
            before, after = waves.before[start:stop], hidden[len(states) + start : len(states) + stop]
            below, first = projected[start:stop], 0
            for place, layer in enumerate(self._layers):
                output = layer.advance(below if place == 0 else layer.projected(below), hidden, before, first, after)
                below, first = output, first + layer.width
            if trace:
                _carry_trace(hidden, before, first, self._network.settings.trace_decay, x[start:stop].numpy(), after)
        return torch.from_numpy(hidden)


class _Layer:
    def __init__(self, network: GRU4Rec, layer: int) -> None:
        parameters, settings = network.parameters, network.settings
        self.width = settings.hidden_sizes[layer]
        self._bias = parameters[f"gru.{layer}.bias"].numpy()
        # One-hot input is its own projection.
        is_projected = layer == 0 and settings.item_input == "one_hot"
        self._input_weight = None if is_projected else parameters[f"gru.{layer}.input_weight"]
        self._recurrent_weight = parameters[f"gru.{layer}.recurrent_weight"]
        self._candidate_weight = parameters[f"gru.{layer}.candidate_weight"]

    def projected(self, x: Tensor) -> Tensor:
        """Return x W, float32 [B, 3H], which `advance` changes; one-hot input is that itself."""
        return x if self._input_weight is None else x @ self._input_weight

    def advance(self, gates: Tensor, hidden: Floats, before: NDArray[np.int64], first: int, after: Floats) -> Tensor:
        """Write h' to columns `first` on of `after` [B, W] and return it, float32 [B, H].

        Args:
            gates: `projected`, float32 [B, 3H], changed.
            hidden: float32 [S + K, W].
            before: int64 [B], rows of `hidden` that the clicks start from.
            first: Where the layer's part of a state begins.
            after: float32 [B, W].
        """
        h = torch.from_numpy(hidden[before, first : first + self.width])
        reset_h = torch.empty_like(h)
        gates[:, : 2 * self.width].addmm_(h, self._recurrent_weight)
        open_gates(self._bias, gates.numpy(), h.numpy(), reset_h.numpy())
        gates[:, 2 * self.width :].addmm_(reset_h, self._candidate_weight)
        _close_gates(self._bias, gates.numpy(), h.numpy(), first, after)
        return h


@compiled
def open_gates(bias: Floats, gates: Floats, h: Floats, reset_h: Floats) -> None:
    """Turn the projections [B, 3H] into z and r, and write r * h, with h [B, H].

    `gates` holds x W_z + h U_z, x W_r + h U_r and x W, without the biases; the last third is left to `close_gates`.
    """
    width = h.shape[1]
    for i in range(len(h)):
        for j in range(2 * width):
            gates[i, j] = sigmoid(gates[i, j] + bias[j])
        for j in range(width):
            reset_h[i, j] = gates[i, width + j] * h[i, j]


@compiled
def _close_gates(bias: Any, gates: Any, h: Any, first: int, after: Any) -> None:
    """Turn h into h' = h + z (c - h), with c from the last third of `gates`, and write it to the states after."""
    width = h.shape[1]
    for i in range(len(h)):
        candidate, candidate_bias = gates[i, 2 * width :], bias[2 * width :]
        written = after[i, first : first + width]
        for j in range(width):
            candidate[j] = tanh(candidate[j] + candidate_bias[j])
        for j in range(width):
            h[i, j] += gates[i, j] * (candidate[j] - h[i, j])
        for j in range(width):
            written[j] = h[i, j]


@compiled
def _carry_trace(hidden: Any, before: Any, first: int, decay: float, x: Any, after: Any) -> None:
    """Write decay * t + x, the trace after each click."""
    share = np.float32(decay)
    for i in range(len(before)):
        trace, written = hidden[before[i], first:], after[i, first:]
        for j in range(len(trace)):
            written[j] = share * trace[j] + x[i, j]
