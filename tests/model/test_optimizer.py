import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.optimizer import SparseAdagrad

RATE, EPS = 0.1, 1e-6
Array = NDArray[np.float64]


def by_the_formula(values: Array, gradients: list[Array], momentum: float) -> Array:
    values, accumulated, velocity = values.copy(), np.zeros_like(values), np.zeros_like(values)
    for gradient in gradients:
        accumulated += gradient**2
        velocity = momentum * velocity - RATE * gradient / np.sqrt(accumulated + EPS)
        values += velocity
    return values


def drawn(shape: tuple[int, ...], count: int) -> list[Array]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal(shape) for _ in range(count)]


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(3, 4), (3,)])
def test_dense_updates_equal_the_formula_in_float64(momentum: float, shape: tuple[int, ...]) -> None:
    start, *gradients = drawn(shape, 5)
    parameter = torch.tensor(start)
    optimizer = SparseAdagrad(RATE, momentum, EPS)
    for gradient in gradients:
        optimizer.update_dense("p", parameter, torch.tensor(gradient))
    np.testing.assert_allclose(parameter.numpy(), by_the_formula(start, gradients, momentum), rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("width", [(), (4,)])
def test_row_updates_equal_the_formula_applied_to_the_steps_that_use_the_row(
    momentum: float, width: tuple[int, ...]
) -> None:
    start, *gradients = drawn((6, *width), 5)
    used = [[0, 3], [5, 3, 1], [3], [1, 0]]
    table = torch.tensor(start)
    optimizer = SparseAdagrad(RATE, momentum, EPS)
    for rows, gradient in zip(used, gradients, strict=True):
        optimizer.update_rows("t", table, torch.tensor(rows), torch.tensor(gradient[rows]))
    for row in range(6):
        own = [gradient[row] for rows, gradient in zip(used, gradients, strict=True) if row in rows]
        np.testing.assert_allclose(table[row].numpy(), by_the_formula(start[row], own, momentum), rtol=1e-12)


def test_zero_gradient_from_a_zero_accumulator_changes_nothing() -> None:
    parameter = torch.ones(3)
    SparseAdagrad(RATE).update_dense("p", parameter, torch.zeros(3))
    assert torch.equal(parameter, torch.ones(3))


def test_optimizer_given_back_its_state_goes_on_as_if_never_stopped() -> None:
    start, *gradients = drawn((3, 2), 5)
    unbroken, resumed = torch.tensor(start), torch.tensor(start)
    first = SparseAdagrad(RATE, 0.4)
    for gradient in gradients:
        first.update_dense("p", unbroken, torch.tensor(gradient))
    second = SparseAdagrad(RATE, 0.4)
    for gradient in gradients:
        second.update_dense("p", resumed, torch.tensor(gradient))
        second = SparseAdagrad(RATE, 0.4, state={name: value.clone() for name, value in second.state.items()})
    assert torch.equal(unbroken, resumed)


def test_grown_tables_keep_old_rows_and_start_new_ones_at_zero() -> None:
    optimizer = SparseAdagrad(RATE, 0.4)
    for name, shape in (("embedding", (2, 3)), ("item_bias", (2,)), ("gru.0.bias", (2,))):
        optimizer.update_dense(name, torch.zeros(shape), torch.full(shape, 2.0))
    grown = optimizer.with_rows(4)
    assert torch.equal(grown.state["accumulator.embedding"], torch.tensor([[4.0] * 3] * 2 + [[0.0] * 3] * 2))
    assert torch.equal(grown.state["accumulator.item_bias"], torch.tensor([4.0, 4.0, 0.0, 0.0]))
    assert grown.state["velocity.embedding"].shape == (4, 3)
    assert grown.state["accumulator.gru.0.bias"].shape == (2,)
    assert optimizer.state["accumulator.embedding"].shape == (2, 3)


def test_updates_leave_no_trace_for_gradients() -> None:
    table = torch.ones(3, 2, requires_grad=True)
    optimizer = SparseAdagrad(RATE, 0.4)
    optimizer.update_rows("t", table, torch.tensor([1]), torch.ones(1, 2))
    assert table.is_leaf
    assert not any(value.requires_grad for value in optimizer.state.values())
