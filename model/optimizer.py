"""Adagrad with momentum that only touches the rows in use.

Shape letters: N rows of a table, R of them in use, D columns.
Source: Duchi, Hazan & Singer 2011; element-wise accumulators that start at zero, epsilon inside the square root.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from model.gru4rec import EMBEDDING, ITEM_BIAS

_ACCUMULATOR = "accumulator."
_VELOCITY = "velocity."


class SparseAdagrad:
    """Updates parameters in place; keeps the sum of squared gradients of every value, and its velocity.

    For a value with gradient g: a <- a + g^2, v <- momentum * v - learning_rate * g / sqrt(a + eps),
    value <- value + v. Rows that are not in use keep value, a and v. The velocity is kept only where momentum is not
    zero.

    Attributes:
        state: Tensors by name, ready to be saved with a version and given back to go on from there.
    """

    def __init__(
        self,
        learning_rate: float,
        momentum: float = 0.0,
        eps: float = 1e-6,
        *,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.eps = eps
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
        accumulators = self._state_of(_ACCUMULATOR + name, table)
        accumulated = accumulators.index_select(0, rows).addcmul_(gradient, gradient)
        accumulators.index_copy_(0, rows, accumulated)
        step = accumulated.add_(self.eps).rsqrt_().mul_(gradient).mul_(-self.learning_rate)
        if self.momentum:
            velocities = self._state_of(_VELOCITY + name, table)
            step.add_(velocities.index_select(0, rows), alpha=self.momentum)
            velocities.index_copy_(0, rows, step)
        table.index_add_(0, rows, step)

    @torch.no_grad()
    def update_dense(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        """Update a whole parameter in place; `gradient` has its shape."""
        accumulators = self._state_of(_ACCUMULATOR + name, parameter)
        accumulators.addcmul_(gradient, gradient)
        step = (accumulators + self.eps).rsqrt_().mul_(gradient).mul_(-self.learning_rate)
        if self.momentum:
            velocities = self._state_of(_VELOCITY + name, parameter)
            step = velocities.mul_(self.momentum).add_(step)
        parameter.add_(step)

    def with_rows(self, row_count: int, names: Iterable[str] = (EMBEDDING, ITEM_BIAS)) -> "SparseAdagrad":
        """Return an optimizer for tables that have grown to `row_count` rows; new rows start at zero.

        The tensors that grow are new, all others are shared with this optimizer.
        """
        state = dict(self.state)
        for name in names:
            for key in (_ACCUMULATOR + name, _VELOCITY + name):
                if key in state:
                    old = state[key]
                    added = old.new_zeros((row_count - len(old), *old.shape[1:]))
                    state[key] = torch.cat([old, added])
        return SparseAdagrad(self.learning_rate, self.momentum, self.eps, state=state)

    def _state_of(self, key: str, like: Tensor) -> Tensor:
        if key not in self.state:
            self.state[key] = torch.zeros_like(like, requires_grad=False)
        return self.state[key]
