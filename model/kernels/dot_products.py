"""Products of many short rows of small integers: the inner loop of scoring a whole catalogue, written for registers.

Integers take in more products per instruction than float32 does: four times as many of 8 bits where the processor adds
up four in one go (VNNI), else twice as many of 16 bits. Each call multiplies `QUERIES` queries with `ITEMS` items and
keeps all sums in registers; the layout of both operands (`pack`) puts what one step needs side by side.

Source of the scheme: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from typing import Any, NamedTuple, cast

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.types import none
from numba.extending import intrinsic
from numpy.typing import NDArray

from model.kernels.compiling import ONE, ZERO, Floats, compiled, larger
from model.kernels.emitter import Emitter

_FEATURES = binding.get_host_cpu_features()
_HAS_512_BITS = bool(_FEATURES.get("avx512bw"))
HAS_BYTES = bool(_FEATURES.get("avx512vnni") if _HAS_512_BITS else _FEATURES.get("avxvnni"))
_LANES = 16 if _HAS_512_BITS else 8  # 32-bit sums in one register
_REGISTERS_ACROSS = 2
QUERIES = 12 if _HAS_512_BITS else 6  # with their sums, two registers of items and one query all registers are taken
FEW_QUERIES = 4  # so that a lone click does not pay for a full group
ITEMS = _LANES * _REGISTERS_ACROSS

_LONGEST_OF_WORDS = 32767  # no row of 16-bit integers is longer, so that no sum of products leaves 32 bits
_LARGEST_BYTE = 127
_SMALLEST_UNIT = np.float32(1e-37)  # whose inverse is a number still
_ZERO_ITEM_BYTE = 128  # bytes of items are unsigned, as the instruction wants one of its operands

_INT64, _INT32, _INT16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_SUMS = ir.VectorType(_INT32, _LANES)
_PAIRS = ir.VectorType(_INT16, 2 * _LANES)
_WIDE = ir.VectorType(_INT32, 2 * _LANES)


class Packed(NamedTuple):
    """Rows as integers; R rows of width D, W of whose values lie in 32 bits.

    Attributes:
        values: [ceil(R / B), ceil(D / W), B, W], B rows side by side; int16, or int8 for queries and uint8 for items.
        units: float32 [R], what 1 of a row's integers is worth.
        lengths: float32 [R], of the rows.
        errors: float32 [R], the length of what rounding took from each row.
        starts: int32 [R, up to whole B], what a sum begins with, of queries.
    """

    values: NDArray[Any]
    units: Floats
    lengths: Floats
    errors: Floats
    starts: NDArray[np.int32]


def packed_items(vectors: Floats, *, as_bytes: bool = HAS_BYTES) -> Packed:
    """Return items, float32 [N, D], rounded; B is ITEMS."""
    values = _room(vectors.shape, ITEMS, np.dtype(np.uint8 if as_bytes else np.int16))
    return cast("Packed", pack(vectors, values, _ZERO_ITEM_BYTE if as_bytes else 0))


def room_for_queries(count: int, width: int, *, as_bytes: bool = HAS_BYTES) -> NDArray[Any]:
    """Return what `pack` writes queries to; B is QUERIES, or FEW_QUERIES where that is enough for all."""
    beside = FEW_QUERIES if count <= FEW_QUERIES else QUERIES
    return _room((count, width), beside, np.dtype(np.int8 if as_bytes else np.int16))


def _room(shape: tuple[int, ...], beside: int, kind: np.dtype[Any]) -> NDArray[Any]:
    together = 4 // kind.itemsize
    return np.empty((-(-shape[0] // beside), -(-shape[1] // together), beside, together), dtype=kind)


@compiled
def pack(vectors: Any, values: Any, zero: int) -> Any:
    """Write rows, float32 [R, D], to where the product looks for them, and return them as `Packed`.

    Args:
        vectors: The rows.
        values: What becomes `Packed.values`; what is left over becomes zero.
        zero: What stands for zero there.
    """
    count, beside, together, are_words = len(vectors), values.shape[2], values.shape[3], values.itemsize > 1
    numbers = np.empty((3, count), dtype=np.float32)
    units, lengths, errors = numbers[0], numbers[1], numbers[2]
    starts = np.zeros(len(values) * beside, dtype=np.int32)
    largest = np.float32(_LONGEST_OF_WORDS if are_words else _LARGEST_BYTE)
    line = np.full(values.shape[1] * together, zero, dtype=np.int32)
    values[count // beside :] = zero
    for row in range(count):
        vector, most, squares = vectors[row], ZERO, ZERO
        for value in vector:
            most = larger(most, abs(value))
            squares += value * value
        lengths[row] = np.sqrt(squares)
        size = lengths[row] if are_words else most
        unit = size / largest
        scale = ONE / unit if unit > _SMALLEST_UNIT else ZERO
        lost, total = ZERO, np.int32(0)
        for d in range(len(vector)):
            rounded = np.rint(vector[d] * scale)
            left = vector[d] - rounded * unit
            lost += left * left
            total += np.int32(rounded)
            line[d] = np.int32(rounded) + np.int32(zero)
        lines, place = values[row // beside], row % beside
        for step in range(len(lines)):
            for part in range(together):
                lines[step, place, part] = line[step * together + part]
        units[row], errors[row] = unit, np.sqrt(lost)
        if not are_words:
            starts[row] = -_ZERO_ITEM_BYTE * total
    return Packed(values, units, lengths, errors, starts)


def _products_of(together: int) -> Any:
    """Return the intrinsic for groups of so many queries."""

    @intrinsic
    def products(
        _context: Any, queries: Any, _starts: Any, _group: Any, items: Any, _panel: Any, sums: Any, _column: Any
    ) -> Any:
        """Write the sums of one group of B queries and one panel of items, [B, ITEMS], to their place in `sums`.

        Args:
            queries: Values of packed queries.
            _starts: Their starts.
            _group: Which B of them; their sums begin in line _group * B.
            items: Values of `packed_items`.
            _panel: Which ITEMS of them.
            sums: int32 [at least the queries, at least _column + ITEMS], contiguous.
            _column: Where the panel's sums begin.
        """
        multiplied = _add_products_of_pairs if items.dtype == types.int16 else _add_products_of_fours

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            _emit(Emitter(context, builder, signature, values), together, multiplied)
            return context.get_dummy_value()

        return none(queries, _starts, types.int64, items, types.int64, sums, types.int64), emit

    return products


def _emit(emitter: Emitter, together: int, multiplied: Any) -> None:
    """Emit the product of `together` queries and a panel of items; pointers and strides count 32 bits."""
    builder, values = emitter.builder, emitter.values

    def number(value: int) -> Any:
        return ir.Constant(_INT64, value)

    steps = builder.extract_value(emitter.array(0).shape, 1)
    stride = builder.extract_value(emitter.array(5).shape, 1)
    first = builder.mul(values[2], number(together))
    query_at = emitter.pointer(0, builder.mul(first, steps), _INT32)
    item_at = emitter.pointer(3, builder.mul(values[4], builder.mul(steps, number(ITEMS))), _INT32)
    starts = [
        emitter.everywhere(emitter.load(emitter.pointer(1, builder.add(first, number(query))), _INT32), _SUMS)
        for query in range(together)
    ]

    entry, step, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("summed")
    builder.branch(step)
    builder.position_at_end(step)
    place = builder.phi(_INT64)
    place.add_incoming(number(0), entry)
    before = [[builder.phi(_SUMS) for _ in range(_REGISTERS_ACROSS)] for _ in range(together)]
    item_line = builder.gep(item_at, [builder.mul(place, number(ITEMS))])
    query_line = builder.gep(query_at, [builder.mul(place, number(together))])
    registers = [builder.gep(item_line, [number(_LANES * part)]) for part in range(_REGISTERS_ACROSS)]
    across = [emitter.load(register, _SUMS) for register in registers]
    after = []
    for query in range(together):
        everywhere = emitter.everywhere(emitter.load(builder.gep(query_line, [number(query)]), _INT32), _SUMS)
        after.append(
            [multiplied(builder, was, part, everywhere) for was, part in zip(before[query], across, strict=True)]
        )
    for query in range(together):
        for was, now in zip(before[query], after[query], strict=True):
            was.add_incoming(starts[query], entry)
            was.add_incoming(now, step)
    following = builder.add(place, number(1))
    place.add_incoming(following, step)
    builder.cbranch(builder.icmp_signed("<", following, steps), step, done)

    builder.position_at_end(done)
    for query in range(together):
        line = builder.add(builder.mul(builder.add(first, number(query)), stride), values[6])
        for part in range(_REGISTERS_ACROSS):
            emitter.store(after[query][part], emitter.pointer(5, builder.add(line, number(_LANES * part))))


def _add_products_of_fours(builder: Any, sums: Any, items: Any, query: Any) -> Any:
    """Add to 32-bit sums the four products of bytes in each lane: those of items unsigned, those of a query signed."""
    kind = ir.FunctionType(_SUMS, [_SUMS, _SUMS, _SUMS])
    name = f"llvm.x86.avx512.vpdpbusd.{32 * _LANES}"
    function = cast("Any", cgutils).get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [sums, items, query])


def _add_products_of_pairs(builder: Any, sums: Any, items: Any, query: Any) -> Any:
    """Add to sums the two products of words in each lane; compilers know this as one instruction where there is one."""
    one, other = (builder.sext(builder.bitcast(values, _PAIRS), _WIDE) for values in (items, query))
    product, nothing = builder.mul(one, other), ir.Constant(_WIDE, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(product, nothing, ir.Constant(_SUMS, list(range(first, 2 * _LANES, 2))))
        for first in (0, 1)
    )
    return builder.add(sums, builder.add(even, odd))


products, products_of_few = _products_of(QUERIES), _products_of(FEW_QUERIES)
