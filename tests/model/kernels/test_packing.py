import functools
from typing import Any

import numpy as np
import pytest

from model.kernels.packing import HAS_FOURS, packed_items
from tests.model.kernels.packed import packed_queries, unpacked


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
