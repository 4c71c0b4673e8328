# ruff: noqa: FBT001 - a switch that tests are given
import functools
from typing import Any, cast

import numpy as np
import pytest

from model.kernels.compiling import Floats, compiled
from model.kernels.dot_products import (
    FEW_QUERIES,
    HAS_FOURS,
    ITEMS,
    QUERIES,
    Packed,
    pack,
    packed_items,
    products,
    products_of,
    products_of_few,
    room_for_queries,
)

PLAIN = products_of(QUERIES, plain=True)
# How products are added up, whichever way this processor has an instruction for.
WAYS = pytest.mark.parametrize("fours", [False, True])


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


def packed_queries(vectors: Floats, *, fours: bool = HAS_FOURS) -> Packed:
    return cast("Packed", pack(vectors, room_for_queries(*vectors.shape, fours=fours), 0))


def sums_of(queries: Packed, items: Packed, multiply: Any = all_products) -> Any:
    groups, _, beside, _ = queries.values.shape
    sums = np.full((groups * beside, len(items.values) * ITEMS), -1, dtype=np.int32)
    multiply(queries.values, queries.starts, items.values, sums)
    return sums


def unpacked(packed: Packed, rows: int, length: int) -> Any:
    """Return the integers that stand for each row, int64 [rows, length]."""
    values = packed.values.astype(np.int64) - (128 if packed.values.dtype == np.uint8 else 0)
    return values.transpose(0, 2, 1, 3).reshape(-1, values.shape[1] * values.shape[3])[:rows, :length]


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


@pytest.mark.parametrize(
    "packing", [packed_items, packed_queries, functools.partial(packed_queries, fours=not HAS_FOURS)]
)
def test_lengths_units_and_errors_say_how_rows_were_rounded(packing: Any) -> None:
    sizes = np.array([1e-3, 1.0, 1e6, 0.0, 1e-42], dtype=np.float32)[:, None]
    rows = np.random.default_rng(0).normal(size=(5, 33)).astype(np.float32) * sizes
    packed = packing(rows)
    rounded = unpacked(packed, 5, 33) * packed.units.astype(np.float64)[:, None]
    np.testing.assert_allclose(packed.errors, np.linalg.norm(rows - rounded, axis=1), rtol=1e-3, atol=1e-30)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(packed.lengths, lengths, rtol=1e-5, atol=1e-30)
    assert (packed.errors[:3] < lengths[:3] * 0.02).all()
    assert packed.units[3] == packed.errors[3] == 0
