"""The clicks of a micro-batch played through the network: what each leads to, wave by wave.

Shape letters: S sessions, C clicks, K of them on known items, W state width, D query width, E input width, H width of
one layer.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Queries
from model.gru4rec import GRU4Rec
from model.kernels.compiling import ZERO, Floats, Ints, compiled, part, sigmoid, tanh
from model.kernels.products import multiply_packed, packed, whole
from model.kernels.tiles import COLUMNS, ROWS
from model.waves import arrange, plan_waves

_SHORTEST = np.float32(1e-12)  # of what is divided by, as the tensor library has it
_NOTHING = np.empty((0, 0, 0), dtype=np.float32)


@dataclass(frozen=True)
class Reached:
    """Where a micro-batch of clicks leads.

    Attributes:
        states: float32 [S, W], after all clicks.
        queries: float32 [C, D], what is compared with the items after each click.
        known: bool [C], whether the click's session has a known item up to that click.
    """

    states: Floats
    queries: Queries
    known: NDArray[np.bool_]


class Player(Protocol):
    """Plays micro-batches through one network."""

    def play(self, states: Floats, last_rows: Ints, slots: Ints, rows: Ints) -> Reached:
        """Apply a micro-batch of clicks; no input is changed.

        The n-th known click of a session is computed in wave n. One on an unknown item leaves the state as it was.

        Args:
            states: float32 [S, W], before the first click; zeros for a new session.
            last_rows: int64 [S], row of each session's last known item, -1 for none.
            slots: int64 [C], each click's session as a place in `states`; clicks stand in order of arrival.
            rows: int64 [C], each click's item, -1 for an unknown one.
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

    @torch.inference_mode()
    def play(self, states: Floats, last_rows: Ints, slots: Ints, rows: Ints) -> Reached:
        """See `Player`."""
        network, waves = self._network, plan_waves(last_rows, slots, rows)
        places = np.empty((len(states) + len(waves.clicks), states.shape[1]), dtype=np.float32)
        places[: len(states)] = states
        hidden, before, clicked, after_click, last_row = (
            torch.from_numpy(array).to(self._device)
            for array in (places, waves.before, rows[waves.clicks], waves.after_click, waves.last_row)
        )
        x = network.inputs(clicked)
        for start, stop in pairwise(waves.bounds):
            stepped = network.advance(x[start:stop], hidden.index_select(0, before[start:stop]))
            hidden[len(states) + start : len(states) + stop] = stepped
        last = network.inputs(last_row.clamp(min=0)) * (last_row >= 0)[:, None]
        queries = network.as_comparing(network.query(hidden.index_select(0, after_click), last))
        return Reached(hidden.cpu().numpy()[waves.after_all], queries, waves.last_row >= 0)


class CompiledPlayer:
    """Plays on the CPU in one compiled pass, for reset gates that act before the product.

    A micro-batch may be a click or two, and a call for each small operation costs more than the operation.
    """

    def __init__(self, network: GRU4Rec) -> None:
        settings = network.settings
        self._table = network.input_table.numpy()
        self._weights, self._shapes = _side_by_side(network)
        self._widths = np.array(settings.hidden_sizes)
        self._query_width = [*settings.hidden_sizes, *settings.feedforward_sizes][-1]
        # A whole number would have all of it compiled for whole numbers.
        self._length, self._scale = float(settings.input_length), float(settings.cosine_scale)
        self._decay = float(settings.trace_decay) if settings.trace_width else -1.0
        self._skip_weight = float(settings.skip_weight) if settings.skip else 0.0

    def play(self, states: Floats, last_rows: Ints, slots: Ints, rows: Ints) -> Reached:
        """See `Player`."""
        after = np.empty(states.shape, dtype=np.float32)
        queries = np.empty((len(slots), self._query_width), dtype=np.float32)
        known = np.empty(len(slots), dtype=np.bool_)
        network = self._table, self._weights, self._shapes, self._widths
        numbers = self._length, self._decay, self._skip_weight, self._scale
        _play(states, last_rows, slots, rows, *network, *numbers, after, queries, known)
        return Reached(after, queries, known)


def _side_by_side(network: GRU4Rec) -> tuple[Floats, Ints]:
    """Return all weights in one array, so that one compiled function takes any number of layers.

    Returns:
        float32, and int64 [matrices, 4]: where each begins there and its shape, as `packed` has it. For each layer
        these are the weights of input (nothing where one-hot input is its own projection), gates and candidate, and
        the bias; then for each feedforward layer its weight and bias.
    """
    settings, parameters = network.settings, network.parameters
    names = [
        f"gru.{layer}.{part}"
        for layer in range(len(settings.hidden_sizes))
        for part in ("input_weight", "recurrent_weight", "candidate_weight", "bias")
    ] + [
        f"feedforward.{layer}.{part}" for layer in range(len(settings.feedforward_sizes)) for part in ("weight", "bias")
    ]
    matrices = [_packed(parameters[name].numpy()) if name in parameters else _NOTHING for name in names]
    starts = np.cumsum([0, *(matrix.size for matrix in matrices)])
    shapes = [(start, *matrix.shape) for start, matrix in zip(starts.tolist(), matrices, strict=False)]
    return np.concatenate([matrix.ravel() for matrix in matrices]), np.array(shapes)


