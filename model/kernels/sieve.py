"""Which of some values side by side beat a bar: copied to where those that did before end, without a branch for each.

A branch taken for a hundredth of the values is foreseen badly, and costs more than looking at them all.
"""

from typing import Any, cast

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core.types import float32, int64
from numba.extending import intrinsic

from model.kernels.emitter import Emitter

SIFTED = 16  # values sifted at a time
_HAS_COMPRESSION = bool(binding.get_host_cpu_features().get("avx512f"))

_INT64, _INT32 = ir.IntType(64), ir.IntType(32)
_FLOATS, _ROWS = ir.VectorType(ir.FloatType(), SIFTED), ir.VectorType(_INT32, SIFTED)
_BITS = ir.VectorType(ir.IntType(1), SIFTED)


def _sifter(*, at_once: bool) -> Any:
    """Return the intrinsic, with the one instruction that packs values side by side, or with a loop over them."""

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
        overwritten: minus infinity is what follows the scores.

        Args:
            scores: float32; the others start at `_score_at`, counted flat, as everywhere here.
            rows: int32, at `_row_at`.
            _bar: float32.
            kept_scores: float32, written from `_kept_at` on.
            kept_rows: int32, the same.
        """
        emit = _emit_at_once if at_once else _emit_loop
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
_BELOW_ALL = ir.Constant(_FLOATS, [float("-inf")] * SIFTED)


def _emit_at_once(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    emitter = Emitter(context, builder, signature, values)

    def compressed(value: Any, name: str, rest: Any) -> Any:
        kind = ir.FunctionType(value.type, [value.type, value.type, _BITS])
        function = cast("Any", cgutils).get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [value, rest, better])

    scores, rows = _sources(emitter)
    better = _better(emitter, scores)
    kept_scores = compressed(scores, "llvm.x86.avx512.mask.compress.v16f32", _BELOW_ALL)
    kept_rows = compressed(rows, "llvm.x86.avx512.mask.compress.v16i32", rows)
    emitter.store(kept_scores, emitter.pointer(_KEPT_SCORES, values[_KEPT_AT]))
    emitter.store(kept_rows, emitter.pointer(_KEPT_ROWS, values[_KEPT_AT]))
    return builder.ctpop(_bits(builder, better))


def _emit_loop(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    emitter = Emitter(context, builder, signature, values)
    scores, rows = _sources(emitter)
    bits = _bits(builder, _better(emitter, scores))
    emitter.store(_BELOW_ALL, emitter.pointer(_KEPT_SCORES, values[_KEPT_AT]))

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


sifted_one_by_one = _sifter(at_once=False)
sifted = _sifter(at_once=True) if _HAS_COMPRESSION else sifted_one_by_one
