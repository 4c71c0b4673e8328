"""Rows of bytes as the product of many of them wants them: rounded, several rows side by side, step by step.

What one step of `model.kernels.dot_products` needs lies side by side. Where the processor adds up four products of
bytes in 32 bits in one go (VNNI), rows are rounded as finely as bytes allow. Elsewhere it adds up two in 16 bits, and
sums stay there for a span of steps: queries are rounded coarsely enough that none of theirs can overflow.
"""

from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import ONE, ZERO, Floats, compiled, larger
from model.kernels.emitter import FEATURES

HAS_512_BITS = bool(FEATURES.get("avx512bw"))
HAS_FOURS = bool(FEATURES.get("avx512vnni") if HAS_512_BITS else FEATURES.get("avxvnni"))
LANES = 16 if HAS_512_BITS else 8  # 32-bit sums in one register
REGISTERS_ACROSS = 2
ITEMS = LANES * REGISTERS_ACROSS
# With their sums, two registers of items and one query all registers are taken; sums in 16 bits take as many again.
QUERIES = (12 if HAS_512_BITS else 6) // (1 if HAS_FOURS else 2)
FEW_QUERIES = 4 if HAS_FOURS else 2  # so that a lone click does not pay for a full group
STEPS_PER_SPAN = 4  # a longer one would cost more in coarse queries than it saves

_TOGETHER = 4  # values of a row that lie in 32 bits: those of one step
_LARGEST = np.float32(127)
_ZERO_ITEM = 128  # bytes of items are unsigned, as the instructions want one of their operands
_SMALLEST_UNIT = np.float32(1e-37)  # whose inverse is a number still
# Of the absolute values of a query, as rounding may add a half to each, so that 16 bits hold what is added up of their
# products with bytes of items: two at once, below 256; those of a span, 128 at most from what stands for zero.
_MOST_OF_TWO = np.float32(32767 // 255 - 1)
_MOST_OF_SPAN = np.float32(32767 // 128 - STEPS_PER_SPAN)


class Room(NamedTuple):
    """What `pack` writes rows to, B of them side by side.

    Attributes:
        values: [groups, T, B, 4], T steps of four values: int8 for queries, uint8 for items.
        starts: What sums begin with, of queries: int32 [groups, 1, B, 1], or int16 [groups, spans, B, 2] where two
            sums for each lane hold a span of steps. No spans of items.
    """

    values: NDArray[Any]
    starts: NDArray[Any]


class Packed(NamedTuple):
    """Rows as bytes; R rows of width D.

    Attributes:
        values: As in `Room`, like the next.
        starts: There.
        units: float32 [R], what 1 of a row's integers is worth.
        lengths: float32 [R], of the rows.
        errors: float32 [R], the length of what rounding took from each row.
    """

    values: NDArray[Any]
    starts: NDArray[Any]
    units: Floats
    lengths: Floats
    errors: Floats


def packed_items(vectors: Floats) -> Packed:
    """Return items, float32 [N, D], rounded; B is ITEMS."""
    values = np.empty((-(-len(vectors) // ITEMS), _steps(vectors.shape[1]), ITEMS, _TOGETHER), dtype=np.uint8)
    return cast("Packed", pack(vectors, Room(values, np.empty((len(values), 0, ITEMS, 1), dtype=np.int32)), _ZERO_ITEM))


def room_for_queries(count: int, width: int, *, fours: bool = HAS_FOURS) -> Room:
    """Return room for so many queries; B is QUERIES, or FEW_QUERIES where that is enough for all."""
    beside, steps = FEW_QUERIES if count <= FEW_QUERIES else QUERIES, _steps(width)
    groups = -(-count // beside)
    values = np.empty((groups, steps, beside, _TOGETHER), dtype=np.int8)
    if fours:
        return Room(values, np.empty((groups, 1, beside, 1), dtype=np.int32))
    return Room(values, np.empty((groups, steps // STEPS_PER_SPAN, beside, 2), dtype=np.int16))


def _steps(width: int) -> int:
    """Return how many steps rows take, whole spans."""
    return -(-width // (_TOGETHER * STEPS_PER_SPAN)) * STEPS_PER_SPAN


@compiled
def pack(vectors: Any, room: Any, zero: int) -> Any:
    """Write rows, float32 [R, D], to where the product looks for them, and return them as `Packed`.

    Args:
        vectors: The rows.
        room: For as many, whole groups; what is left over becomes zero.
        zero: What stands for zero there.
    """
    values, starts = room
    count, steps, beside, together = len(vectors), values.shape[1], values.shape[2], values.shape[3]
    numbers = np.empty((3, count), dtype=np.float32)
    units, lengths, errors = numbers[0], numbers[1], numbers[2]
    line, sizes = np.full(steps * together, zero, dtype=np.int32), np.zeros(steps * together, dtype=np.float32)
    values[count // beside :] = zero
    starts[count // beside :] = 0
    for row in range(count):
        vector, most, squares = vectors[row], ZERO, ZERO
        for d in range(len(vector)):
            sizes[d] = abs(vector[d])
            most = larger(most, sizes[d])
            squares += vector[d] * vector[d]
        lengths[row] = np.sqrt(squares)
        unit = most / _LARGEST
        if starts.shape[3] > 1:
            unit = larger(unit, _unit_of_halves(sizes, starts.shape[1]))
        scale = ONE / unit if unit > _SMALLEST_UNIT else ZERO
        lost = ZERO
        for d in range(len(vector)):
            rounded = np.rint(vector[d] * scale)
            left = vector[d] - rounded * unit
            lost += left * left
            line[d] = np.int32(rounded) + np.int32(zero)
        lines, place = values[row // beside], row % beside
        for step in range(steps):
            for part in range(together):
                lines[step, place, part] = line[step * together + part]
        units[row], errors[row] = unit, np.sqrt(lost)
        _begin_sums(line, starts[row // beside], place)
    return Packed(values, starts, units, lengths, errors)


@compiled
def _begin_sums(line: Any, starts: Any, place: int) -> None:
    """Write what the sums of a query begin with: what its bytes add up to with those of an item of zeros, taken off."""
    spans, lanes = starts.shape[0], starts.shape[2]
    for span in range(spans):
        for lane in range(lanes):
            total = 0
            for step in range(span * len(line) // spans, (span + 1) * len(line) // spans, _TOGETHER):
                for part in range(step + lane * _TOGETHER // lanes, step + (lane + 1) * _TOGETHER // lanes):
                    total += line[part]
            starts[span, place, lane] = -_ZERO_ITEM * total


@compiled
def _unit_of_halves(sizes: Any, spans: int) -> Any:
    """Return the smallest unit by which no sum of a query's products leaves 16 bits, from its absolute values."""
    of_two, of_span, length = ZERO, ZERO, len(sizes) // spans
    for start in range(0, len(sizes), length):
        one, other = ZERO, ZERO
        for d in range(start, start + length, _TOGETHER):
            first, second = sizes[d] + sizes[d + 1], sizes[d + 2] + sizes[d + 3]
            of_two = larger(of_two, larger(first, second))
            one += first
            other += second
        of_span = larger(of_span, larger(one, other))
    return larger(of_two / _MOST_OF_TWO, of_span / _MOST_OF_SPAN)
