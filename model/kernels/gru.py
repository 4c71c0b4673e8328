"""A micro-batch of clicks through all layers of a network in one compiled pass, wave by wave.

Shape letters: S sessions, C clicks, K of them on known items, W state width, D query width, E input width, H width of
one layer.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import ZERO, Floats, compiled, part, sigmoid, tanh
from model.kernels.products import multiply_packed, whole
from model.kernels.tiles import COLUMNS, ROWS
from model.waves import arrange

_SHORTEST = np.float32(1e-12)  # of what is divided by, as the tensor library has it


@part
def _matrix(weights: Any, shapes: Any, place: int) -> Any:
    start, panels, depth, width = shapes[place]
    return weights[start : start + panels * depth * width].reshape((panels, depth, width))


@compiled
def play(
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
    """Write what a micro-batch leads to; see `model.playing.Player.play` and `model.playing.Reached`.

    Args:
        states: float32 [S, W]
        last_rows: int64 [S]
        slots: int64 [C]
        rows: int64 [C]
        table: float32 [N, E], what the network takes in of each item.
        weights: See `model.playing.side_by_side`, like the next.
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
    """Write h' of all clicks, wave by wave, to their lines of `hidden`, from column `first` on.

    `projected` [at least K, at least 3H] is x W without the bias; `bounds` and `before` are those of `Waves`.
    """
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
