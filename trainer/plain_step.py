"""The plain step, with autograd: runs anywhere, covers everything, and says what the fast one must compute.

Shape letters: B transitions in a mini-batch, K sampled items, C = B + K candidates, U distinct rows of those scored, I
distinct rows of those taken in, L learned transitions, D embedding width, W state width.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Step
from model.clicks import Sessions
from model.gru4rec import EMBEDDING, ITEM_BIAS, Dropout, GRU4Rec
from model.optimizer import SparseAdagrad
from trainer.sampling import click_counts, log_expected, popularity_sampler
from trainer.settings import TrainerSettings


@dataclass(frozen=True)
class Rows:
    """The rows of the item tables that one mini-batch needs.

    Attributes:
        distinct: int64 [U], each once; where the input is shared, those of the inputs too.
        distinct_inputs: int64 [I], each once; `distinct` itself where the input is shared.
        inputs: int64 [B], places in `distinct_inputs`.
        candidates: int64 [C], places in `distinct`: the L targets, then the samples.
        lanes: int64 [B]
        resets: int64 [B], 1 where the state starts from zero.
        learned: int64 [L], which of the mini-batch's transitions have a target among the candidates.
        sessions: int64 [L], which of the mini-batch's sessions each of those is of; empty where it is not asked for.
        moments: Where each moment of the mini-batch begins and ends.
    """

    distinct: Tensor
    distinct_inputs: Tensor
    inputs: Tensor
    candidates: Tensor
    lanes: Tensor
    resets: Tensor
    learned: Tensor
    sessions: Tensor
    moments: list[tuple[int, int]]


class TrainingStep:
    """Trains on one mini-batch after the other; see `trainer.fine_tune.MiniBatchStep`."""

    def __init__(
        self,
        network: GRU4Rec,
        optimizer: SparseAdagrad,
        sessions: Sessions,
        settings: TrainerSettings,
        generator: torch.Generator,
    ) -> None:
        self._tables = network.item_tables
        self._input_table = network.settings.input_table
        self._has_own_input = self._input_table != EMBEDDING
        self.device = self._tables[EMBEDDING].device
        self._dense = {
            name: network.parameters[name].detach().requires_grad_() for name in network.dense_parameter_names
        }
        self._network = GRU4Rec(network.settings, network.parameters | self._dense)
        self._optimizer = optimizer
        self._settings = settings
        self._loss = settings.loss_function()
        # A network may go on under other settings than those it was made with; without a vector there is none to drop.
        self._input_dropout = 0.0 if network.settings.item_input == "one_hot" else settings.embedding_dropout
        seed = int(torch.randint(2**62, (), generator=generator))
        self._generator = torch.Generator(self.device).manual_seed(seed)
        counts = click_counts(sessions, network.item_count)
        self._sampler = popularity_sampler(counts, settings, generator)
        self._log_q = log_expected(counts, self._sampler.probabilities, settings).to(self.device)
        self._slots = np.zeros(network.item_count, dtype=np.int64)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the carried states: every session is played from its start again."""
        self._state = torch.zeros(self._settings.batch_size, self._network.state_width, device=self.device)

    def __call__(self, step: Step) -> Tensor:
        """Train on one mini-batch; returns its loss, a scalar on the device, not waited for."""
        rows = self._rows(step)
        used = {name: rows.distinct_inputs if name == self._input_table else rows.distinct for name in self._tables}
        leaves = {name: table.index_select(0, used[name]).requires_grad_() for name, table in self._tables.items()}
        if not len(rows.learned):
            with torch.no_grad():
                return self.loss(leaves, rows)
        loss = self.loss(leaves, rows)
        # The loss is a mean over the mini-batch. Undone, so that the small ones at the end weigh no more per click.
        scaled = loss * (len(rows.learned) / self._settings.step_transitions)
        gradients = torch.autograd.grad(scaled, [*leaves.values(), *self._dense.values()])
        for (name, table), gradient in zip(self._tables.items(), gradients, strict=False):
            self._optimizer.update_rows(name, table, used[name], gradient)
        for (name, weight), gradient in zip(self._dense.items(), gradients[len(leaves) :], strict=True):
            self._optimizer.update_dense(name, weight.detach(), gradient)
        return loss.detach()

    def loss(self, leaves: dict[str, Tensor], rows: Rows) -> Tensor:
        """Advance the carried states by the clicks and return the loss of guessing the learned targets, 0 without any.

        Args:
            leaves: The gathered rows of the item tables by the parameter's name: [I, E] of the one that is taken in,
                [U, D] of the embedding, [U] of the biases.
            rows: Which of them is what.
        """
        settings = self._settings
        x = self._network.as_inputs(leaves[self._input_table].index_select(0, rows.inputs))  # [B, E]
        x = self._dropped(x, rate=self._input_dropout)
        drop_hidden = partial(self._dropped, rate=settings.hidden_dropout)
        after = self._advance(x, rows, drop_hidden)
        query = self._network.query(after, x, None if settings.hidden_dropout_carried else drop_hidden)
        if not len(rows.learned):
            return query.new_zeros(())
        if len(rows.learned) < len(query):
            query = query.index_select(0, rows.learned)
        scores = self._network.activated(self._scores(query, leaves, rows))
        log_q = self._log_q[rows.distinct].index_select(0, rows.candidates) if settings.logq else None
        if log_q is not None and not settings.logq_target:
            log_q = log_q.repeat(len(query), 1).fill_diagonal_(0)  # candidate i is the target of row i
        return self._loss(scores, log_q, excluded=self._of_own_session(rows))

    def _of_own_session(self, rows: Rows) -> Tensor | None:
        """Return which candidates are other targets of a row's session, bool [L, C], where those are to be spared."""
        if self._settings.own_session_negatives:
            return None
        targets = rows.candidates[: len(rows.sessions)]
        clicked = torch.zeros(len(rows.sessions), len(rows.distinct), dtype=torch.bool, device=targets.device)
        clicked[rows.sessions, targets] = True
        return clicked[rows.sessions][:, rows.candidates] & (rows.candidates != targets.unsqueeze(1))

    def _scores(self, query: Tensor, leaves: dict[str, Tensor], rows: Rows) -> Tensor:
        """Return the scores of the candidates before the activation, [B, C], for queries [B, D]."""
        bias = leaves[ITEM_BIAS].index_select(0, rows.candidates) if ITEM_BIAS in leaves else None
        return self._network.score(query, leaves[EMBEDDING].index_select(0, rows.candidates), bias)

    def _advance(self, x: Tensor, rows: Rows, drop_hidden: Dropout) -> Tensor:
        """Return the state after each click, [B, W], and carry the last of each lane on; the past of all is cut off."""
        state, after = self._state, []
        for start, stop in rows.moments:
            lanes = rows.lanes[start:stop]
            whole_batch = len(lanes) == len(state)
            before = state if whole_batch else state.index_select(0, lanes)
            before = before * (1 - rows.resets[start:stop]).unsqueeze(1)
            carries_dropped = self._settings.hidden_dropout_carried
            after.append(self._network.advance(x[start:stop], before, drop_hidden, carries_dropped=carries_dropped))
            state = after[-1] if whole_batch else state.index_copy(0, lanes, after[-1])
        self._state = state.detach()
        return after[0] if len(after) == 1 else torch.cat(after)

    def _dropped(self, x: Tensor, rate: float) -> Tensor:
        if rate == 0:
            return x
        # Twice as fast on a CPU as bernoulli_, and as dropout, which takes no generator besides.
        kept = torch.rand(x.shape, device=x.device, generator=self._generator).ge_(rate)
        return x * kept.mul_(1 / (1 - rate))

    def _rows(self, step: Step) -> Rows:
        """Find the distinct rows of a mini-batch on the CPU, and bring all indices to the device in one copy."""
        count = len(step.inputs)
        samples = self._sampler.sample(self._settings.negative_samples).numpy()
        learned = np.flatnonzero(step.learned)
        targets = step.targets[learned]
        carried = [step.lanes, step.resets, learned, self._sessions(step)]
        if not self._has_own_input:
            found, places = self._distinct(np.concatenate([step.inputs, targets, samples]))
            columns = [found, places[:count], places[count:], *carried]
        else:
            found, places = self._distinct(np.concatenate([targets, samples]))
            columns = [found, *self._distinct(step.inputs), places, *carried]
        packed = torch.from_numpy(np.concatenate(columns)).to(self.device, non_blocking=True)
        distinct, *others = torch.split(packed, [len(column) for column in columns])
        own, inputs, candidates, lanes, resets, learns, of = others if self._has_own_input else (distinct, *others)
        return Rows(distinct, own, inputs, candidates, lanes, resets, learns, of, step.moments)

    def _sessions(self, step: Step) -> NDArray[np.int64]:
        return step.inputs[:0] if self._settings.own_session_negatives else step.sessions

    def _distinct(self, wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the distinct rows among those wanted, int64 [U], and each one's place there."""
        order = np.arange(len(wanted))
        self._slots[wanted] = order  # of equal rows the last stays; several times faster than sorting them
        last = self._slots[wanted]
        is_last = last == order
        return wanted[is_last], (np.cumsum(is_last) - 1)[last]
