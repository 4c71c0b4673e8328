import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.optimizer import Accumulator, SparseAdagrad

RATE, EPS = 0.1, 1e-6
Array = NDArray[np.float64]

accumulators = pytest.mark.parametrize("accumulator", ["element", "row"])


def by_the_formula(
    values: Array, gradients: list[Array], momentum: float, accumulator: Accumulator = "element"
) -> Array:
    """All steps of one row, or with an accumulator per element of any parameter."""
    values, accumulated, velocity = values.copy(), np.zeros_like(values), np.zeros_like(values)
    for gradient in gradients:
        accumulated += np.mean(gradient**2) if accumulator == "row" else gradient**2
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


@accumulators
@pytest.mark.parametrize("momentum", [0.0, 0.4])
@pytest.mark.parametrize("width", [(), (4,)])
def test_row_updates_equal_the_formula_applied_to_the_steps_that_use_the_row(
    accumulator: Accumulator, momentum: float, width: tuple[int, ...]
) -> None:
    start, *gradients = drawn((6, *width), 5)
    used = [[0, 3], [5, 3, 1], [3], [1, 0]]
    table = torch.tensor(start)
    optimizer = SparseAdagrad(RATE, momentum, EPS, accumulator=accumulator)
    for rows, gradient in zip(used, gradients, strict=True):
        optimizer.update_rows("t", table, torch.tensor(rows), torch.tensor(gradient[rows]))
    for row in range(6):
        own = [gradient[row] for rows, gradient in zip(used, gradients, strict=True) if row in rows]
        expected = by_the_formula(start[row], own, momentum, accumulator)
        np.testing.assert_allclose(table[row].numpy(), expected, rtol=1e-12)


def test_one_accumulator_a_row_takes_one_number_a_row_and_leaves_dense_parameters_one_a_value() -> None:
    optimizer = SparseAdagrad(RATE, accumulator="row")
    optimizer.update_rows("embedding", torch.zeros(5, 3), torch.tensor([1, 4]), torch.ones(2, 3))
    optimizer.update_rows("item_bias", torch.zeros(5), torch.tensor([1, 4]), torch.ones(2))
    optimizer.update_dense("gru.0.bias", torch.zeros(3, 2), torch.ones(3, 2))
    shapes = {name: tuple(tensor.shape) for name, tensor in optimizer.state.items()}
    assert shapes == {"accumulator.embedding": (5,), "accumulator.item_bias": (5,), "accumulator.gru.0.bias": (3, 2)}


def test_accumulators_per_value_become_those_that_rows_would_have_gathered() -> None:
    start, *gradients = (torch.tensor(values) for values in drawn((4, 3), 4))
    rows = torch.arange(4)
    switched, by_row = SparseAdagrad(RATE, 0.4), SparseAdagrad(RATE, 0.4, accumulator="row")
    for optimizer in (switched, by_row):
        for gradient in gradients[:2]:
            optimizer.update_rows("t", start.clone(), rows, gradient)
    switched = SparseAdagrad(RATE, accumulator="row", state=switched.state)
    tables = [start.clone(), start.clone()]
    by_row.momentum = 0.0
    for optimizer, table in zip((switched, by_row), tables, strict=True):
        optimizer.update_rows("t", table, rows, gradients[2])
    torch.testing.assert_close(tables[0], tables[1], rtol=1e-12, atol=0)


def test_accumulators_per_row_become_those_of_every_value_in_the_row() -> None:
    state = {"accumulator.t": torch.tensor([4.0, 9.0])}
    table = torch.zeros(2, 3)
    optimizer = SparseAdagrad(RATE, eps=0.0, state=state)
    optimizer.update_rows("t", table, torch.tensor([1]), torch.tensor([[4.0, 0.0, 4.0]]))
    torch.testing.assert_close(table, torch.tensor([[0.0] * 3, [-0.08, 0.0, -0.08]]))
    assert optimizer.state["accumulator.t"].tolist() == [[4.0] * 3, [25.0, 9.0, 25.0]]
    assert state["accumulator.t"].tolist() == [4.0, 9.0]


def test_zero_gradient_from_a_zero_accumulator_changes_nothing() -> None:
    parameter = torch.ones(3)
    SparseAdagrad(RATE).update_dense("p", parameter, torch.zeros(3))
    assert torch.equal(parameter, torch.ones(3))


@accumulators
def test_optimizer_given_back_its_state_goes_on_as_if_never_stopped(accumulator: Accumulator) -> None:
    start, *gradients = drawn((3, 2), 5)
    rows = torch.arange(3)
    unbroken, resumed = torch.tensor(start), torch.tensor(start)
    first = SparseAdagrad(RATE, 0.4, accumulator=accumulator)
    for gradient in gradients:
        first.update_rows("t", unbroken, rows, torch.tensor(gradient))
    second = SparseAdagrad(RATE, 0.4, accumulator=accumulator)
    for gradient in gradients:
        second.update_rows("t", resumed, rows, torch.tensor(gradient))
        state = {name: value.clone() for name, value in second.state.items()}
        second = SparseAdagrad(RATE, 0.4, accumulator=accumulator, state=state)
    assert torch.equal(unbroken, resumed)


@accumulators
def test_grown_tables_keep_old_rows_and_start_new_ones_at_zero(accumulator: Accumulator) -> None:
    optimizer = SparseAdagrad(RATE, 0.4, accumulator=accumulator)
    for name, shape in (("embedding", (2, 3)), ("item_input", (2, 6)), ("item_bias", (2,))):
        optimizer.update_rows(name, torch.zeros(shape), torch.tensor([0, 1]), torch.full(shape, 2.0))
    optimizer.update_dense("gru.0.bias", torch.zeros(2), torch.full((2,), 2.0))
    before = {name: tensor.clone() for name, tensor in optimizer.state.items()}
    grown = optimizer.with_rows(4)
    for name in ("embedding", "item_input", "item_bias"):
        for key in (f"accumulator.{name}", f"velocity.{name}"):
            assert torch.equal(grown.state[key][:2], before[key])
            assert torch.equal(grown.state[key][2:], torch.zeros_like(before[key]))
    assert grown.accumulator == accumulator
    assert grown.state["accumulator.gru.0.bias"].shape == (2,)
    assert all(torch.equal(optimizer.state[name], tensor) for name, tensor in before.items())


def test_every_table_of_a_network_with_a_row_per_item_grows() -> None:
    settings = GRU4RecSettings(embedding_size=3, hidden_sizes=(3,), item_input="separate")
    network = GRU4Rec.initialised(settings, 2, torch.Generator().manual_seed(1))
    optimizer = SparseAdagrad(RATE)
    for name, table in network.item_tables.items():
        optimizer.update_rows(name, table, torch.tensor([0]), torch.ones(1, *table.shape[1:]))
    grown_network, grown = network.with_items(5, generator=torch.Generator().manual_seed(2)), optimizer.with_rows(5)
    for name, table in grown_network.item_tables.items():
        grown.update_rows(name, table, torch.tensor([4]), torch.ones(1, *table.shape[1:]))
    assert {len(tensor) for tensor in grown.state.values()} == {5}


def test_updates_leave_no_trace_for_gradients() -> None:
    table = torch.ones(3, 2, requires_grad=True)
    optimizer = SparseAdagrad(RATE, 0.4)
    optimizer.update_rows("t", table, torch.tensor([1]), torch.ones(1, 2))
    assert table.is_leaf
    assert not any(value.requires_grad for value in optimizer.state.values())
