"""From the item table into a step's own arrays, and the gradients back.

Shape letters: B transitions, K sampled items, U distinct rows, C distinct candidates among them (the first C), N items,
D embedding width, W state width.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import ONE, ROWS_AHEAD, ZERO, Floats, Ints, compiled, prefetch_row

_SHORTEST = np.float32(1e-12)


@compiled
def distinct_rows(
    inputs: Ints, targets: Ints, samples: Ints, slots: Ints, base: int, rows: Ints, weights: Floats, places: Ints
) -> tuple[int, int]:
    """Give every distinct row of a step a place: the candidates first, then inputs that are no candidates.

    Args:
        inputs: int64 [B].
        targets: int64 [B].
        samples: int64 [K].
        slots: int64 [N], kept between steps: `base` + place of the rows met in this step, less of all others.
        base: Above all that is in `slots`.
        rows: int64 [>= U], written: the row at each place.
        weights: float32 [>= C], written: how often each candidate occurs.
        places: int64 [2, >= B], written: of the inputs, and of the targets.

    Returns:
        C and U.
    """
    count = 0
    for i in range(len(targets) + len(samples)):
        row = targets[i] if i < len(targets) else samples[i - len(targets)]
        place = slots[row] - base
        if place < 0:
            place = count
            slots[row] = base + place
            rows[place] = row
            weights[place] = ZERO
            count += 1
        weights[place] += ONE
        if i < len(targets):
            places[1, i] = place
    candidates = count
    for i in range(len(inputs)):
        place = slots[inputs[i]] - base
        if place < 0:
            place = count
            slots[inputs[i]] = base + place
            rows[place] = inputs[i]
            count += 1
        places[0, i] = place
    return candidates, count


@compiled
def gather(
    table: Floats,
    bias: Floats,
    log_q: Floats,
    rows: Ints,
    candidates: int,
    count: int,
    vectors: Floats,
    shift: Floats,
    restored: Floats,
) -> None:
    """Copy the `count` rows into `vectors` [U, D], and what is added to the candidates' scores into `shift` [C].

    `bias` and `log_q` are [N]; either is empty where there is none. What `log_q` took off goes to `restored` [C],
    unless that is empty.
    """
    for u in range(count):
        row = rows[u]
        prefetch_row(table, rows[min(u + ROWS_AHEAD, count - 1)])
        for d in range(table.shape[1]):
            vectors[u, d] = table[row, d]
    for u in range(candidates):
        shift[u] = (bias[rows[u]] if len(bias) else ZERO) - (log_q[rows[u]] if len(log_q) else ZERO)
    for u in range(min(candidates, len(restored))):
        restored[u] = log_q[rows[u]]


@compiled
def to_length(source: Floats, count: int, length: float, target: Floats, lengths: Floats) -> None:
    """Write the first `count` rows at a given length into `target`, which may be `source`, and what they had been.

    Args:
        source: float32 [>= count, D].
        count: How many.
        length: What each is to have.
        target: float32 [>= count, D], written.
        lengths: float32 [>= count], written.
    """
    for u in range(count):
        total = ZERO
        for d in range(source.shape[1]):
            total += source[u, d] * source[u, d]
        lengths[u] = max(np.sqrt(total), _SHORTEST)
        factor = np.float32(length) / lengths[u]
        for d in range(source.shape[1]):
            target[u, d] = source[u, d] * factor


@compiled
def from_length(gradient: Floats, count: int, length: float, target: Floats, lengths: Floats) -> None:
    """Turn gradients of `to_length`'s target into those of its source, in place."""
    wanted = np.float32(length)
    for u in range(count):
        along = ZERO
        for d in range(gradient.shape[1]):
            along += gradient[u, d] * target[u, d]
        along, factor = along / (wanted * wanted), wanted / lengths[u]
        for d in range(gradient.shape[1]):
            gradient[u, d] = factor * (gradient[u, d] - along * target[u, d])


@compiled
def enter(vectors: Floats, places: Ints, mask: Floats, x: Floats) -> None:
    """Write the input vectors after dropout into `x` [B, D]."""
    for i in range(len(x)):
        place = places[0, i]
        for d in range(x.shape[1]):
            x[i, d] = vectors[place, d] * mask[i, d]


@compiled
def add_trace(
    output: Floats,
    x: Floats,
    state: Floats,
    first: int,
    lanes: Ints,
    resets: NDArray[np.bool_],
    decay: float,
    weight: float,
    query: Floats,
) -> None:
    """Write output + weight * trace into `query` [B, D], where the trace is x and `decay` of what it was.

    It is carried in the states [lanes, W] from column `first` on, unless that is W: then it is x alone.
    """
    share = np.float32(weight)
    for i in range(len(lanes)):
        if first < state.shape[1]:
            trace, kept = state[lanes[i], first:], ZERO if resets[i] else np.float32(decay)
            for d in range(x.shape[1]):
                trace[d] = kept * trace[d] + x[i, d]
            for d in range(x.shape[1]):
                query[i, d] = output[i, d] + share * trace[d]
        else:
            for d in range(x.shape[1]):
                query[i, d] = output[i, d] + share * x[i, d]


@compiled
def leave(
    d_x: Floats,
    d_query: Floats,
    d_trace: Floats,
    lanes: Ints,
    resets: NDArray[np.bool_],
    decay: float,
    weight: float,
    mask: Floats,
    places: Ints,
    candidates: int,
    count: int,
    gradient: Floats,
) -> None:
    """Add the gradients of the input vectors to those of the gathered rows, [U, D].

    Those through the trace are followed back from the last click to the first, in `d_trace` [lanes, D]; see
    `add_trace`, with a `weight` of 0 where there is no skip.
    """
    share = np.float32(weight)
    d_trace[:] = ZERO
    for u in range(candidates, count):
        for d in range(gradient.shape[1]):
            gradient[u, d] = ZERO
    for i in range(len(d_x) - 1, -1, -1):
        total, gathered, kept = d_trace[lanes[i]], gradient[places[0, i]], ZERO if resets[i] else np.float32(decay)
        for d in range(d_x.shape[1]):
            total[d] += share * d_query[i, d]
        for d in range(d_x.shape[1]):
            gathered[d] += (d_x[i, d] + total[d]) * mask[i, d]
        for d in range(d_x.shape[1]):
            total[d] *= kept
