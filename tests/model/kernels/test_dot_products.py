# ruff: noqa: FBT001 - a switch that tests are given
from typing import Any, cast

import numpy as np
import pytest

from model.kernels.compiling import Floats, compiled
from model.kernels.dot_products import (
    FEW_QUERIES,
    HAS_BYTES,
    ITEMS,
    QUERIES,
    Packed,
    pack,
    packed_items,
    products,
    products_of_few,
    room_for_queries,
)

WIDTHS = [False, pytest.param(True, marks=pytest.mark.skipif(not HAS_BYTES, reason="no sums of four bytes here"))]


@compiled
def all_products(queries: Any, starts: Any, items: Any, sums: Any) -> None:
    for panel in range(len(items)):
        for group in range(len(queries)):
            if queries.shape[2] == FEW_QUERIES:
                products_of_few(queries, starts, group, items, panel, sums, panel * ITEMS)
            else:
                products(queries, starts, group, items, panel, sums, panel * ITEMS)


def packed_queries(vectors: Floats, *, as_bytes: bool = HAS_BYTES) -> Packed:
    return cast("Packed", pack(vectors, room_for_queries(*vectors.shape, as_bytes=as_bytes), 0))


def sums_of(queries: Packed, items: Packed) -> Any:
    sums = np.full((len(queries.starts), len(items.values) * ITEMS), -1, dtype=np.int32)
    all_products(queries.values, queries.starts, items.values, sums)
    return sums


def unpacked(packed: Packed, rows: int, length: int) -> Any:
    """Return the integers that stand for each row, int64 [rows, length]."""
    values = packed.values.astype(np.int64) - (128 if packed.values.dtype == np.uint8 else 0)
    return values.transpose(0, 2, 1, 3).reshape(-1, values.shape[1] * values.shape[3])[:rows, :length]


@pytest.mark.parametrize("as_bytes", WIDTHS)
@pytest.mark.parametrize("length", [1, 2, 3, 30, 128, 1000])
@pytest.mark.parametrize(
    ("queries", "items"),
    [(1, 1), (FEW_QUERIES, ITEMS + 1), (FEW_QUERIES + 1, 2), (QUERIES, ITEMS), (QUERIES + 1, 3 * ITEMS - 1)],
)
def test_sums_are_those_of_int64(queries: int, items: int, length: int, as_bytes: bool) -> None:
    rng = np.random.default_rng(length)
    asked, rows = (rng.normal(size=(count, length)).astype(np.float32) for count in (queries, items))
    left, right = packed_queries(asked, as_bytes=as_bytes), packed_items(rows, as_bytes=as_bytes)
    sums = sums_of(left, right)
    assert np.array_equal(sums[:queries, :items], unpacked(left, queries, length) @ unpacked(right, items, length).T)
    assert not sums[queries:].any()
    assert not sums[:, items:].any()


@pytest.mark.parametrize("as_bytes", WIDTHS)
@pytest.mark.parametrize("length", [1, 7, 512])
def test_rows_of_the_largest_values_do_not_overflow(length: int, as_bytes: bool) -> None:
    row = np.full((1, length), 3.0, dtype=np.float32)
    left, right = packed_queries(row, as_bytes=as_bytes), packed_items(-row, as_bytes=as_bytes)
    found = sums_of(left, right)[0, 0] * np.float64(left.units[0]) * np.float64(right.units[0])
    assert found == pytest.approx(-9.0 * length, rel=2e-3)


@pytest.mark.parametrize("as_bytes", WIDTHS)
@pytest.mark.parametrize("packing", [packed_items, packed_queries])
def test_lengths_units_and_errors_say_how_rows_were_rounded(packing: Any, as_bytes: bool) -> None:
    sizes = np.array([1e-3, 1.0, 1e6, 0.0, 1e-42], dtype=np.float32)[:, None]
    rows = np.random.default_rng(0).normal(size=(5, 33)).astype(np.float32) * sizes
    packed = packing(rows, as_bytes=as_bytes)
    rounded = unpacked(packed, 5, 33) * packed.units.astype(np.float64)[:, None]
    np.testing.assert_allclose(packed.errors, np.linalg.norm(rows - rounded, axis=1), rtol=1e-3, atol=1e-30)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    np.testing.assert_allclose(packed.lengths, lengths, rtol=1e-5, atol=1e-30)
    assert (packed.errors[:3] < lengths[:3] * (0.02 if as_bytes else 2e-4)).all()
    assert packed.units[3] == packed.errors[3] == 0


def test_bytes_are_taken_where_the_processor_adds_up_four() -> None:
    rows = np.ones((1, 4), dtype=np.float32)
    kinds = packed_queries(rows).values.dtype, packed_items(rows).values.dtype
    assert kinds == ((np.int8, np.uint8) if HAS_BYTES else (np.int16, np.int16))
