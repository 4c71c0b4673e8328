import numpy as np
import pytest
import torch

from model.kernels.compiling import Floats
from model.kernels.products import compile_products, multiply
from tests.trainer.click_builders import SMALL
from tests.trainer.test_fast_step import assert_equal_training
from trainer import fast_step, products
from trainer.products import choose_multiply, multiply_by_torch


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    compile_products()


def matrix(rows: int, columns: int, layout: str, seed: int) -> Floats:
    """Return random values, row after row, column after column, or as part of a wider matrix."""
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    if layout == "rows":
        return values
    if layout == "columns":
        return np.ascontiguousarray(values.T).T
    wider = np.full((rows, columns + 7), np.nan, dtype=np.float32)
    wider[:, 3 : 3 + columns] = values
    return wider[:, 3 : 3 + columns]


SHAPES = [(1, 1, 1), (8, 48, 16), (7, 47, 5), (9, 49, 17), (24, 96, 33), (64, 230, 96), (3, 100, 1500), (130, 1, 12)]


@pytest.mark.parametrize("product", [multiply, multiply_by_torch])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("right_layout", ["rows", "columns", "part"])
@pytest.mark.parametrize("left_layout", ["rows", "columns", "part"])
def test_products_are_those_in_double_precision_for_any_shape_and_strides(
    product: products.Multiply, left_layout: str, right_layout: str, *, adds: bool
) -> None:
    for rows, columns, depth in SHAPES:
        left, right = matrix(rows, depth, left_layout, 1), matrix(depth, columns, right_layout, 2)
        out = matrix(rows, columns, "part", 3)
        around = out.base
        assert around is not None
        expected = left.astype(np.float64) @ right + (out if adds else 0)
        if not adds:
            out[:] = np.nan
        product(left, right, out, adds)
        assert np.allclose(out, expected, atol=1e-5 * depth**0.5, rtol=1e-5), (rows, columns, depth)
        assert np.isnan(around[:, :3]).all()
        assert np.isnan(around[:, 3 + columns :]).all()


@pytest.mark.parametrize("product", [multiply, multiply_by_torch])
def test_training_is_that_of_the_plain_step_with_either_product(
    product: products.Multiply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_step, "choose_multiply", lambda: product)
    changes = {"batch_size": 5, "backprop_steps": 4, "hidden_sizes": (12, 16), "trace_decay": 0.5, "cosine_scale": 8.0}
    assert_equal_training(SMALL.model_copy(update=changes))


@pytest.mark.parametrize(
    ("processor", "threads", "expected"),
    [("znver5", 1, multiply), ("znver5", 2, multiply_by_torch), ("sapphirerapids", 1, multiply_by_torch)],
)
def test_compiled_products_are_for_one_thread_on_processors_that_the_library_holds_back(
    processor: str, threads: int, expected: products.Multiply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products.binding, "get_host_cpu_name", lambda: processor)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert choose_multiply() is expected
