"""One GRU layer of the fast step: forward and backward by hand, in buffers that are made once.

Shape letters: B transitions in a mini-batch, E width of the layer's input, H of the layer, W of the whole state.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Step
from model.compiling import Floats
from model.gru4rec import GRU4Rec
from model.optimizer import ACCUMULATOR, VELOCITY, SparseAdagrad
from model.playing import open_gates
from trainer.kernels import gru
from trainer.kernels.adagrad import update_dense


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
        return self.part(0, count)

    def part(self, start: int, stop: int) -> "Buffer":
        """Return some rows, the same memory."""
        return Buffer(self.tensor[start:stop], self.array[start:stop])


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
    """One GRU layer: its parameters, and what its forward pass leaves for the backward pass.

    Args:
        network: It is one of its layers.
        optimizer: Of its parameters.
        layer: Which one.
        first: Column of the carried states where its part begins.
        lanes: Carried states.
        most: Transitions of a mini-batch, at most.
    """

    def __init__(
        self, network: GRU4Rec, optimizer: SparseAdagrad, layer: int, first: int, *, lanes: int, most: int
    ) -> None:
        self.first, width = first, network.settings.hidden_sizes[layer]
        names = ("input_weight", "recurrent_weight", "candidate_weight", "bias")
        self.parameters = [
            Parameter(name, network.parameters[name], optimizer) for name in (f"gru.{layer}.{part}" for part in names)
        ]
        self.input, self.recurrent, self.candidate, self.bias = self.parameters
        self.gates, self.d_gates = Buffer.of(most, 3 * width), Buffer.of(most, 3 * width)
        self.h, self.reset_h, self.d_reset_h, self.output, self.mask = (Buffer.of(most, width) for _ in range(5))
        self.mask.tensor.fill_(1)
        self.d_x = Buffer.of(most, len(self.input.tensor))
        self.d_state, self.d_h = Buffer.of(lanes, width), Buffer.of(lanes, width)
        self.input_t, self.recurrent_t = self.input.tensor.t(), self.recurrent.tensor.t()
        self.candidate_t = self.candidate.tensor.t()
        self._views: dict[tuple[int, int], LayerViews] = {}

    def views(self, start: int, stop: int) -> "LayerViews":
        """Return the buffers cut to some transitions; the last mini-batches of an epoch are smaller."""
        if (start, stop) not in self._views:
            self._views[start, stop] = LayerViews(self, start, stop)
        return self._views[start, stop]

    def forward(self, x: Tensor, state: Floats, step: Step) -> Tensor:
        """Advance the carried states by a mini-batch's clicks; returns what goes up, [B, H].

        Args:
            x: float32 [B, E], the layer's input.
            state: float32 [lanes, W], changed in place.
            step: Which lanes play when.
        """
        whole = self.views(0, len(x))
        torch.mm(x, self.input.tensor, out=whole.gates.tensor)
        for start, stop in step.moments:
            self.views(start, stop).forward(state, step.lanes[start:stop], step.resets[start:stop])
        return whole.output.tensor

    def backward(self, d_output: Floats, x: Tensor, step: Step) -> Floats:
        """Leave the gradients of the parameters; returns that of the input, [B, E].

        It follows the states back to the mini-batch's first moment and no further.
        """
        whole = self.views(0, len(x))
        self.d_state.array[:] = 0
        for start, stop in reversed(step.moments):
            views, lanes, resets = self.views(start, stop), step.lanes[start:stop], step.resets[start:stop]
            views.backward(d_output[start:stop], lanes)
            if start:
                views.into_past(lanes, resets)
        gru.sum_rows(whole.d_gates.array, self.bias.gradient.numpy())
        torch.mm(whole.d_gates.tensor, self.input_t, out=whole.d_x.tensor)
        torch.mm(x.t(), whole.d_gates.tensor, out=self.input.gradient)
        torch.mm(whole.h.tensor.t(), whole.d_zr, out=self.recurrent.gradient)
        torch.mm(whole.reset_h.tensor.t(), whole.d_c, out=self.candidate.gradient)
        return whole.d_x.array


class LayerViews:
    """One layer's buffers at some transitions."""

    def __init__(self, layer: Layer, start: int, stop: int) -> None:
        self._layer = layer
        self.gates, self.d_gates = layer.gates.part(start, stop), layer.d_gates.part(start, stop)
        self.h, self.reset_h, self._d_reset_h, self.output, self.mask = (
            buffer.part(start, stop) for buffer in (layer.h, layer.reset_h, layer.d_reset_h, layer.output, layer.mask)
        )
        self.d_x, self._d_h = layer.d_x.part(start, stop), layer.d_h.part(0, stop - start)
        width = layer.h.tensor.shape[1]
        self._zr, self._c = self.gates.tensor[:, : 2 * width], self.gates.tensor[:, 2 * width :]
        self.d_zr, self.d_c = self.d_gates.tensor[:, : 2 * width], self.d_gates.tensor[:, 2 * width :]

    def forward(self, state: Floats, lanes: NDArray[np.int64], resets: NDArray[np.bool_]) -> None:
        """Advance the carried states by one moment; `gates` holds the input's share."""
        layer, gates, h = self._layer, self.gates.array, self.h.array
        gru.take_state(state, layer.first, lanes, resets, h)
        torch.addmm(self._zr, self.h.tensor, layer.recurrent.tensor, out=self._zr)
        open_gates(layer.bias.array, gates, h, self.reset_h.array)
        torch.addmm(self._c, self.reset_h.tensor, layer.candidate.tensor, out=self._c)
        gru.close_gates(state, layer.first, lanes, layer.bias.array, gates, h, self.mask.array, self.output.array)

    def backward(self, d_output: Floats, lanes: NDArray[np.int64]) -> None:
        """Leave the gradients before the activations of one moment."""
        layer, gates, d_gates, h = self._layer, self.gates.array, self.d_gates.array, self.h.array
        gru.through_output(d_output, self.mask.array, lanes, layer.d_state.array, h, gates, d_gates)
        torch.mm(self.d_c, layer.candidate_t, out=self._d_reset_h.tensor)
        gru.through_reset(self._d_reset_h.array, lanes, layer.d_state.array, h, gates, d_gates)

    def into_past(self, lanes: NDArray[np.int64], resets: NDArray[np.bool_]) -> None:
        """Finish the gradient of the states before one moment."""
        torch.mm(self.d_zr, self._layer.recurrent_t, out=self._d_h.tensor)
        gru.through_recurrence(self._d_h.array, lanes, resets, self._layer.d_state.array)
