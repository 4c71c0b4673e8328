"""Rows packed for tests of what goes through them."""

from typing import Any, cast

import numpy as np
import pytest

from model.kernels.compiling import Floats
from model.kernels.packing import HAS_FOURS, Packed, pack, room_for_queries

# How products are added up, whichever way this processor has an instruction for.
WAYS = pytest.mark.parametrize("fours", [False, True])


def packed_queries(vectors: Floats, *, fours: bool = HAS_FOURS) -> Packed:
    return cast("Packed", pack(vectors, room_for_queries(*vectors.shape, fours=fours), 0))


def unpacked(packed: Packed, rows: int, length: int) -> Any:
    """Return the integers that stand for each row, int64 [rows, length]."""
    values = packed.values.astype(np.int64) - (128 if packed.values.dtype == np.uint8 else 0)
    return values.transpose(0, 2, 1, 3).reshape(-1, values.shape[1] * values.shape[3])[:rows, :length]
