"""Which of some values side by side beat a bar: copied to where those that did before end, without a branch for each.

A branch taken for a hundredth of the values is foreseen badly, and costs more than looking at them all.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core.types import float32, int64
from numba.extending import intrinsic

from model.kernels.emitter import FEATURES, Emitter

SIFTED = 16  # values sifted at a time

_INT64, _INT32, _INT8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)
_FLOATS, _ROWS = ir.VectorType(ir.FloatType(), SIFTED), ir.VectorType(_INT32, SIFTED)


def _sifter(emit: Callable[..., Any]) -> Any:
    """Return the intrinsic that is emitted so."""

    @intrinsic
    def sifted(
        _context: Any,
        scores: Any,
        _score_at: Any,
        rows: Any,
        _row_at: Any,
        _bar: Any,
        kept_scores: Any,
        kept_rows: Any,
        _kept_at: Any,
    ) -> Any:
        """Copy those of `SIFTED` scores that are greater than a bar, with their rows; returns how many.

        The source may be the target, from the same place on or one behind it. Up to `SIFTED` values of the target are
        overwritten.

        Args:
            scores: float32; the others start at `_score_at`, counted flat, as everywhere here.
            rows: int32, at `_row_at`.
            _bar: float32.
            kept_scores: float32, written from `_kept_at` on.
            kept_rows: int32, the same.
        """
        return int64(scores, int64, rows, int64, float32, kept_scores, kept_rows, int64), emit

    return sifted


def _sources(emitter: Emitter) -> tuple[Any, Any]:
    """Return the scores and the rows that are sifted."""
    scores, rows = emitter.pointer(0, emitter.values[1]), emitter.pointer(2, emitter.values[3])
    return emitter.load(scores, _FLOATS), emitter.load(rows, _ROWS)


def _better(emitter: Emitter, scores: Any) -> Any:
    """Return which scores are greater than the bar; none where one of the two is not a number."""
    return emitter.builder.fcmp_ordered(">", scores, emitter.everywhere(emitter.values[4], _FLOATS))


def _bits(builder: Any, better: Any) -> Any:
    return builder.zext(builder.bitcast(better, ir.IntType(SIFTED)), _INT64)


_KEPT_SCORES, _KEPT_ROWS, _KEPT_AT = 5, 6, 7  # places of the arguments


def _emit_compression(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    emitter = Emitter(context, builder, signature, values)
    scores, rows = _sources(emitter)
    better = _better(emitter, scores)
    kept_scores = emitter.call("llvm.x86.avx512.mask.compress.v16f32", _FLOATS, scores, scores, better)
    kept_rows = emitter.call("llvm.x86.avx512.mask.compress.v16i32", _ROWS, rows, rows, better)
    emitter.store(kept_scores, emitter.pointer(_KEPT_SCORES, values[_KEPT_AT]))
    emitter.store(kept_rows, emitter.pointer(_KEPT_ROWS, values[_KEPT_AT]))
    return builder.ctpop(_bits(builder, better))


_HALF = SIFTED // 2
_HALF_OF_FLOATS, _HALF_OF_ROWS = (ir.VectorType(kind.element, _HALF) for kind in (_FLOATS, _ROWS))
# Which lanes come first so that those whose bits are set do, by the bits.
_ORDERS = [
    sorted(range(_HALF), key=[not bits >> lane & 1 for lane in range(_HALF)].__getitem__) for bits in range(1 << _HALF)
]


def _emit_permutation(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    emitter = Emitter(context, builder, signature, values)
    scores, rows = _sources(emitter)
    better, kept_at = _better(emitter, scores), values[_KEPT_AT]
    order = ir.VectorType(_INT8, _HALF)
    constant = ir.Constant(ir.ArrayType(order, len(_ORDERS)), [ir.Constant(order, lanes) for lanes in _ORDERS])
    orders = cast("Any", cgutils).global_constant(builder, "sieve.orders", constant)
    for first in (0, _HALF):
        places = ir.Constant(_HALF_OF_ROWS, list(range(first, first + _HALF)))
        kept, half_of_scores, half_of_rows = (
            builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), places)
            for value in (better, scores, rows)
        )
        bits = builder.zext(builder.bitcast(kept, ir.IntType(_HALF)), _INT64)
        lanes = builder.zext(emitter.load(builder.gep(orders, [_INT64(0), bits]), order), _HALF_OF_ROWS)
        in_front = emitter.call("llvm.x86.avx2.permps", _HALF_OF_FLOATS, half_of_scores, lanes)
        emitter.store(in_front, emitter.pointer(_KEPT_SCORES, kept_at))
        in_front = emitter.call("llvm.x86.avx2.permd", _HALF_OF_ROWS, half_of_rows, lanes)
        emitter.store(in_front, emitter.pointer(_KEPT_ROWS, kept_at))
        kept_at = builder.add(kept_at, builder.ctpop(bits))
    return builder.sub(kept_at, values[_KEPT_AT])


def _emit_loop(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    emitter = Emitter(context, builder, signature, values)
    scores, rows = _sources(emitter)
    bits = _bits(builder, _better(emitter, scores))

    entry, step, done = builder.block, builder.append_basic_block("step"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_unsigned("!=", bits, ir.Constant(_INT64, 0)), step, done)
    builder.position_at_end(step)
    left, kept_at = builder.phi(_INT64), builder.phi(_INT64)
    lane = builder.trunc(builder.cttz(left, ir.Constant(ir.IntType(1), 1)), _INT32)
    for value, array in ((scores, _KEPT_SCORES), (rows, _KEPT_ROWS)):
        emitter.store(builder.extract_element(value, lane), emitter.pointer(array, kept_at))
    fewer = builder.and_(left, builder.sub(left, ir.Constant(_INT64, 1)))
    left.add_incoming(bits, entry)
    left.add_incoming(fewer, step)
    kept_at.add_incoming(values[_KEPT_AT], entry)
    kept_at.add_incoming(builder.add(kept_at, ir.Constant(_INT64, 1)), step)
    builder.cbranch(builder.icmp_unsigned("!=", fewer, ir.Constant(_INT64, 0)), step, done)
    builder.position_at_end(done)
    return builder.ctpop(bits)


_HAS_COMPRESSION = bool(FEATURES.get("avx512f"))  # packs values side by side in one instruction
HAS_PERMUTATION = bool(FEATURES.get("avx2"))  # brings them into any order in one
sifted_one_by_one, sifted_permuted = _sifter(_emit_loop), _sifter(_emit_permutation)
sifted = _sifter(_emit_compression) if _HAS_COMPRESSION else sifted_permuted if HAS_PERMUTATION else sifted_one_by_one
