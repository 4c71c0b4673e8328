"""The clicks of a micro-batch played through the network: what each leads to, wave by wave.

Shape letters: S sessions, C clicks, W state width, D query width.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.catalogue import Queries
from model.gru4rec import GRU4Rec
from model.kernels.compiling import Floats, Ints
from model.kernels.gru import play
from model.kernels.products import packed
from model.waves import plan_waves

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
        self._weights, self._shapes = side_by_side(network)
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
        play(states, last_rows, slots, rows, *network, *numbers, after, queries, known)
        return Reached(after, queries, known)


def side_by_side(network: GRU4Rec) -> tuple[Floats, Ints]:
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
