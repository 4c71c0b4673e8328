"""What lies between the matrix products of a GRU layer, forward and backward.

Shape letters: B transitions, H width of the layer, W state width. `gates` is [B, 3H]: z, r and c side by side.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from trainer.kernels.compiling import ONE, ZERO, Floats, Ints, compiled, sigmoid, tanh


@compiled
def take_state(state: Floats, first: int, lanes: Ints, h: Floats) -> None:
    """Copy one layer's part of the carried states [lanes, W], from column `first` on, into `h` [B, H]."""
    for i in range(len(lanes)):
        for j in range(h.shape[1]):
            h[i, j] = state[lanes[i], first + j]


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
def through_output(d_output: Floats, mask: Floats, h: Floats, gates: Floats, d_gates: Floats) -> None:
    """Write the gradients before the activations of z and c, [B, 3H], from that of a layer's output [B, H]."""
    width = h.shape[1]
    for i in range(len(d_output)):
        candidate, d_candidate = gates[i, 2 * width :], d_gates[i, 2 * width :]
        for j in range(width):
            update, d_new = gates[i, j], d_output[i, j] * mask[i, j]
            d_gates[i, j] = d_new * (candidate[j] - h[i, j]) * update * (ONE - update)
        for j in range(width):
            d_candidate[j] = d_output[i, j] * mask[i, j] * gates[i, j] * (ONE - candidate[j] * candidate[j])


@compiled
def through_reset(d_reset_h: Floats, h: Floats, gates: Floats, d_gates: Floats, d_bias: Floats) -> None:
    """Write the gradient before the activation of r, and the sums over B for the biases [3H]."""
    width = h.shape[1]
    d_bias[:] = ZERO
    for i in range(len(d_reset_h)):
        for j in range(width):
            reset = gates[i, width + j]
            d_gates[i, width + j] = d_reset_h[i, j] * h[i, j] * reset * (ONE - reset)
        for j in range(3 * width):
            d_bias[j] += d_gates[i, j]
