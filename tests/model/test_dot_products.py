from typing import Any

import numpy as np
import pytest

from model.compiling import compiled
from model.dot_products import ITEMS, LARGEST, QUERIES, packed_items, packed_queries, products, width


@compiled
def all_products(queries: Any, items: Any, sums: Any) -> None:
    for panel in range(len(items)):
        for group in range(len(queries)):
            products(queries, group, items, panel, sums, panel * ITEMS)


@pytest.mark.parametrize("length", [2, 4, 30, 128])
@pytest.mark.parametrize(("queries", "items"), [(1, 1), (QUERIES, ITEMS), (QUERIES + 1, 3 * ITEMS - 1)])
def test_sums_are_those_of_int64(queries: int, items: int, length: int) -> None:
    rng = np.random.default_rng(length)
    most = int(LARGEST / np.sqrt(length))  # no row is longer than LARGEST
    asked = rng.integers(-most, most + 1, (queries, length)).astype(np.int16)
    rows = rng.integers(-most, most + 1, (items, length)).astype(np.int16)
    packed = packed_queries(asked), packed_items(rows)
    sums = np.full((len(packed[0]) * QUERIES, len(packed[1]) * ITEMS), -1, dtype=np.int32)
    all_products(*packed, sums)
    assert np.array_equal(sums[:queries, :items], asked.astype(np.int64) @ rows.astype(np.int64).T)
    assert not sums[queries:].any()
    assert not sums[:, items:].any()


def test_the_longest_rows_do_not_overflow() -> None:
    row = np.array([[LARGEST, 0]], dtype=np.int16)
    sums = np.empty((QUERIES, ITEMS), dtype=np.int32)
    all_products(packed_queries(row), packed_items(-row), sums)
    assert sums[0, 0] == -(LARGEST**2)


def test_rows_take_up_whole_pairs() -> None:
    assert [width(values) for values in (1, 2, 3, 128)] == [2, 2, 4, 128]
    packed = packed_items(np.arange(4 * ITEMS, dtype=np.int16).reshape(-1, 4))
    assert packed.shape == (1, 2, ITEMS, 2)
    assert packed[0, 1, 2].tolist() == [10, 11]
