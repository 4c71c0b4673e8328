"""Matrix products of float32 on one core, of any strides, as fast as the registers allow.

Source of the scheme: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".

Shape letters: M rows of the product, N columns, K what is summed over.
"""

import functools
from typing import Any, cast

import numpy as np
from numba.core import types

from model.kernels.compiling import ZERO, Floats, compiled, part
from model.kernels.tiles import COLUMNS, LANES, ROWS, copy_line, multiply_tile, turn_square

_PACKED_VALUES = 1 << 16  # a quarter of a mebibyte: stays in the second cache


@compiled
def _pack(right: Any, first: int, panels: int, packed: Any) -> None:
    """Copy columns of right [K, N] from `first` on, panel by panel; what lies beyond N is zero."""
    depth, width = right.shape
    down, along = right.strides[0] // right.itemsize, right.strides[1] // right.itemsize
    for panel in range(panels):
        start, at = first + panel * COLUMNS, panel * depth * COLUMNS
        count, done = min(COLUMNS, width - start), 0
        if count == COLUMNS and along == 1:
            for done in range(depth):
                copy_line(right, done * down + start, packed, at + done * COLUMNS)
            continue
        if count == COLUMNS and down == 1:
            while done + LANES <= depth:
                for j in range(0, COLUMNS, LANES):
                    turn_square(right, done + (start + j) * along, along, packed, at + done * COLUMNS + j)
                done += LANES
        for k in range(done, depth):
            for j in range(COLUMNS):
                packed[at + k * COLUMNS + j] = right[k, start + j] if j < count else ZERO


@compiled
def multiply(left: Floats, right: Floats, out: Floats, adds: bool) -> None:  # noqa: FBT001 - as other kernels do
    """Write left [M, K] right [K, N] to `out` [M, N], or add it to what is there; rows' values lie side by side."""
    (rows, depth), width, value = left.shape, right.shape[1], out.itemsize
    down, along, line = left.strides[0] // value, left.strides[1] // value, out.strides[0] // value
    together = max(1, min(_PACKED_VALUES // (depth * COLUMNS), -(-width // COLUMNS)))
    packed = np.empty(together * depth * COLUMNS, dtype=np.float32)
    corner = np.empty((ROWS, COLUMNS), dtype=np.float32)
    whole = rows - rows % ROWS
    last = np.zeros((depth, ROWS), dtype=np.float32)
    last[:, : rows - whole] = left[whole:].T
    for first in range(0, width, together * COLUMNS):
        panels = min(together, -(-(width - first) // COLUMNS))
        _pack(right, first, panels, packed)
        for top in range(0, rows, ROWS):
            for panel in range(panels):
                start, at = first + panel * COLUMNS, panel * depth * COLUMNS
                if top < whole and start + COLUMNS <= width:
                    place = top * line + start
                    multiply_tile(left, top * down, down, along, packed, at, depth, out, place, line, adds)
                    continue
                if top < whole:
                    multiply_tile(left, top * down, down, along, packed, at, depth, corner, 0, COLUMNS, False)
                else:
                    multiply_tile(last, 0, 1, ROWS, packed, at, depth, corner, 0, COLUMNS, False)
                for i in range(min(ROWS, rows - top)):
                    for j in range(min(COLUMNS, width - start)):
                        was = out[top + i, start + j] if adds else ZERO
                        out[top + i, start + j] = was + corner[i, j]


def packed(right: Floats) -> Floats:
    """Return a matrix [K, N] as `multiply_packed` takes it: [ceil(N / COLUMNS), K, COLUMNS]."""
    panels = -(-right.shape[1] // COLUMNS)
    values = np.empty(panels * len(right) * COLUMNS, dtype=np.float32)
    _pack(right, 0, panels, values)
    return values.reshape(panels, len(right), COLUMNS)


@compiled
def multiply_packed(left: Floats, right: Floats, out: Floats) -> None:
    """Write left [M, K] right [K, N] to `out`, [up to whole ROWS, up to whole COLUMNS].

    Args:
        left: float32 [M, up to whole ROWS; K], contiguous.
        right: `packed`.
        out: float32, contiguous; what lies beyond M and N is written too and means nothing.
    """
    panels, depth, _ = right.shape
    line = out.shape[1]
    for top in range(0, len(left), ROWS):
        for panel in range(panels):
            place = top * line + panel * COLUMNS
            multiply_tile(left, top * depth, depth, 1, right, panel * depth * COLUMNS, depth, out, place, line, False)


@part
def whole(count: int, together: int) -> int:
    """Return the next number that is so many times `together`."""
    return -(-count // together) * together


@functools.cache
def compile_products() -> None:
    """Compile for any strides; left alone, each combination of layouts that is met would be compiled anew."""
    kernel = cast("Any", multiply)
    kernel.compile((*(types.Array(types.float32, 2, "A"),) * 3, types.boolean))
    kernel.disable_compile()
