"""Products of many short rows of bytes: the inner loop of scoring a whole catalogue, written for registers.

Bytes take in four times as many products per instruction as float32 does. Each call multiplies `QUERIES` queries with
`ITEMS` items, both as `model.kernels.packing` lays them out, and keeps all sums in registers.

Source of the scheme: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.types import none
from numba.extending import intrinsic

from model.kernels.emitter import FEATURES, Emitter
from model.kernels.packing import (
    FEW_QUERIES,
    HAS_512_BITS,
    HAS_FOURS,
    ITEMS,
    LANES,
    QUERIES,
    REGISTERS_ACROSS,
    STEPS_PER_SPAN,
)

_HAS_PAIRS = bool(FEATURES.get("avx2"))

_INT64, _INT32 = ir.IntType(64), ir.IntType(32)
_SUMS = ir.VectorType(_INT32, LANES)
_HALVES = ir.VectorType(ir.IntType(16), 2 * LANES)
_BYTES = ir.VectorType(ir.IntType(8), 4 * LANES)


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
            return self.emitter.call(f"llvm.x86.avx512.vpdpbusd.{32 * LANES}", _SUMS, sums, items, query)
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
            name = "llvm.x86.avx512.pmaddubs.w.512" if HAS_512_BITS else "llvm.x86.avx2.pmadd.ub.sw"
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
            name = "llvm.x86.avx512.pmaddw.d.512" if HAS_512_BITS else "llvm.x86.avx2.pmadd.wd"
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
        return [[emitter.everywhere(start, _SUMS)] * REGISTERS_ACROSS for start in starts]

    spans = builder.sdiv(builder.extract_value(emitter.array(0).shape, 1), number(STEPS_PER_SPAN))
    stride = builder.extract_value(emitter.array(5).shape, 1)
    first = builder.mul(values[2], number(together))
    nothing = [[ir.Constant(_SUMS, None)] * REGISTERS_ACROSS for _ in range(together)]
    starts = nothing if adds.spans_begin else begun(first)

    entry, span, done = builder.block, builder.append_basic_block("span"), builder.append_basic_block("summed")
    builder.branch(span)
    builder.position_at_end(span)
    place = builder.phi(_INT64)
    before = [[builder.phi(_SUMS) for _ in range(REGISTERS_ACROSS)] for _ in range(together)]
    query_span = builder.add(builder.mul(first, spans), builder.mul(place, number(together)))
    item_span = builder.mul(builder.add(builder.mul(values[4], spans), place), number(ITEMS))
    query_at = emitter.pointer(0, builder.mul(query_span, number(STEPS_PER_SPAN)), _INT32)
    item_at = emitter.pointer(3, builder.mul(item_span, number(STEPS_PER_SPAN)), _INT32)
    sums = begun(query_span) if adds.spans_begin else list(before)
    for step in range(STEPS_PER_SPAN):
        registers = [builder.gep(item_at, [number(step * ITEMS + LANES * part)]) for part in range(REGISTERS_ACROSS)]
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
        for part in range(REGISTERS_ACROSS):
            emitter.store(after[query][part], emitter.pointer(5, builder.add(line, number(LANES * part))))


products, products_of_few = products_of(QUERIES), products_of(FEW_QUERIES)
