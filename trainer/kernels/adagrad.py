"""Updates as `model.optimizer.SparseAdagrad` says, in one walk through parameter, sums and gradient.

Shape letters: N items, D embedding width.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np

from model.kernels.compiling import ROWS_AHEAD, Floats, Ints, compiled, inverse_root, part, prefetch_row


@part
def _adagrad(parameter: Any, sums: Any, velocity: Any, gradient: Any, rate: Any, momentum: Any, eps: Any) -> None:
    """Update arrays of one dimension, as `model.optimizer.SparseAdagrad` says; `velocity` is empty without momentum."""
    if len(velocity):
        for d in range(len(gradient)):
            sums[d] += gradient[d] * gradient[d]
            velocity[d] = momentum * velocity[d] - rate * gradient[d] * inverse_root(sums[d] + eps)
            parameter[d] += velocity[d]
    else:
        for d in range(len(gradient)):
            sums[d] += gradient[d] * gradient[d]
            parameter[d] -= rate * gradient[d] * inverse_root(sums[d] + eps)


@compiled
def update_dense(
    parameter: Floats, sums: Floats, velocity: Floats, gradient: Floats, rate: float, momentum: float, eps: float
) -> None:
    """Update a whole parameter; all arrays flat, `velocity` empty without momentum."""
    _adagrad(parameter, sums, velocity, gradient, np.float32(rate), np.float32(momentum), np.float32(eps))


@compiled
def update_rows(
    table: Floats,
    sums: Floats,
    velocity: Floats,
    rows: Ints,
    count: int,
    gradient: Floats,
    rate: float,
    momentum: float,
    eps: float,
) -> None:
    """Update the first `count` of some distinct rows of a table [N, D]; `velocity` is empty without momentum."""
    for u in range(count):
        row = rows[u]
        prefetch_row(table, rows[min(u + ROWS_AHEAD, count - 1)])
        prefetch_row(sums, rows[min(u + ROWS_AHEAD, count - 1)])
        _adagrad(
            table[row],
            sums[row],
            velocity[row] if len(velocity) else table[row, :0],
            gradient[u],
            np.float32(rate),
            np.float32(momentum),
            np.float32(eps),
        )


@compiled
def update_values(
    values: Floats,
    sums: Floats,
    velocity: Floats,
    rows: Ints,
    count: int,
    gradient: Floats,
    rate: float,
    momentum: float,
    eps: float,
) -> None:
    """Update the first `count` of some distinct values of a table [N]; `velocity` is empty without momentum."""
    for u in range(count):
        row = rows[u]
        one = slice(row, row + 1)
        _adagrad(
            values[one],
            sums[one],
            velocity[one],
            gradient[u : u + 1],
            np.float32(rate),
            np.float32(momentum),
            np.float32(eps),
        )