def _packed(weights: Floats) -> Floats:
    return packed(weights) if weights.ndim > 1 else weights.reshape(1, 1, -1)


@part
def _matrix(weights: Any, shapes: Any, place: int) -> Any:
    start, panels, depth, width = shapes[place]
    return weights[start : start + panels * depth * width].reshape((panels, depth, width))


@compiled
def _play(
    states: Any,
    last_rows: Any,
    slots: Any,
    rows: Any,
    table: Any,
    weights: Any,
    shapes: Any,
    widths: Any,
    length: float,
    decay: float,
    skip_weight: float,
    scale: float,
    after: Any,
    queries: Any,
    known: Any,
) -> None:
    """Write what a micro-batch leads to; see `Player.play` and `Reached`.

    Args:
        states: float32 [S, W]
        last_rows: int64 [S]
        slots: int64 [C]
        rows: int64 [C]
        table: float32 [N, E], what the network takes in of each item.
        weights: See `_side_by_side`, like the next.
        shapes: Where they lie.
        widths: Of the layers.
        length: That vectors of items are stretched to; 0: as they are.
        decay: Of the trace; below 0 where none is carried.
        skip_weight: How much of the trace, or else of the last item, is added to a query; 0 for nothing.
        scale: That queries are stretched to; 0: as they are.
        after: float32 [S, W], written.
        queries: float32 [C, D], written.
        known: bool [C], written.
    """
    clicks, before, bounds, after_click, after_all, last_row = arrange(last_rows, slots, rows)
    sessions = len(states)
    hidden = np.empty((sessions + len(clicks), states.shape[1]), dtype=np.float32)
    hidden[:sessions] = states
    below = _inputs(table, rows[clicks], length)
    if decay >= 0:
        _carry_trace(before, decay, below, hidden, states.shape[1] - table.shape[1])
    first = 0
    for layer in range(len(widths)):
        if layer:
            below = _lines(hidden, np.arange(sessions, len(hidden)), first - widths[layer - 1], first)
        gates, candidate = _matrix(weights, shapes, 4 * layer + 1), _matrix(weights, shapes, 4 * layer + 2)
        projected = _product(below, _matrix(weights, shapes, 4 * layer))
        bias = _matrix(weights, shapes, 4 * layer + 3)[0, 0]
        _advance(projected, bounds, before, gates, candidate, bias, hidden, first, widths[layer])
        first += widths[layer]

    output = _lines(hidden, after_click, first - widths[-1], first)
    for place in range(4 * len(widths), len(shapes), 2):
        if place > 4 * len(widths):
            for i in range(len(output)):
                for j in range(output.shape[1]):
                    output[i, j] = tanh(output[i, j])
        bias = _matrix(weights, shapes, place + 1)[0, 0]
        product = _product(output, _matrix(weights, shapes, place))
        output = product[:, : len(bias)] + bias
    added = _inputs(table, last_row if skip_weight > 0 and decay < 0 else last_row[:0], length)
    _ask(output, added, hidden, after_click, skip_weight, scale, queries)
    for s in range(sessions):
        after[s] = hidden[after_all[s]]
    for c in range(len(known)):
        known[c] = last_row[c] >= 0


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
def _stretch(vector: Floats, length: float) -> None:
    """Bring a vector to a length; one of nothing stays that."""
    total = ZERO
    for value in vector:
        total += value * value
    factor = np.float32(length) / max(np.sqrt(total), _SHORTEST)
    for j in range(len(vector)):
        vector[j] *= factor


@compiled
def _lines(hidden: Any, places: Any, first: int, end: int) -> Any:
    """Return columns of some states, side by side."""
    lines = np.empty((len(places), end - first), dtype=np.float32)
    for i in range(len(places)):
        line = hidden[places[i]]
        for j in range(end - first):
            lines[i, j] = line[first + j]
    return lines


@compiled
def _product(below: Any, weight: Any) -> Any:
    """Return below W, float32 [n, up to whole ROWS; up to whole COLUMNS]; `below` itself where there is no weight."""
    if len(weight) == 0:
        return below
    lines = np.zeros((whole(len(below), ROWS), below.shape[1]), dtype=np.float32)
    lines[: len(below)] = below
    out = np.empty((len(lines), len(weight) * COLUMNS), dtype=np.float32)
    multiply_packed(lines, weight, out)
    return out


@compiled
def _ask(output: Any, added: Any, hidden: Any, places: Any, weight: float, scale: float, queries: Any) -> None:
    """Write `output` plus `weight` times `added`, or times the trace where that is empty."""
    share = np.float32(weight)
    for c in range(len(queries)):
        query = queries[c]
        query[:] = output[c]
        if weight > 0:
            trace = hidden[places[c], hidden.shape[1] - len(query) :]
            more = added[c] if len(added) else trace
            for j in range(len(query)):
                query[j] += share * more[j]
        if scale > 0:
            _stretch(query, scale)


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
