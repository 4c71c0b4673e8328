"""How kernels are compiled, and the arithmetic that they share, written so that loops over it vectorise.

What is defined here is compiled into the kernels, whose compiled form is kept beside their own source file and does not
notice a change of this one: remove `__pycache__` after changing it.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils
from numba.core.types import float32, none
from numba.extending import intrinsic
from numba.np.arrayobj import make_array
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

ONE, TWO, HALF, ZERO = np.float32(1), np.float32(2), np.float32(0.5), np.float32(0)
ROWS_AHEAD = 6  # far enough for memory to answer meanwhile, near enough to be in the first cache still
LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)
_LOWEST_POWER = np.float32(-126)
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)
LINE = 16  # float32 values of a cache line
_MATH = {"contract", "reassoc", "arcp", "nsz"}  # sums may be vectorised, but a NaN must stay one


def compiled(function: Function) -> Function:
    """Compile a kernel when it is first called, and keep it on disk where something may be written there."""
    try:
        return cast("Function", numba.njit(cache=True, nogil=True, fastmath=_MATH, error_model="numpy")(function))
    except RuntimeError:  # neither beside the source nor in the user's cache folder, as in a read-only container
        return cast("Function", numba.njit(nogil=True, fastmath=_MATH, error_model="numpy")(function))


def part(function: Function) -> Function:
    """Compile a function that only kernels call, into each of them."""
    return cast("Function", numba.njit(fastmath=_MATH, error_model="numpy", inline="always")(function))


def _reinterpreted(source: Any, target: Any, llvm_type: Any) -> Any:
    """Return an intrinsic that reads the bits of a number as one of another type."""

    def as_other(_context: Any, _bits: Any) -> Any:
        return target(source), lambda _c, builder, _signature, values: builder.bitcast(values[0], llvm_type)

    return intrinsic(as_other)


float_of = _reinterpreted(numba.int32, numba.float32, ir.FloatType())
bits_of = _reinterpreted(numba.float32, numba.int32, ir.IntType(32))


@intrinsic
def _fetched(_context: Any, array: Any, index: Any) -> Any:
    """Fetch the cache line of the value at a place of the flat array, without waiting for it."""

    def fetch(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = cast("Any", make_array)(signature.args[0])(context, builder, values[0]).data
        byte = builder.bitcast(builder.gep(data, [values[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte.type, number, number, number])
        function = cast("Any", cgutils).get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [byte, number(1), number(3), number(1)])  # to be written, to all caches, data
        return context.get_dummy_value()

    return none(array, index), fetch


_prefetch = cast("Any", _fetched)  # called as compiled code calls it, without the context


@part
def prefetch_row(table: Any, row: Any) -> None:
    """Fetch a row of a table into the cache, without waiting for it."""
    for d in range(0, table.shape[1], LINE):
        _prefetch(table, row * table.shape[1] + d)


def _chosen(comparison: str) -> Any:
    """Return an intrinsic for the one of two float32 that compares so; loops over it vectorise. NaN has no place."""

    @intrinsic
    def chosen(_context: Any, _one: Any, _other: Any) -> Any:
        def emit(_c: Any, builder: Any, _signature: Any, values: Any) -> Any:
            flags = ("nnan", "nsz")
            first = builder.fcmp_ordered(comparison, *values, flags=flags)
            return builder.select(first, *values, flags=flags)

        return float32(float32, float32), emit

    return chosen


larger, smaller = _chosen(">"), _chosen("<")


@part
def exp(x: Any) -> Any:
    """Return e^x within 3e-7 of its size for -87 <= x <= 88, beyond what it is there; NaN for NaN.

    Source: Cephes expf.
    """
    # Not max() and min(), which would not keep a NaN.
    x = _LOWEST if x < _LOWEST else x  # noqa: FURB136
    x = _HIGHEST if x > _HIGHEST else x  # noqa: FURB136
    whole = np.floor(x * LOG2_E + HALF)
    r = x - whole * _LN_2
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + ONE
    return p * float_of((np.int32(whole) + np.int32(127)) << np.int32(23))


@part
def power_of_two(x: Any) -> Any:
    """Return 2^x within 3e-6 of its size, for x <= 0 and not NaN; below -126 what it is there. Half the cost of `exp`.

    A polynomial of degree 4 for the part after the point, fitted for the smallest relative error.
    """
    x = x if x > _LOWEST_POWER else _LOWEST_POWER  # noqa: FURB136 - max() does not vectorise
    whole = np.floor(x)
    r = x - whole
    p = np.float32(1.353416755e-2)
    p = p * r + np.float32(5.201146387e-2)
    p = p * r + np.float32(2.414427529e-1)
    p = p * r + np.float32(6.930038359e-1)
    p = p * r + np.float32(1.000002593)
    return float_of(bits_of(p) + (np.int32(whole) << np.int32(23)))


@part
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@part
def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent within 2e-7."""
    return ONE - TWO / (exp(TWO * x) + ONE)


@part
def inverse_root(x: Any) -> Any:
    """Return 1 / sqrt(x) within 5e-7 of its size, several times faster than dividing by a root.

    Source: Newton's method from the estimate of Lomont 2003.
    """
    y = float_of(np.int32(0x5F3759DF) - (bits_of(x) >> np.int32(1)))
    half = x * HALF
    y = y * (np.float32(1.5) - half * y * y)
    y = y * (np.float32(1.5) - half * y * y)
    return y * (np.float32(1.5) - half * y * y)
