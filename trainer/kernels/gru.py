"""What lies between the matrix products of a GRU layer, forward and backward.

Shape letters: B transitions, H width of the layer, W state width. `gates` is [B, 3H]: z, r and c side by side.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import ONE, ZERO, Floats, Ints, compiled, sigmoid, tanh


@compiled
def take_state(state: Floats, first: int, lanes: Ints, resets: NDArray[np.bool_], h: Floats) -> None:
    """Copy one layer's part of the carried states [lanes, W], from column `first` on, into `h` [B, H].

    Where a session begins it is zero instead.
    """
    for i in range(len(lanes)):
        for j in range(h.shape[1]):
            h[i, j] = ZERO if resets[i] else state[lanes[i], first + j]


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
def close_gates(
    state: Floats, first: int, lanes: Ints, bias: Floats, gates: Floats, h: Floats, mask: Floats, output: Floats
) -> None:
    """Turn the last third of `gates` into c; carry h' = h + z (c - h) on, and write it after dropout to `output`."""
    width = h.shape[1]
    for i in range(len(lanes)):
        # Three short loops: the compiler checks arrays for overlap, and gives up on too many in one.
        candidate, candidate_bias = gates[i, 2 * width :], bias[2 * width :]
        for j in range(width):
            candidate[j] = tanh(candidate[j] + candidate_bias[j])
        for j in range(width):
            output[i, j] = h[i, j] + gates[i, j] * (candidate[j] - h[i, j])
        carried = state[lanes[i], first:]
        for j in range(width):
            carried[j] = output[i, j]
            output[i, j] *= mask[i, j]


@compiled
def through_output(
    d_output: Floats, mask: Floats, lanes: Ints, d_state: Floats, h: Floats, gates: Floats, d_gates: Floats
) -> None:
    """Write the gradients before the activations of z and c, [B, 3H], from that of a layer's output [B, H].

    `d_state` [lanes, H] holds the gradients of the states after these clicks that come from later ones; afterwards
    those of the states before, as far as they come through 1 - z.
    """
    width = h.shape[1]
    for i in range(len(lanes)):
        candidate, d_candidate, d_new = gates[i, 2 * width :], d_gates[i, 2 * width :], d_state[lanes[i]]
        for j in range(width):
            d_new[j] += d_output[i, j] * mask[i, j]
        for j in range(width):
            update = gates[i, j]
            d_gates[i, j] = d_new[j] * (candidate[j] - h[i, j]) * update * (ONE - update)
        for j in range(width):
            d_candidate[j] = d_new[j] * gates[i, j] * (ONE - candidate[j] * candidate[j])
        for j in range(width):
            d_new[j] *= ONE - gates[i, j]


@compiled
def through_reset(d_reset_h: Floats, lanes: Ints, d_state: Floats, h: Floats, gates: Floats, d_gates: Floats) -> None:
    """Write the gradient before the activation of r, and add what comes through r * h to `d_state` [lanes, H]."""
    width = h.shape[1]
    for i in range(len(lanes)):
        d_before = d_state[lanes[i]]
        for j in range(width):
            reset = gates[i, width + j]
            d_gates[i, width + j] = d_reset_h[i, j] * h[i, j] * reset * (ONE - reset)
        for j in range(width):
            d_before[j] += d_reset_h[i, j] * gates[i, width + j]


@compiled
def through_recurrence(d_h: Floats, lanes: Ints, resets: NDArray[np.bool_], d_state: Floats) -> None:
    """Add what comes through U_z and U_r, [B, H], to `d_state` [lanes, H]; nothing goes past a session's beginning."""
    for i in range(len(lanes)):
        d_before = d_state[lanes[i]]
        for j in range(d_h.shape[1]):
            d_before[j] = ZERO if resets[i] else d_before[j] + d_h[i, j]


@compiled
def sum_rows(gradients: Floats, total: Floats) -> None:
    """Write the sums over the rows of [B, 3H]."""
    total[:] = ZERO
    for i in range(len(gradients)):
        for j in range(len(total)):
            total[j] += gradients[i, j]
