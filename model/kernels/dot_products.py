"""Products of many short rows of bytes: the inner loop of scoring a whole catalogue, written for registers.

Bytes take in four times as many products per instruction as float32 does. Where the processor adds up four of them in
32 bits in one go (VNNI), that is all. Elsewhere it adds up two in 16 bits: sums stay there for a span of steps, and
queries are rounded coarsely enough that none of theirs can overflow. Each call multiplies `QUERIES` queries with
`ITEMS` items and keeps all sums in registers; the layout of both operands (`pack`) puts what one step needs side by
side.

Source of the scheme: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.types import none
from numba.extending import intrinsic
from numpy.typing import NDArray

from model.kernels.compiling import ONE, ZERO, Floats, compiled, larger
from model.kernels.emitter import Emitter

_FEATURES = binding.get_host_cpu_features()
_HAS_512_BITS = bool(_FEATURES.get("avx512bw"))
_LANES = 16 if _HAS_512_BITS else 8  # 32-bit sums in one register
HAS_FOURS = bool(_FEATURES.get("avx512vnni") if _HAS_512_BITS else _FEATURES.get("avxvnni"))
_HAS_PAIRS = bool(_FEATURES.get("avx2"))
_REGISTERS_ACROSS = 2
ITEMS = _LANES * _REGISTERS_ACROSS
# With their sums, two registers of items and one query all registers are taken; sums in 16 bits take as many again.
QUERIES = (12 if _HAS_512_BITS else 6) // (1 if HAS_FOURS else 2)
FEW_QUERIES = 4 if HAS_FOURS else 2  # so that a lone click does not pay for a full group

_TOGETHER = 4  # values of a row that lie in 32 bits: those of one step
_LARGEST = np.float32(127)
_ZERO_ITEM = 128  # bytes of items are unsigned, as the instructions want one of their operands
_SMALLEST_UNIT = np.float32(1e-37)  # whose inverse is a number still
_STEPS_PER_SPAN = 4  # a longer one would cost more in coarse queries than it saves
# Of the absolute values of a query, as rounding may add a half to each, so that 16 bits hold what is added up of their
# products with bytes of items: two at once, below 256; those of a span, 128 at most from what stands for zero.
_MOST_OF_TWO = np.float32(32767 // 255 - 1)
_MOST_OF_SPAN = np.float32(32767 // 128 - _STEPS_PER_SPAN)

_INT64, _INT32 = ir.IntType(64), ir.IntType(32)
_SUMS = ir.VectorType(_INT32, _LANES)
_HALVES = ir.VectorType(ir.IntType(16), 2 * _LANES)
_BYTES = ir.VectorType(ir.IntType(8), 4 * _LANES)


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
    return Room(values, np.empty((groups, steps // _STEPS_PER_SPAN, beside, 2), dtype=np.int16))


def _steps(width: int) -> int:
    """Return how many steps rows take, whole spans."""
    return -(-width // (_TOGETHER * _STEPS_PER_SPAN)) * _STEPS_PER_SPAN


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


def products_of(together: int, *, plain: bool = False) -> Any:
    """Return the intrinsic for groups of so many queries; a plain one does without special instructions."""

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
        adds, has_instruction = (_Fours, HAS_FOURS) if _starts.dtype == types.int32 else (_Pairs, _HAS_PAIRS)

        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            emitter = Emitter(context, builder, signature, values)
            _emit(emitter, together, adds(emitter, is_plain=plain or not has_instruction))
            return context.get_dummy_value()

        return none(queries, _starts, types.int64, items, types.int64, sums, types.int64), emit

    return products


@dataclass(frozen=True)
class _Fours:
    """Adds up four products at a time in 32 bits."""

    emitter: Emitter
    is_plain: bool
    spans_begin: ClassVar[bool] = False

    def add(self, sums: Any, items: Any, query: Any) -> Any:
        """Add the products of one step: bytes of items unsigned, those of a query signed."""
        if not self.is_plain:
            return self.emitter.call(f"llvm.x86.avx512.vpdpbusd.{32 * _LANES}", _SUMS, sums, items, query)
        builder = self.emitter.builder
        pairs = _neighbours_added(builder, _multiplied(builder, items, query, ir.VectorType(_INT32, _BYTES.count)))
        return builder.add(sums, _neighbours_added(builder, pairs))

    @staticmethod
    def end(_before: Any, sums: Any) -> Any:
        """Return the sums after a span."""
        return sums


@dataclass(frozen=True)
class _Pairs:
    """Adds up two products at a time in 16 bits, twice for each lane, and what a span of them gives in 32."""

    emitter: Emitter
    is_plain: bool
    spans_begin: ClassVar[bool] = True

    def add(self, sums: Any, items: Any, query: Any) -> Any:
        """Add the products of one step to those of the span; in this order, as any other would take more registers."""
        call, builder = self.emitter.call, self.emitter.builder
        if self.is_plain:
            kind = ir.VectorType(_HALVES.element, _BYTES.count)
            pairs = _neighbours_added(builder, _multiplied(builder, items, query, kind))
        else:
            name = "llvm.x86.avx512.pmaddubs.w.512" if _HAS_512_BITS else "llvm.x86.avx2.pmadd.ub.sw"
            pairs = call(name, _HALVES, builder.bitcast(items, _BYTES), builder.bitcast(query, _BYTES))
        added = call(f"llvm.sadd.sat.v{_HALVES.count}i16", _HALVES, builder.bitcast(sums, _HALVES), pairs)
        return builder.bitcast(added, _SUMS)

    def end(self, before: Any, sums: Any) -> Any:
        """Return the sums after a span, in 32 bits."""
        builder = self.emitter.builder
        halves = builder.bitcast(sums, _HALVES)
        if self.is_plain:
            both = _neighbours_added(builder, builder.sext(halves, ir.VectorType(_INT32, _HALVES.count)))
        else:
            name = "llvm.x86.avx512.pmaddw.d.512" if _HAS_512_BITS else "llvm.x86.avx2.pmadd.wd"
            both = self.emitter.call(name, _SUMS, halves, ir.Constant(_HALVES, [1] * _HALVES.count))
        return builder.add(before, both)


def _multiplied(builder: Any, items: Any, query: Any, kind: Any) -> Any:
    """Return the product of each byte of items and of a query, as values of `kind`."""
    one, other = builder.bitcast(items, _BYTES), builder.bitcast(query, _BYTES)
    return builder.mul(builder.zext(one, kind), builder.sext(other, kind))


def _neighbours_added(builder: Any, values: Any) -> Any:
    """Return the sums of each two values of a vector."""
    count, nothing = values.type.count, ir.Constant(values.type, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(values, nothing, ir.Constant(ir.VectorType(_INT32, count // 2), lanes))
        for lanes in (list(range(0, count, 2)), list(range(1, count, 2)))
    )
    return builder.add(even, odd)


def _emit(emitter: Emitter, together: int, adds: _Fours | _Pairs) -> None:
    """Emit the product of `together` queries and a panel of items; pointers and strides count 32 bits."""
    builder, values = emitter.builder, emitter.values

    def number(value: int) -> Any:
        return ir.Constant(_INT64, value)

    def begun(place: Any) -> list[list[Any]]:
        """Return the sums that the starts from a place on give, [together, across]."""
        places = [builder.add(place, number(query)) for query in range(together)]
        starts = [emitter.load(emitter.pointer(1, at, _INT32), _INT32) for at in places]
        return [[emitter.everywhere(start, _SUMS)] * _REGISTERS_ACROSS for start in starts]

    spans = builder.sdiv(builder.extract_value(emitter.array(0).shape, 1), number(_STEPS_PER_SPAN))
    stride = builder.extract_value(emitter.array(5).shape, 1)
    first = builder.mul(values[2], number(together))
    nothing = [[ir.Constant(_SUMS, None)] * _REGISTERS_ACROSS for _ in range(together)]
    starts = nothing if adds.spans_begin else begun(first)

    entry, span, done = builder.block, builder.append_basic_block("span"), builder.append_basic_block("summed")
    builder.branch(span)
    builder.position_at_end(span)
    place = builder.phi(_INT64)
    before = [[builder.phi(_SUMS) for _ in range(_REGISTERS_ACROSS)] for _ in range(together)]
    query_span = builder.add(builder.mul(first, spans), builder.mul(place, number(together)))
    item_span = builder.mul(builder.add(builder.mul(values[4], spans), place), number(ITEMS))
    query_at = emitter.pointer(0, builder.mul(query_span, number(_STEPS_PER_SPAN)), _INT32)
    item_at = emitter.pointer(3, builder.mul(item_span, number(_STEPS_PER_SPAN)), _INT32)
    sums = begun(query_span) if adds.spans_begin else list(before)
    for step in range(_STEPS_PER_SPAN):
        registers = [builder.gep(item_at, [number(step * ITEMS + _LANES * part)]) for part in range(_REGISTERS_ACROSS)]
        across = [emitter.load(register, _SUMS) for register in registers]
        for query in range(together):
            line = builder.gep(query_at, [number(step * together + query)])
            everywhere = emitter.everywhere(emitter.load(line, _INT32), _SUMS)
            pairs = zip(sums[query], across, strict=True)
            sums[query] = [adds.add(was, items, everywhere) for was, items in pairs]
    after = [[adds.end(was, now) for was, now in zip(*lines, strict=True)] for lines in zip(before, sums, strict=True)]
    following = builder.add(place, number(1))
    for phi, begin, now in [
        (place, number(0), following),
        *zip(chain(*before), chain(*starts), chain(*after), strict=True),
    ]:
        phi.add_incoming(begin, entry)
        phi.add_incoming(now, span)
    builder.cbranch(builder.icmp_signed("<", following, spans), span, done)

    builder.position_at_end(done)
    for query in range(together):
        line = builder.add(builder.mul(builder.add(first, number(query)), stride), values[6])
        for part in range(_REGISTERS_ACROSS):
            emitter.store(after[query][part], emitter.pointer(5, builder.add(line, number(_LANES * part))))


products, products_of_few = products_of(QUERIES), products_of(FEW_QUERIES)
