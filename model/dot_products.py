"""Products of many short rows of 16-bit integers: the inner loop of scoring a whole catalogue, written for registers.

Integers take in twice as many products per instruction as float32 does. Each call multiplies `QUERIES` queries with
`ITEMS` items and keeps all sums in registers; the layout of both operands (`packed_queries`, `packed_items`) puts what
one step needs side by side.

Source of the scheme: Goto & van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from itertools import chain
from typing import Any, cast

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.types import none
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

from model.compiling import Floats, compiled

Integers = NDArray[np.int16]

LARGEST = 32767
"""Of the integers; also the largest length of a row, so that no sum of products leaves 32 bits."""

_FEATURES = binding.get_host_cpu_features()
_HAS_512_BITS = bool(_FEATURES.get("avx512bw"))
_LANES = 16 if _HAS_512_BITS else 8  # 32-bit sums in one register
_REGISTERS_ACROSS = 2
QUERIES = 12 if _HAS_512_BITS else 6  # with their sums, two registers of items and one query all registers are taken
ITEMS = _LANES * _REGISTERS_ACROSS

_INT64, _INT32, _INT16 = ir.IntType(64), ir.IntType(32), ir.IntType(16)
_SUMS = ir.VectorType(_INT32, _LANES)
_PAIRS = ir.VectorType(_INT16, 2 * _LANES)
_WIDE = ir.VectorType(_INT32, 2 * _LANES)


def packed_items(vectors: Floats, scale: float) -> Integers:
    """Return items, float32 [N, D], times the scale: [ceil(N / ITEMS), ceil(D / 2), ITEMS, 2]."""
    return _packed(vectors, np.full(len(vectors), scale, dtype=np.float32), ITEMS)


def packed_queries(vectors: Floats, scales: Floats) -> Integers:
    """Return queries, float32 [C, D], times their scales, [C]: [ceil(C / QUERIES), ceil(D / 2), QUERIES, 2]."""
    return _packed(vectors, scales, QUERIES)


def _packed(vectors: Floats, scales: Floats, beside: int) -> Integers:
    count, length = vectors.shape
    packed = np.zeros((-(-count // beside), -(-length // 2), beside, 2), dtype=np.int16)
    _round(vectors, scales, packed)
    return packed


@compiled
def _round(vectors: Any, scales: Any, packed: Any) -> None:
    """Write vectors times their scales, rounded, to where the product looks for them; what is left over stays zero."""
    beside = packed.shape[2]
    for row in range(len(vectors)):
        lines = packed[row // beside]
        for d in range(vectors.shape[1]):
            lines[d // 2, row % beside, d % 2] = np.int16(np.rint(vectors[row, d] * scales[row]))


@intrinsic
def _products(_context: Any, queries: Any, _group: Any, items: Any, _panel: Any, sums: Any, _column: Any) -> Any:
    """Write the sums of one group of queries and one panel of items, [QUERIES, ITEMS], to their place in `sums`.

    Args:
        queries: int16, `packed_queries`.
        _group: Which QUERIES of them; their sums begin in line _group * QUERIES.
        items: int16, `packed_items`.
        _panel: Which ITEMS of them.
        sums: int32 [at least the queries, at least _column + ITEMS], contiguous.
        _column: Where the panel's sums begin.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def array(place: int) -> Any:
            return cast("Any", make_array)(signature.args[place])(context, builder, values[place])

        def number(value: int) -> Any:
            return ir.Constant(_INT64, value)

        def at(pointer: Any, offset: Any, kind: Any) -> Any:
            return builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer())

        def load(pointer: Any) -> Any:
            loaded = builder.load(pointer)
            loaded.align = 4
            return loaded

        pairs = builder.extract_value(array(0).shape, 1)
        stride = builder.extract_value(array(4).shape, 1)
        group_size, panel_size = (builder.mul(pairs, number(2 * beside)) for beside in (QUERIES, ITEMS))
        query_at = builder.gep(array(0).data, [builder.mul(values[1], group_size)])
        item_at = builder.gep(array(2).data, [builder.mul(values[3], panel_size)])

        entry, step, done = builder.block, builder.append_basic_block("pair"), builder.append_basic_block("summed")
        builder.branch(step)
        builder.position_at_end(step)
        pair = builder.phi(_INT64)
        pair.add_incoming(number(0), entry)
        before = [[builder.phi(_SUMS) for _ in range(_REGISTERS_ACROSS)] for _ in range(QUERIES)]
        item_pair = builder.gep(item_at, [builder.mul(pair, number(2 * ITEMS))])
        query_pair = builder.gep(query_at, [builder.mul(pair, number(2 * QUERIES))])
        across = [load(at(item_pair, number(2 * _LANES * part), _PAIRS)) for part in range(_REGISTERS_ACROSS)]
        after = []
        for query in range(QUERIES):
            one = load(at(query_pair, number(2 * query), _INT32))
            everywhere = builder.bitcast(_everywhere(builder, one), _PAIRS)
            products = [_multiplied(builder, everywhere, part) for part in across]
            after.append([builder.add(was, added) for was, added in zip(before[query], products, strict=True)])
        for was, now in zip(chain(*before), chain(*after), strict=True):
            was.add_incoming(ir.Constant(_SUMS, [0] * _LANES), entry)
            was.add_incoming(now, step)
        following = builder.add(pair, number(1))
        pair.add_incoming(following, step)
        builder.cbranch(builder.icmp_signed("<", following, pairs), step, done)

        builder.position_at_end(done)
        first = builder.mul(values[1], number(QUERIES))
        for query in range(QUERIES):
            line = builder.add(builder.mul(builder.add(first, number(query)), stride), values[5])
            for part in range(_REGISTERS_ACROSS):
                place = builder.add(line, number(_LANES * part))
                builder.store(after[query][part], at(array(4).data, place, _SUMS)).align = 4
        return context.get_dummy_value()

    return none(queries, types.int64, items, types.int64, sums, types.int64), emit


def _everywhere(builder: Any, one: Any) -> Any:
    """Return a value in all lanes."""
    nothing = ir.Constant(_SUMS, ir.Undefined)
    first = builder.insert_element(nothing, one, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(_SUMS, [0] * _LANES))


def _multiplied(builder: Any, one: Any, other: Any) -> Any:
    """Return the sums of the products of each pair; compilers know this as one instruction where there is one."""
    product = builder.mul(builder.sext(one, _WIDE), builder.sext(other, _WIDE))
    nothing = ir.Constant(_WIDE, ir.Undefined)
    even, odd = (
        builder.shuffle_vector(product, nothing, ir.Constant(_SUMS, list(range(first, 2 * _LANES, 2))))
        for first in (0, 1)
    )
    return builder.add(even, odd)


products = cast("Any", _products)  # called as compiled code calls it, without the context
