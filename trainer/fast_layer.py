"""One GRU layer of the fast step: forward and backward by hand, in buffers that are made once.

Shape letters: B transitions in a mini-batch, E width of the layer's input, H of the layer, W of the whole state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.gru4rec import GRU4Rec
from model.optimizer import ACCUMULATOR, VELOCITY, SparseAdagrad
from trainer.kernels import gru
from trainer.kernels.adagrad import update_dense
from trainer.kernels.compiling import Floats


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


@dataclass(frozen=True)
class Buffer:
    """Memory as both libraries see it."""

    tensor: Tensor
    array: Floats

    @staticmethod
    def of(*shape: int) -> "Buffer":
        """Return zeros, float32."""
        tensor = torch.zeros(shape)
        return Buffer(tensor, tensor.numpy())

    def first(self, count: int) -> "Buffer":
        """Return the first rows, the same memory."""
        return Buffer(self.tensor[:count], self.array[:count])


class Parameter:
    """One parameter with its optimizer state and gradient, flat."""

    def __init__(self, name: str, tensor: Tensor, optimizer: SparseAdagrad) -> None:
        self.tensor = tensor.detach()
        self.array = self.tensor.numpy()
        self.gradient = torch.zeros_like(self.tensor)
        self._gradient = self.gradient.numpy().reshape(-1)
        self._optimizer = optimizer
        self._sums, self._velocity = (array.reshape(-1) for array in optimizer_state(name, self.tensor, optimizer))

    def update(self) -> None:
        """Take one step of the optimizer along `gradient`."""
        optimizer = self._optimizer
        update_dense(
            self.array.reshape(-1),
            self._sums,
            self._velocity,
            self._gradient,
            optimizer.learning_rate,
            optimizer.momentum,
            optimizer.eps,
        )


class Layer:
    """One GRU layer: its parameters, and what its forward pass leaves for the backward pass."""

    def __init__(self, network: GRU4Rec, optimizer: SparseAdagrad, layer: int, first: int, lanes: int) -> None:
        self.first, width = first, network.settings.hidden_sizes[layer]
        names = ("input_weight", "recurrent_weight", "candidate_weight", "bias")
        self.parameters = [
            Parameter(name, network.parameters[name], optimizer) for name in (f"gru.{layer}.{part}" for part in names)
        ]
        self.input, self.recurrent, self.candidate, self.bias = self.parameters
        self.gates, self.d_gates = Buffer.of(lanes, 3 * width), Buffer.of(lanes, 3 * width)
        self.h, self.reset_h, self.d_reset_h, self.output, self.mask = (Buffer.of(lanes, width) for _ in range(5))
        self.mask.tensor.fill_(1)
        self.d_x = Buffer.of(lanes, len(self.input.tensor))
        self._lanes = lanes
        self._views: dict[int, LayerViews] = {}

    def views(self, count: int) -> "LayerViews":
        """Return the buffers cut to a mini-batch of `count`; the last mini-batches of an epoch are smaller."""
        if count not in self._views:
            self._views[count] = LayerViews(self, count)
        return self._views[count]


class LayerViews:
    """One layer at one size of mini-batch."""

    def __init__(self, layer: Layer, count: int) -> None:
        self._layer = layer
        self._gates, self._d_gates = layer.gates.first(count), layer.d_gates.first(count)
        self._h, self._reset_h, self._d_reset_h = (
            buffer.first(count) for buffer in (layer.h, layer.reset_h, layer.d_reset_h)
        )
        self.output, self.mask, self.d_x = layer.output.first(count), layer.mask.first(count), layer.d_x.first(count)
        width = layer.h.tensor.shape[1]
        self._zr, self._c = self._gates.tensor[:, : 2 * width], self._gates.tensor[:, 2 * width :]
        self._d_zr, self._d_c = self._d_gates.tensor[:, : 2 * width], self._d_gates.tensor[:, 2 * width :]
        self._h_t, self._reset_h_t = self._h.tensor.t(), self._reset_h.tensor.t()
        self._candidate_t, self._input_t = layer.candidate.tensor.t(), layer.input.tensor.t()

    def forward(self, x: Tensor, state: Floats, lanes: NDArray[np.int64]) -> None:
        """Advance the carried states by one click; what goes up is in `output`."""
        layer, gates, h = self._layer, self._gates.array, self._h.array
        gru.take_state(state, layer.first, lanes, h)
        torch.mm(x, layer.input.tensor, out=self._gates.tensor)
        torch.addmm(self._zr, self._h.tensor, layer.recurrent.tensor, out=self._zr)
        gru.open_gates(layer.bias.array, gates, h, self._reset_h.array)
        torch.addmm(self._c, self._reset_h.tensor, layer.candidate.tensor, out=self._c)
        gru.close_gates(state, layer.first, lanes, layer.bias.array, gates, h, self.mask.array, self.output.array)

    def backward(self, d_output: Floats, x: Tensor) -> None:
        """Leave the gradient of the input in `d_x`, and those of the parameters; the past is not followed."""
        layer, gates, d_gates, h = self._layer, self._gates.array, self._d_gates.array, self._h.array
        gru.through_output(d_output, self.mask.array, h, gates, d_gates)
        torch.mm(self._d_c, self._candidate_t, out=self._d_reset_h.tensor)
        gru.through_reset(self._d_reset_h.array, h, gates, d_gates, layer.bias.gradient.numpy())
        torch.mm(self._d_gates.tensor, self._input_t, out=self.d_x.tensor)
        torch.mm(x.t(), self._d_gates.tensor, out=layer.input.gradient)
        torch.mm(self._h_t, self._d_zr, out=layer.recurrent.gradient)
        torch.mm(self._reset_h_t, self._d_c, out=layer.candidate.gradient)
