from typing import Any

import numpy as np
import pytest

from model.compiling import compiled
from model.dot_products import ITEMS, LARGEST, QUERIES, packed_items, packed_queries, products


@compiled
def all_products(queries: Any, items: Any, sums: Any) -> None:
    for panel in range(len(items)):
        for group in range(len(queries)):
            products(queries, group, items, panel, sums, panel * ITEMS)


@pytest.mark.parametrize("length", [2, 3, 30, 128])
@pytest.mark.parametrize(("queries", "items"), [(1, 1), (QUERIES, ITEMS), (QUERIES + 1, 3 * ITEMS - 1)])
def test_sums_are_those_of_int64(queries: int, items: int, length: int) -> None:
    rng = np.random.default_rng(length)
    most = int(LARGEST / np.sqrt(length))  # no row is longer than LARGEST
    asked = rng.integers(-most, most + 1, (queries, length)).astype(np.float32)
    rows = rng.integers(-most, most + 1, (items, length)).astype(np.float32)
    packed = packed_queries(asked, np.ones(queries, dtype=np.float32)), packed_items(rows, 1.0)
    sums = np.full((len(packed[0]) * QUERIES, len(packed[1]) * ITEMS), -1, dtype=np.int32)
    all_products(*packed, sums)
    assert np.array_equal(sums[:queries, :items], asked.astype(np.int64) @ rows.astype(np.int64).T)
    assert not sums[queries:].any()
    assert not sums[:, items:].any()


def test_the_longest_rows_do_not_overflow() -> None:
    row = np.array([[LARGEST, 0]], dtype=np.float32)
    sums = np.empty((QUERIES, ITEMS), dtype=np.int32)
    all_products(packed_queries(row, np.ones(1, dtype=np.float32)), packed_items(-row, 1.0), sums)
    assert sums[0, 0] == -(LARGEST**2)


def test_values_are_scaled_and_rounded_and_pairs_are_filled_up() -> None:
    rows = np.array([[0.26, -0.24, 0.74], [1, 2, 3]], dtype=np.float32)
    packed = packed_queries(rows, np.array([2, 10], dtype=np.float32))
    assert packed.shape == (1, 2, QUERIES, 2)
    assert packed[0, :, 0].tolist() == [[1, 0], [1, 0]]
    assert packed[0, :, 1].tolist() == [[10, 20], [30, 0]]
    assert not packed[0, :, 2:].any()
    assert packed_items(rows, 10.0)[0, 0, 1].tolist() == [10, 20]
