"""The inner loops of matrix products of float32, written for registers: offsets and strides count values.

A panel is COLUMNS columns side by side, value after value of what is summed over.
"""

import functools
from itertools import chain
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.types import none
from numba.extending import intrinsic

from model.kernels.emitter import FEATURES, Emitter

_HAS_512_BITS = bool(FEATURES.get("avx512f"))
LANES = 16 if _HAS_512_BITS else 8
_REGISTERS_ACROSS = 3
ROWS = 8 if _HAS_512_BITS else 4  # with their sums, three registers of columns and one of a row, nearly all are taken
COLUMNS = LANES * _REGISTERS_ACROSS

_INT64, _FLOAT = ir.IntType(64), ir.FloatType()
_SUMS = ir.VectorType(_FLOAT, LANES)


def _parts(builder: Any, pointer: Any) -> list[Any]:
    """Return pointers to the registers' worth of values of a line."""
    return [builder.gep(pointer, [ir.Constant(_INT64, part * LANES)]) for part in range(_REGISTERS_ACROSS)]


@intrinsic
def _line_copied(_context: Any, source: Any, _source_at: Any, target: Any, _target_at: Any) -> Any:
    """Copy COLUMNS values that lie side by side."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emitter = Emitter(context, builder, signature, values)
        sources, targets = (_parts(builder, emitter.pointer(place, values[place + 1])) for place in (0, 2))
        for read, written in zip(sources, targets, strict=True):
            emitter.store(emitter.load(read, _SUMS), written)
        return context.get_dummy_value()

    return none(source, types.int64, target, types.int64), emit


@intrinsic
def _square_turned(_context: Any, source: Any, _source_at: Any, _apart: Any, target: Any, _target_at: Any) -> Any:
    """Copy LANES lines of LANES values, `_apart` from each other, as the columns of lines that are COLUMNS apart."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emitter = Emitter(context, builder, signature, values)

        def line(pointer: Any, apart: Any, number: int) -> Any:
            start = builder.gep(pointer, [builder.mul(apart, ir.Constant(_INT64, number))])
            return builder.bitcast(start, _SUMS.as_pointer())

        source, target = emitter.pointer(0, values[1]), emitter.pointer(3, values[4])
        lines = [emitter.load(line(source, values[2], number), _SUMS) for number in range(LANES)]
        for half in (LANES >> shift for shift in range(1, LANES.bit_length())):
            for place in (place for place in range(LANES) if not place & half):
                pair = lines[place], lines[place + half]
                lines[place], lines[place + half] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))
                    for lanes in _exchanged(half)
                )
        for number, turned in enumerate(lines):
            emitter.store(turned, line(target, ir.Constant(_INT64, COLUMNS), number))
        return context.get_dummy_value()

    return none(source, types.int64, types.int64, target, types.int64), emit


def _exchanged(half: int) -> tuple[list[int], list[int]]:
    """Return which lanes of two lines, counted on, become the first and the second where halves of squares change."""
    kept = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
    return kept, [lane + half if not lane & half else LANES + lane for lane in range(LANES)]


@intrinsic
def _tile_multiplied(
    _context: Any,
    left: Any,
    _left_at: Any,
    _down: Any,
    _along: Any,
    panel: Any,
    _panel_at: Any,
    _depth: Any,
    out: Any,
    _out_at: Any,
    _line: Any,
    _adds: Any,
) -> Any:
    """Write the product of ROWS rows and COLUMNS columns to its place in `out`, or add it to what is there.

    Args:
        left: Row i's value k is at `_left_at` + i * `_down` + k * `_along`.
        panel: Column j's value k is at `_panel_at` + k * COLUMNS + j.
        _depth: K, at least 1.
        out: Row i begins at `_out_at` + i * `_line`.
        _adds: bool, whether to add.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, left_at, down, along, _, panel_at, depth, _, out_at, line, adds = values
        emitter = Emitter(context, builder, signature, values)

        def number(value: int) -> Any:
            return ir.Constant(_INT64, value)

        fma = functools.partial(emitter.call, f"llvm.fma.v{LANES}f32", _SUMS)
        rows = [builder.gep(emitter.pointer(0, left_at), [builder.mul(down, number(row))]) for row in range(ROWS)]
        columns = emitter.pointer(4, panel_at)
        entry, step, done = builder.block, builder.append_basic_block("value"), builder.append_basic_block("summed")
        builder.branch(step)
        builder.position_at_end(step)
        k, beside = builder.phi(_INT64), builder.phi(_INT64)
        before = [[builder.phi(_SUMS) for _ in range(_REGISTERS_ACROSS)] for _ in range(ROWS)]
        line_at = builder.gep(columns, [builder.mul(k, number(COLUMNS))])
        across = [emitter.load(part, _SUMS) for part in _parts(builder, line_at)]
        after = []
        for row, sums in zip(rows, before, strict=True):
            one = emitter.everywhere(emitter.load(builder.gep(row, [beside]), _FLOAT), _SUMS)
            after.append([fma(one, column, total) for column, total in zip(across, sums, strict=True)])
        following = builder.add(k, number(1)), builder.add(beside, along)
        nothing = ir.Constant(_SUMS, [0.0] * LANES)
        for was, first, now in [
            (k, number(0), following[0]),
            (beside, number(0), following[1]),
            *((was, nothing, now) for was, now in zip(chain(*before), chain(*after), strict=True)),
        ]:
            was.add_incoming(first, entry)
            was.add_incoming(now, step)
        builder.cbranch(builder.icmp_signed("<", following[0], depth), step, done)

        builder.position_at_end(done)
        for row in range(ROWS):
            start = builder.gep(emitter.pointer(7, out_at), [builder.mul(line, number(row))])
            for place, total in zip(_parts(builder, start), after[row], strict=True):
                added = builder.fadd(emitter.load(place, _SUMS), total)
                emitter.store(builder.select(adds, added, total), place)
        return context.get_dummy_value()

    numbers = types.int64
    return none(left, numbers, numbers, numbers, panel, numbers, numbers, out, numbers, numbers, types.boolean), emit


# Called as compiled code calls them, without the context.
copy_line, turn_square, multiply_tile = (
    cast("Any", _line_copied),
    cast("Any", _square_turned),
    cast("Any", _tile_multiplied),
)
