"""The training step of the CPU: forward and backward by hand, in buffers that are made once.

It computes what `trainer.plain_step.TrainingStep` does, from the same samples; only the dropout masks are drawn by
another generator. What makes it fast: no graph and no allocation, element-wise work fused into compiled kernels, and
one score for an item that is a candidate several times, as equal candidates have equal scores.

Shape letters: B transitions in a mini-batch, K sampled items, U distinct rows of a step, C candidates among them, D
embedding width, H width of a layer, W state width.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from model.batches import Step, session_parallel
from model.clicks import Sessions
from model.gru4rec import EMBEDDING, ITEM_BIAS, GRU4Rec
from model.kernels.compiling import LINE, Floats, Ints
from model.optimizer import ACCUMULATOR, SparseAdagrad
from trainer.fast_layer import Layer, optimizer_state, zeros
from trainer.guided_sampler import GuidedSampler
from trainer.kernels import rows
from trainer.kernels.adagrad import update_rows, update_values
from trainer.kernels.chance import fill_dropout_mask
from trainer.kernels.cross_entropy import cross_entropy
from trainer.products import choose_multiply
from trainer.sampling import click_counts, log_expected
from trainer.settings import TrainerSettings


def uncovered(network: GRU4Rec, optimizer: SparseAdagrad, settings: TrainerSettings) -> str | None:
    """Return why the fast step cannot train this network, or None where it can."""
    shape, tables = network.settings, network.parameters
    reasons = {
        "device": any(tensor.device.type != "cpu" for tensor in tables.values()),
        "layout": not all(tensor.is_contiguous() for tensor in tables.values()),
        "loss": settings.loss != "cross_entropy",
        "feedforward layers": bool(shape.feedforward_sizes),
        "item input": shape.item_input != "shared",
        "reset gate": shape.reset_gate != "before",
        "activation": shape.activation != "linear",
        "carried dropout": settings.hidden_dropout_carried and settings.hidden_dropout > 0,
        "accumulator": optimizer.accumulator != "element" or not _sums_fit(network, optimizer),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _sums_fit(network: GRU4Rec, optimizer: SparseAdagrad) -> bool:
    """Whether what an earlier optimizer left has an accumulator for every value, and none for a whole row."""
    sums = ((optimizer.state.get(ACCUMULATOR + name), tensor) for name, tensor in network.parameters.items())
    return all(kept is None or kept.shape == tensor.shape for kept, tensor in sums)


class FastStep:
    """One mini-batch: gather rows, forward, backward, update. Holds the states that lanes carry.

    See `trainer.plain_step.TrainingStep`, which it stands in for where `uncovered` says None.
    """

    def __init__(
        self,
        network: GRU4Rec,
        optimizer: SparseAdagrad,
        sessions: Sessions,
        settings: TrainerSettings,
        generator: torch.Generator,
    ) -> None:
        self.device = torch.device("cpu")
        self.seed = int(torch.randint(2**62, (), generator=generator))
        self._settings, self._optimizer, self._shape = settings, optimizer, network.settings
        self._input_length = network.settings.input_length or 1.0
        counts = click_counts(sessions, network.item_count)
        self._sampler = GuidedSampler(counts, settings, generator)
        self._log_q = zeros(0)
        if settings.logq:
            self._log_q = log_expected(counts, self._sampler.probabilities, settings).numpy()
        lanes, widths = settings.batch_size, network.settings.hidden_sizes
        starts = np.cumsum([0, *widths[:-1]]).tolist()
        most = settings.step_transitions
        self._multiply = choose_multiply()
        self._layers = [
            Layer(network, optimizer, layer, first, lanes=lanes, most=most, multiply=self._multiply)
            for layer, first in enumerate(starts)
        ]
        self._trace_first = sum(widths)
        self._state = zeros(lanes, network.state_width)
        self._draws = 0
        self._make_tables(network, optimizer)
        self._make_buffers(most, settings.negative_samples, network.settings.embedding_size)
        self._d_trace = zeros(lanes, network.settings.embedding_size)

    def _make_tables(self, network: GRU4Rec, optimizer: SparseAdagrad) -> None:
        table = network.parameters[EMBEDDING].detach()
        self._table, self._table_state = table.numpy(), optimizer_state(EMBEDDING, table, optimizer)
        self._bias = zeros(0)
        if ITEM_BIAS in network.parameters:
            bias = network.parameters[ITEM_BIAS].detach()
            self._bias, self._bias_state = bias.numpy(), optimizer_state(ITEM_BIAS, bias, optimizer)

    def _make_buffers(self, transitions: int, samples: int, width: int) -> None:
        most = 2 * transitions + samples
        self._slots, self._base = np.full(len(self._table), -1, dtype=np.int64), 0
        self._rows, self._places = np.empty(most, dtype=np.int64), np.empty((2, transitions), dtype=np.int64)
        self._weights, self._shift, self._d_bias = (np.empty(most, dtype=np.float32) for _ in range(3))
        keeps_target = self._settings.logq and not self._settings.logq_target
        self._restored = np.empty(most, dtype=np.float32) if keeps_target else zeros(0)
        self._vectors, self._d_vectors = zeros(most, width), zeros(most, width)
        self._scores = zeros(transitions, _apart(transitions + samples))
        self._x, self._x_mask = zeros(transitions, width), zeros(transitions, width)
        self._x_mask[:] = self._input_length
        self._query, self._d_query = zeros(transitions, width), zeros(transitions, width)
        if self._shape.cosine_scale:
            self._unit_query = zeros(transitions, width)
            self._lengths, self._query_lengths = np.empty(most, dtype=np.float32), np.empty(most, dtype=np.float32)
        self._loss = torch.zeros(1)

    def start_epoch(self) -> None:
        """Forget the carried states: every session is played from its start again."""
        self._state[:] = 0

    def __call__(self, step: Step) -> Tensor:
        """Train on one mini-batch; returns its loss, a scalar that the next call overwrites."""
        count, is_whole = len(step.inputs), bool(step.learned.all())
        targets = step.targets if is_whole else step.targets[step.learned]
        candidates, used = self._gather(step.inputs, targets)
        x, x_mask = self._x[:count], self._x_mask[:count]
        self._drop(x_mask, count)
        rows.enter(self._vectors, self._places, x_mask, x)
        inputs = [x]
        for layer in self._layers:
            inputs.append(layer.forward(inputs[-1], self._state, step))
        query = self._add_trace(inputs.pop(), x, step) if self._shape.skip else inputs.pop()
        if not len(targets):
            return torch.zeros(())
        if is_whole:
            d_query = d_output = self._score(query, step, candidates)
        else:
            d_query = d_output = zeros(count, query.shape[1])
            d_query[step.learned] = self._score(query[step.learned], step, candidates)
        for layer in reversed(self._layers):
            d_output = layer.backward(d_output, inputs.pop(), step)
        self._leave(d_output, d_query, step, candidates, used)
        self._update(used)
        return self._loss[0]

    def _gather(self, inputs: Ints, targets: Ints) -> tuple[int, int]:
        """Copy the distinct rows of a mini-batch; returns C and U."""
        samples = self._sampler.sample()
        candidates, used = rows.distinct_rows(
            inputs, targets, samples, self._slots, self._base, self._rows, self._weights, self._places
        )
        self._base += used
        tables, corrections = (self._table, self._bias, self._log_q), (self._shift, self._restored)
        rows.gather(*tables, self._rows, candidates, used, self._vectors, *corrections)
        if self._shape.cosine_scale:
            rows.to_length(self._vectors, used, 1.0, self._vectors, self._lengths)
        return candidates, used

    def _drop(self, x_mask: Floats, count: int) -> None:
        """Draw the masks: of the input, then of each layer's output; those that keep all were filled once."""
        settings = self._settings
        if settings.embedding_dropout:
            fill_dropout_mask(x_mask, self.seed, self._draws, settings.embedding_dropout)
            x_mask *= self._input_length
        if settings.hidden_dropout:
            for number, layer in enumerate(self._layers, start=1):
                fill_dropout_mask(layer.views(0, count).mask, self.seed, self._draws + number, settings.hidden_dropout)
        self._draws += 1 + len(self._layers)

    def _add_trace(self, output: Floats, x: Floats, step: Step) -> Floats:
        query, shape = self._query[: len(x)], self._shape
        weights = shape.trace_decay, shape.skip_weight
        place = self._state, self._trace_first, step.lanes, step.resets
        rows.add_trace(output, x, *place, *weights, query)
        return query

    def _leave(self, d_x: Floats, d_query: Floats, step: Step, candidates: int, used: int) -> None:
        """Add the gradients of the inputs to those of the gathered rows."""
        shape = self._shape
        weights = shape.trace_decay, shape.skip_weight if shape.skip else 0.0
        mask, gradient = self._x_mask, self._d_vectors
        trace = self._d_trace, step.lanes, step.resets
        rows.leave(d_x, d_query, *trace, *weights, mask, self._places, candidates, used, gradient)
        if shape.cosine_scale:
            rows.from_length(gradient, used, 1.0, self._vectors, self._lengths)

    def _score(self, query: Floats, step: Step, candidates: int) -> Floats:
        """Score the candidates; return the gradient of the learned ones' queries and keep the candidates'."""
        count, vectors, scale = len(query), self._vectors[:candidates], self._shape.cosine_scale
        targets = self._places[1, :count]
        sessions = step.inputs[:0] if self._settings.own_session_negatives else step.sessions
        if scale:
            unit = self._unit_query[:count]
            rows.to_length(query, count, scale, unit, self._query_lengths)
            query = unit
        scores, multiply = self._scores[:count, :candidates], self._multiply
        multiply(query, vectors.T, scores, False)
        cross_entropy(
            self._scores,
            self._shift,
            self._restored,
            self._weights,
            candidates,
            targets,
            sessions,
            np.argsort(sessions, kind="stable"),
            self._settings.step_transitions,
            self._settings.label_smoothing,
            self._d_bias,
            self._loss.numpy(),
        )
        multiply(scores.T, query, self._d_vectors[:candidates], False)
        d_query = self._d_query[:count]
        multiply(scores, vectors, d_query, False)
        if scale:
            rows.from_length(d_query, count, scale, query, self._query_lengths)
        return d_query

    def _update(self, used: int) -> None:
        optimizer = self._optimizer
        recipe = optimizer.learning_rate, optimizer.momentum, optimizer.eps
        update_rows(self._table, *self._table_state, self._rows, used, self._d_vectors, *recipe)
        if len(self._bias):
            update_values(self._bias, *self._bias_state, self._rows, used, self._d_bias, *recipe)
        for layer in self._layers:
            for parameter in layer.parameters:
                parameter.update()


def _apart(width: int) -> int:
    """Return a width, at least as large, of which a column's values do not fall on the same few places of a cache."""
    return (-(-width // LINE) | 1) * LINE


@functools.cache
def compile_kernels() -> None:
    """Make sure that no step waits for a compiler: some seconds once per installation, well below one afterwards."""
    sessions = Sessions(*(np.array(column, dtype=np.int64) for column in ([0, 1], [0, 2], [0], [0])))
    settings = TrainerSettings(embedding_size=1, hidden_sizes=(1,), batch_size=1, negative_samples=1)
    network = GRU4Rec.initialised(settings.network(), 2, torch.Generator())
    step_of = FastStep(network, SparseAdagrad(settings.learning_rate), sessions, settings, torch.Generator())
    step_of(session_parallel(sessions, settings.batch_size).step(0))
