# ruff: noqa: FBT001 - a switch that tests are given
from typing import Any

import numpy as np
import pytest

from model.kernels.compiling import compiled
from model.kernels.dot_products import products, products_of, products_of_few
from model.kernels.packing import FEW_QUERIES, ITEMS, QUERIES, Packed, packed_items
from tests.model.kernels.packed import WAYS, packed_queries, unpacked

PLAIN = products_of(QUERIES, plain=True)


@compiled
def all_products(queries: Any, starts: Any, items: Any, sums: Any) -> None:
    for panel in range(len(items)):
        for group in range(len(queries)):
            if queries.shape[2] == FEW_QUERIES:
                products_of_few(queries, starts, group, items, panel, sums, panel * ITEMS)
            else:
                products(queries, starts, group, items, panel, sums, panel * ITEMS)


@compiled
def all_plain_products(queries: Any, starts: Any, items: Any, sums: Any) -> None:
    for panel in range(len(items)):
        for group in range(len(queries)):
            PLAIN(queries, starts, group, items, panel, sums, panel * ITEMS)


def sums_of(queries: Packed, items: Packed, multiply: Any = all_products) -> Any:
    groups, _, beside, _ = queries.values.shape
    sums = np.full((groups * beside, len(items.values) * ITEMS), -1, dtype=np.int32)
    multiply(queries.values, queries.starts, items.values, sums)
    return sums


@WAYS
@pytest.mark.parametrize("length", [1, 2, 3, 30, 128, 1000])
@pytest.mark.parametrize(
    ("queries", "items"),
    [(1, 1), (FEW_QUERIES, ITEMS + 1), (FEW_QUERIES + 1, 2), (QUERIES, ITEMS), (QUERIES + 1, 3 * ITEMS - 1)],
)
def test_sums_are_those_of_int64(queries: int, items: int, length: int, fours: bool) -> None:
    rng = np.random.default_rng(length)
    asked, rows = (rng.normal(size=(count, length)).astype(np.float32) for count in (queries, items))
    left, right = packed_queries(asked, fours=fours), packed_items(rows)
    sums = sums_of(left, right)
    assert np.array_equal(sums[:queries, :items], unpacked(left, queries, length) @ unpacked(right, items, length).T)
    assert not sums[queries:].any()
    assert not sums[:, items:].any()


@WAYS
@pytest.mark.parametrize("large", [1, 2, 4, 8, 16, 512])
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_of_the_largest_values_do_not_overflow(large: int, sign: int, fours: bool) -> None:
    row = np.full((1, 512), 1e-3, dtype=np.float32)
    row[:, :large] = 3.0
    left = packed_queries(np.repeat(row, FEW_QUERIES + 1, axis=0), fours=fours)
    right = packed_items(np.full_like(row, sign))
    expected = (unpacked(left, 1, 512) @ unpacked(right, 1, 512).T)[0, 0]
    for multiply in (all_products, all_plain_products):
        assert sums_of(left, right, multiply)[0, 0] == expected


@WAYS
def test_sums_without_special_instructions_are_the_same(fours: bool) -> None:
    rng = np.random.default_rng(0)
    asked, rows = (rng.normal(size=(count, 70)).astype(np.float32) for count in (2 * QUERIES, 3 * ITEMS))
    left, right = packed_queries(asked, fours=fours), packed_items(rows)
    assert np.array_equal(sums_of(left, right, all_plain_products), sums_of(left, right))
