"""Adagrad with momentum that only touches the rows in use.

Shape letters: N rows of a table, R of them in use, D columns.
Source: Duchi, Hazan & Singer 2011; accumulators that start at zero, epsilon inside the square root.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor

from model.gru4rec_settings import ITEM_TABLES

Accumulator = Literal["element", "row"]

# Prefixes of the names in `SparseAdagrad.state`, as versions save it.
ACCUMULATOR = "accumulator."
VELOCITY = "velocity."


class SparseAdagrad:
    """Updates parameters in place; keeps the sum of squared gradients of every value, and its velocity.

    For a value with gradient g: a <- a + g^2, v <- momentum * v - learning_rate * g / sqrt(a + eps),
    value <- value + v. Rows that are not in use keep value, a and v. The velocity is kept only where momentum is not
    zero.

    Args:
        learning_rate: Length of the first step of every value.
        momentum: Share of the last step that is taken again.
        eps: Keeps a step finite where no gradient has been.
        accumulator: `row` keeps one a for a whole row of a table, a <- a + mean of g^2 over the row: a D-th of the
            state, and less to read and write. Dense parameters have one per value either way. A state of the other
            kind is converted where it is first used: rows take the mean of their values' accumulators, which is what
            they would have gathered themselves; values take that of their row.
        state: What an earlier optimizer left in `state`.

    Attributes:
        state: Tensors by name, ready to be saved with a version and given back to go on from there.
    """

    def __init__(
        self,
        learning_rate: float,
        momentum: float = 0.0,
        eps: float = 1e-6,
        *,
        accumulator: Accumulator = "element",
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.eps = eps
        self.accumulator = accumulator
        self.state: dict[str, Tensor] = dict(state or {})

    @torch.no_grad()
    def update_rows(self, name: str, table: Tensor, rows: Tensor, gradient: Tensor) -> None:
        """Update some rows of a table in place.

        Args:
            name: The parameter's name, under which its state is kept.
            table: [N, D] or [N].
            rows: int64 [R], distinct: a row that occurs twice would be updated from stale state.
            gradient: [R, D] or [R], of the rows in that order.
        """
        accumulators = self._accumulators_of(name, table)
        if accumulators.dim() == table.dim():
            accumulated = accumulators.index_select(0, rows).addcmul_(gradient, gradient)
            accumulators.index_copy_(0, rows, accumulated)
            step = accumulated.add_(self.eps).rsqrt_().mul_(gradient).mul_(-self.learning_rate)
        else:
            mean_square = torch.linalg.vecdot(gradient, gradient).div_(gradient.shape[1])
            accumulated = accumulators.index_select(0, rows).add_(mean_square)
            accumulators.index_copy_(0, rows, accumulated)
            step = gradient * accumulated.add_(self.eps).rsqrt_().mul_(-self.learning_rate).unsqueeze(1)
        if self.momentum:
            velocities = self._state_of(VELOCITY + name, table)
            step.add_(velocities.index_select(0, rows), alpha=self.momentum)
            velocities.index_copy_(0, rows, step)
        table.index_add_(0, rows, step)

    @torch.no_grad()
    def update_dense(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        """Update a whole parameter in place; `gradient` has its shape."""
        accumulators = self._state_of(ACCUMULATOR + name, parameter)
        accumulators.addcmul_(gradient, gradient)
        step = (accumulators + self.eps).rsqrt_().mul_(gradient).mul_(-self.learning_rate)
        if self.momentum:
            velocities = self._state_of(VELOCITY + name, parameter)
            step = velocities.mul_(self.momentum).add_(step)
        parameter.add_(step)

    def with_rows(self, row_count: int, names: Iterable[str] = ITEM_TABLES) -> "SparseAdagrad":
        """Return an optimizer for tables that have grown to `row_count` rows; new rows start at zero.

        The tensors that grow are new, all others are shared with this optimizer.
        """
        state = dict(self.state)
        for name in names:
            for key in (ACCUMULATOR + name, VELOCITY + name):
                if key in state:
                    old = state[key]
                    added = old.new_zeros((row_count - len(old), *old.shape[1:]))
                    state[key] = torch.cat([old, added])
        return SparseAdagrad(self.learning_rate, self.momentum, self.eps, accumulator=self.accumulator, state=state)

    def _accumulators_of(self, name: str, table: Tensor) -> Tensor:
        key = ACCUMULATOR + name
        per_row = self.accumulator == "row"
        accumulators = self._state_of(key, table[:, 0] if per_row and table.dim() > 1 else table)
        if per_row and accumulators.dim() > 1:
            self.state[key] = accumulators.mean(dim=1)
        elif not per_row and accumulators.dim() < table.dim():
            self.state[key] = accumulators.unsqueeze(1).repeat(1, table.shape[1])
        return self.state[key]

    def _state_of(self, key: str, like: Tensor) -> Tensor:
        if key not in self.state:
            self.state[key] = torch.zeros_like(like, requires_grad=False, memory_format=torch.contiguous_format)
        return self.state[key]
