"""One GRU layer of the fast step: forward and backward by hand, in buffers that are made once.

Shape letters: B transitions in a mini-batch, E width of the layer's input, H of the layer, W of the whole state.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Step
from model.gru4rec import GRU4Rec
from model.kernels.compiling import Floats
from model.optimizer import ACCUMULATOR, VELOCITY, SparseAdagrad
from trainer.kernels import gru
from trainer.kernels.adagrad import update_dense
from trainer.products import Multiply


def optimizer_state(name: str, parameter: Tensor, optimizer: SparseAdagrad) -> tuple[Floats, Floats]:
    """Return the accumulators and the velocities that the optimizer keeps, made where there are none yet.

    Without momentum there are no velocities, and the array is empty.
    """
    shape = tuple(parameter.shape)
    for key in (ACCUMULATOR + name, VELOCITY + name)[: 2 if optimizer.momentum else 1]:
        state = optimizer.state.get(key)
        optimizer.state[key] = torch.zeros(shape) if state is None else state.contiguous()
    sums = optimizer.state[ACCUMULATOR + name].numpy()
    return sums, optimizer.state[VELOCITY + name].numpy() if optimizer.momentum else np.zeros_like(sums[:0])


def zeros(*shape: int) -> Floats:
    """Return zeros, float32."""
    return np.zeros(shape, dtype=np.float32)


class Parameter:
    """One parameter with its optimizer state and gradient, flat."""

    def __init__(self, name: str, tensor: Tensor, optimizer: SparseAdagrad) -> None:
        self.array = tensor.detach().numpy()
        self.gradient = np.zeros_like(self.array)
        self._optimizer = optimizer
        self._sums, self._velocity = (array.reshape(-1) for array in optimizer_state(name, tensor, optimizer))

    def update(self) -> None:
        """Take one step of the optimizer along `gradient`."""
        optimizer = self._optimizer
        update_dense(
            self.array.reshape(-1),
            self._sums,
            self._velocity,
            self.gradient.reshape(-1),
            optimizer.learning_rate,
            optimizer.momentum,
            optimizer.eps,
        )


class Layer:
    """One GRU layer: its parameters, and what its forward pass leaves for the backward pass.

    Args:
        network: It is one of its layers.
        optimizer: Of its parameters.
        layer: Which one.
        first: Column of the carried states where its part begins.
        lanes: Carried states.
        most: Transitions of a mini-batch, at most.
        multiply: Whose products to take.
    """

    def __init__(
        self,
        network: GRU4Rec,
        optimizer: SparseAdagrad,
        layer: int,
        first: int,
        *,
        lanes: int,
        most: int,
        multiply: Multiply,
    ) -> None:
        self.first, width = first, network.settings.hidden_sizes[layer]
        self.multiply = multiply
        names = ("input_weight", "recurrent_weight", "candidate_weight", "bias")
        self.parameters = [
            Parameter(name, network.parameters[name], optimizer) for name in (f"gru.{layer}.{part}" for part in names)
        ]
        self.input, self.recurrent, self.candidate, self.bias = self.parameters
        self.gates, self.d_gates = zeros(most, 3 * width), zeros(most, 3 * width)
        self.h, self.reset_h, self.d_reset_h, self.output = (zeros(most, width) for _ in range(4))
        self.mask = np.ones((most, width), dtype=np.float32)
        self.d_x = zeros(most, len(self.input.array))
        self.d_state, self.d_h = zeros(lanes, width), zeros(lanes, width)
        self._views: dict[tuple[int, int], LayerViews] = {}

    def views(self, start: int, stop: int) -> "LayerViews":
        """Return the buffers cut to some transitions; the last mini-batches of an epoch are smaller."""
        if (start, stop) not in self._views:
            self._views[start, stop] = LayerViews(self, start, stop)
        return self._views[start, stop]

    def forward(self, x: Floats, state: Floats, step: Step) -> Floats:
        """Advance the carried states by a mini-batch's clicks; returns what goes up, [B, H].

        Args:
            x: float32 [B, E], the layer's input.
            state: float32 [lanes, W], changed in place.
            step: Which lanes play when.
        """
        whole = self.views(0, len(x))
        self.multiply(x, self.input.array, whole.gates, False)
        for start, stop in step.moments:
            self.views(start, stop).forward(state, step.lanes[start:stop], step.resets[start:stop])
        return whole.output

    def backward(self, d_output: Floats, x: Floats, step: Step) -> Floats:
        """Leave the gradients of the parameters; returns that of the input, [B, E].

        It follows the states back to the mini-batch's first moment and no further.
        """
        whole, multiply = self.views(0, len(x)), self.multiply
        self.d_state[:] = 0
        for start, stop in reversed(step.moments):
            views, lanes, resets = self.views(start, stop), step.lanes[start:stop], step.resets[start:stop]
            views.backward(d_output[start:stop], lanes)
            if start:
                views.into_past(lanes, resets)
        gru.sum_rows(whole.d_gates, self.bias.gradient)
        multiply(whole.d_gates, self.input.array.T, whole.d_x, False)
        multiply(x.T, whole.d_gates, self.input.gradient, False)
        multiply(whole.h.T, whole.d_zr, self.recurrent.gradient, False)
        multiply(whole.reset_h.T, whole.d_c, self.candidate.gradient, False)
        return whole.d_x


class LayerViews:
    """One layer's buffers at some transitions."""

    def __init__(self, layer: Layer, start: int, stop: int) -> None:
        self._layer = layer
        self.gates, self.d_gates = layer.gates[start:stop], layer.d_gates[start:stop]
        self.h, self.reset_h, self._d_reset_h, self.output, self.mask = (
            buffer[start:stop] for buffer in (layer.h, layer.reset_h, layer.d_reset_h, layer.output, layer.mask)
        )
        self.d_x, self._d_h = layer.d_x[start:stop], layer.d_h[: stop - start]
        width = layer.h.shape[1]
        self._zr, self._c = self.gates[:, : 2 * width], self.gates[:, 2 * width :]
        self.d_zr, self.d_c = self.d_gates[:, : 2 * width], self.d_gates[:, 2 * width :]

    def forward(self, state: Floats, lanes: NDArray[np.int64], resets: NDArray[np.bool_]) -> None:
        """Advance the carried states by one moment; `gates` holds the input's share."""
        layer, gates, h = self._layer, self.gates, self.h
        gru.take_state(state, layer.first, lanes, resets, h)
        layer.multiply(h, layer.recurrent.array, self._zr, True)
        gru.open_gates(layer.bias.array, gates, h, self.reset_h)
        layer.multiply(self.reset_h, layer.candidate.array, self._c, True)
        gru.close_gates(state, layer.first, lanes, layer.bias.array, gates, h, self.mask, self.output)

    def backward(self, d_output: Floats, lanes: NDArray[np.int64]) -> None:
        """Leave the gradients before the activations of one moment."""
        layer, gates, d_gates, h = self._layer, self.gates, self.d_gates, self.h
        gru.through_output(d_output, self.mask, lanes, layer.d_state, h, gates, d_gates)
        layer.multiply(self.d_c, layer.candidate.array.T, self._d_reset_h, False)
        gru.through_reset(self._d_reset_h, lanes, layer.d_state, h, gates, d_gates)

    def into_past(self, lanes: NDArray[np.int64], resets: NDArray[np.bool_]) -> None:
        """Finish the gradient of the states before one moment."""
        self._layer.multiply(self.d_zr, self._layer.recurrent.array.T, self._d_h, False)
        gru.through_recurrence(self._d_h, lanes, resets, self._layer.d_state)
