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

from model.gru4rec import GRU4Rec
from model.kernels.compiling import ZERO, Floats, compiled, sigmoid, tanh
from model.kernels.products import multiply_packed, packed, whole
from model.kernels.tiles import COLUMNS, ROWS
from model.waves import Waves

_SHORTEST = np.float32(1e-12)  # of what is divided by, as the tensor library has it


class Player(Protocol):
    """Plays micro-batches through one network."""

    def play(self, waves: Waves, states: Floats, rows: NDArray[np.int64]) -> Tensor:
        """Return the states before the batch and after each known click in wave order, float32 [S + K, W].

        Args:
            waves: What is computed when.
            states: float32 [S, W], before the batch.
            rows: int64 [C], each click's item.
        """

    def ask(self, hidden: Tensor, waves: Waves) -> Tensor:
        """Return what is compared with the items after each click of the batch, float32 [C, D].

        Args:
            hidden: What `play` returned.
            waves: As there.
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

    def ask(self, hidden: Tensor, waves: Waves) -> Tensor:
        """See `Player`."""
        last_row, after_click = (
            torch.from_numpy(array).to(self._device) for array in (waves.last_row, waves.after_click)
        )
        last = self._network.inputs(last_row.clamp(min=0)) * (last_row >= 0)[:, None]
        return self._network.as_comparing(self._network.query(hidden.index_select(0, after_click), last))


class CompiledPlayer:
    """Plays on the CPU in one compiled pass a layer, for reset gates that act before the product.

    A wave is a few clicks, and a call for each small operation costs more than the operation.
    """

    def __init__(self, network: GRU4Rec) -> None:
        self._network = network
        self._input_table = network.input_table.numpy()
        self._layers = [_Layer(network, layer) for layer in range(len(network.settings.hidden_sizes))]

    def play(self, waves: Waves, states: Floats, rows: NDArray[np.int64]) -> Tensor:
        """See `Player`."""
        sessions, settings = len(states), self._network.settings
        hidden = np.empty((sessions + len(waves.clicks), states.shape[1]), dtype=np.float32)
        hidden[:sessions] = states
        x = _inputs(self._input_table, rows[waves.clicks], settings.input_length)
        below, first = x, 0
        for layer in self._layers:
            layer.advance(below, waves, hidden, first)
            below, first = hidden[sessions:, first : first + layer.width], first + layer.width
        if settings.trace_width:
            _carry_trace(waves.before, settings.trace_decay, x, hidden, first)
        return torch.from_numpy(hidden)

    def ask(self, hidden: Tensor, waves: Waves) -> Tensor:
        """See `Player`."""
        settings = self._network.settings
        if settings.feedforward_sizes:
            return PlainPlayer(self._network, hidden.device).ask(hidden, waves)
        width, end = settings.hidden_sizes[-1], sum(settings.hidden_sizes)
        added = np.empty((0, width), dtype=np.float32)
        if settings.skip and not settings.trace_width:
            added = _inputs(self._input_table, waves.last_row, settings.input_length)
        weight = settings.skip_weight if settings.skip else 0.0
        state = hidden.numpy()
        return torch.from_numpy(_ask(state, waves.after_click, end - width, end, added, weight, settings.cosine_scale))


class _Layer:
    def __init__(self, network: GRU4Rec, layer: int) -> None:
        parameters, settings = network.parameters, network.settings
        self.width = settings.hidden_sizes[layer]
        self._bias = parameters[f"gru.{layer}.bias"].numpy()
        # One-hot input is its own projection.
        is_projected = layer == 0 and settings.item_input == "one_hot"
        self._input_weight = None if is_projected else packed(parameters[f"gru.{layer}.input_weight"].numpy())
        self._recurrent_weight = packed(parameters[f"gru.{layer}.recurrent_weight"].numpy())
        self._candidate_weight = packed(parameters[f"gru.{layer}.candidate_weight"].numpy())

    def advance(self, below: Floats, waves: Waves, hidden: Floats, first: int) -> None:
        """Write h' of all clicks, wave by wave, to their lines of `hidden`.

        Args:
            below: float32 [K, E], what the layer takes in.
            waves: What is computed when.
            hidden: float32 [S + K, W].
            first: Where the layer's part of a state begins.
        """
        projected = below if self._input_weight is None else _projected(below, self._input_weight)
        weights = self._recurrent_weight, self._candidate_weight, self._bias
        _advance(projected, np.array(waves.bounds), waves.before, *weights, hidden, first, self.width)


@compiled
def _inputs(table: Floats, rows: NDArray[np.int64], length: float) -> Floats:
    """Return `GRU4Rec.inputs` of rows, float32 [n, E]; zeros for -1."""
    x = np.zeros((len(rows), table.shape[1]), dtype=np.float32)
    for i in range(len(rows)):
        if rows[i] >= 0:
            x[i] = table[rows[i]]
            if length > 0:
                _stretch(x[i], length)
    return x


@compiled
def _ask(
    state: Floats, places: NDArray[np.int64], first: int, end: int, added: Floats, weight: float, scale: float
) -> Floats:
    """Return queries: columns `first` to `end`, plus `weight` times `added`, or times the trace where that is empty."""
    queries = np.empty((len(places), end - first), dtype=np.float32)
    share = np.float32(weight)
    for c in range(len(places)):
        query, line = queries[c], state[places[c]]
        query[:] = line[first:end]
        if weight > 0:
            more = added[c] if len(added) else line[end:]
            for j in range(len(query)):
                query[j] += share * more[j]
        if scale > 0:
            _stretch(query, scale)
    return queries


@compiled
def _stretch(vector: Floats, length: float) -> None:
    """Bring a vector to a length; one of nothing stays that."""
    total = ZERO
    for value in vector:
        total += value * value
    factor = np.float32(length) / max(np.sqrt(total), _SHORTEST)
    for j in range(len(vector)):
        vector[j] *= factor


@compiled
def _projected(below: Floats, weight: Floats) -> Floats:
    """Return below W, float32 [K, up to whole ROWS; 3H, up to whole COLUMNS]."""
    lines = np.zeros((whole(len(below), ROWS), below.shape[1]), dtype=np.float32)
    lines[: len(below)] = below
    out = np.empty((len(lines), len(weight) * COLUMNS), dtype=np.float32)
    multiply_packed(lines, weight, out)
    return out


@compiled
def _advance(
    projected: Any,
    bounds: Any,
    before: Any,
    recurrent: Any,
    candidate: Any,
    bias: Any,
    hidden: Any,
    first: int,
    width: int,
) -> None:
    """Play one layer; `projected` [at least K, at least 3H] is x W without the bias, the rest as in `_Layer`."""
    clicks, most = bounds[-1], 0
    for wave in range(len(bounds) - 1):
        most = max(most, bounds[wave + 1] - bounds[wave])
    sessions, lines = len(hidden) - clicks, whole(most, ROWS)
    h, reset_h = np.zeros((lines, width), dtype=np.float32), np.zeros((lines, width), dtype=np.float32)
    gates = np.empty((lines, len(recurrent) * COLUMNS), dtype=np.float32)
    c = np.empty((lines, len(candidate) * COLUMNS), dtype=np.float32)
    for wave in range(len(bounds) - 1):
        start, stop = bounds[wave], bounds[wave + 1]
        used = whole(stop - start, ROWS)
        for i in range(stop - start):
            for j in range(width):
                h[i, j] = hidden[before[start + i], first + j]
        multiply_packed(h[:used], recurrent, gates)
        _open_gates(projected[start:stop], bias, h, gates, reset_h)
        multiply_packed(reset_h[:used], candidate, c)
        _close_gates(projected[start:stop], bias, h, gates, c, hidden[sessions + start :, first : first + width])


@compiled
def _open_gates(projected: Any, bias: Any, h: Any, gates: Any, reset_h: Any) -> None:
    """Turn h U into z and r, and write r * h."""
    width = h.shape[1]
    for i in range(len(projected)):
        x = projected[i]
        for j in range(2 * width):
            gates[i, j] = sigmoid(gates[i, j] + x[j] + bias[j])
        for j in range(width):
            reset_h[i, j] = gates[i, width + j] * h[i, j]


@compiled
def _close_gates(projected: Any, bias: Any, h: Any, gates: Any, c: Any, after: Any) -> None:
    """Turn (r * h) U into c, and write h' = h + z (c - h)."""
    width = h.shape[1]
    for i in range(len(projected)):
        x, candidate_bias, written = projected[i, 2 * width :], bias[2 * width :], after[i]
        for j in range(width):
            c[i, j] = tanh(c[i, j] + x[j] + candidate_bias[j])
        for j in range(width):
            written[j] = h[i, j] + gates[i, j] * (c[i, j] - h[i, j])


@compiled
def _carry_trace(before: Any, decay: float, x: Any, hidden: Any, first: int) -> None:
    """Write decay * t + x, the trace after each click, from column `first` on."""
    share, sessions = np.float32(decay), len(hidden) - len(before)
    for i in range(len(before)):  # in wave order, so what it starts from is there
        trace, written = hidden[before[i], first:], hidden[sessions + i, first:]
        for j in range(len(trace)):
            written[j] = share * trace[j] + x[i, j]
