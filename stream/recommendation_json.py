"""Recommendations of a whole batch as JSON, in one compiled pass: going from object to object costs twice as much.

Shape letters: C clicks, k items of an answer, at least one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core.types import int64, none
from numba.extending import intrinsic
from numpy.typing import NDArray

from model.kernels.compiling import Floats, compiled, part
from model.kernels.emitter import Emitter
from model.vocabulary import JSON_PADDING, JsonIds

DECIMALS = 5
_UNITS = 10**DECIMALS
_BELOW = 1e12  # larger numbers need more than the fixed number of digits
_SCORE_BYTES = 13 + 1 + DECIMALS + 2  # digits, point, decimals, sign and comma
_NUMBER_BYTES = 20
_NUMBERS = 4  # of an answer, beside its scores
_COPIED = JSON_PADDING  # bytes at a time, so that as many may be read and written behind the end of a text
_COMMA, _MINUS, _POINT, _ZERO, _OPEN, _CLOSE, _QUOTE, _BACKSLASH, _SPACE = b',-.0[]"\\ '


def _padded(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text + bytes(_COPIED), dtype=np.uint8)


_SESSION, _ITEMS, _SCORES, _VERSION, _PARTITION, _OFFSET, _ITEM, _TIMESTAMP, _GENERATED, _END = (
    _padded(name)
    for name in (
        b'{"session_id":"',
        b'","items":',
        b',"scores":',
        b',"model_version":',
        b',"click":{"partition":',
        b',"offset":',
        b',"item_id":',
        b',"timestamp":',
        b'},"generated_at":',
        b"}",
    )
)
_NAMES_BYTES = 160  # more than all of them together


@dataclass(frozen=True)
class AskedBatch:
    """The clicks that are answered.

    Attributes:
        keys: Session ids in UTF-8.
        partitions: Of each click's record, like the others.
        offsets: In its partition.
        rows: Of the item clicked.
        timestamps_ms: Of the click.
    """

    keys: Sequence[bytes]
    partitions: Sequence[int]
    offsets: Sequence[int]
    rows: Sequence[int]
    timestamps_ms: Sequence[int]


def recommendations_as_json(
    asked: AskedBatch, top_rows: NDArray[np.int32], scores: Floats, ids: JsonIds, *, version: str, generated_at: int
) -> list[bytes]:
    """Return recommendations as `stream.records.Recommendation` is encoded, scores rounded to `DECIMALS` decimals.

    Those that take more than copying and counting come out empty and are left to the general encoder: of sessions whose
    id has to be escaped, after items without a row, and with scores that are no numbers or need an exponent.

    Args:
        asked: The clicks.
        top_rows: int32 [C, k], the items of each answer.
        scores: float32 [C, k].
        ids: Of the rows.
        version: That answered.
        generated_at: ms since the Unix epoch.
    """
    count, k = top_rows.shape
    keys = b"".join(asked.keys)
    key_ends = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, asked.keys), np.int64, count), out=key_ends[1:])
    version_json = msgspec.json.encode(version)
    most = _NAMES_BYTES + _NUMBERS * _NUMBER_BYTES + len(version_json) + k * (ids.longest + 1 + _SCORE_BYTES)
    text = np.empty(len(keys) + count * (most + ids.longest) + _COPIED, dtype=np.uint8)
    ends = np.empty(count + 1, dtype=np.int64)
    numbers = np.array((asked.partitions, asked.offsets, asked.rows, asked.timestamps_ms), dtype=np.int64)
    padded_keys, padded_version = _padded(keys), _padded(version_json)
    told = padded_keys, key_ends, numbers, top_rows, scores, ids.text, ids.ends, padded_version, len(version_json)
    _write(*told, generated_at, text, ends)
    whole, bounds = text[: ends[-1]].tobytes(), ends.tolist()
    return [whole[start:end] for start, end in pairwise(bounds)]


@intrinsic
def _copy_some(_context: Any, target: Any, _to: Any, source: Any, _start: Any) -> Any:
    """Copy `_COPIED` bytes from one place to another."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emitter = Emitter(context, builder, signature, values, alignment=1)
        some = ir.VectorType(ir.IntType(8), _COPIED)
        emitter.store(emitter.load(emitter.pointer(2, values[3]), some), emitter.pointer(0, values[1]))
        return context.get_dummy_value()

    return none(target, int64, source, int64), emit


_copy: Any = _copy_some  # called as compiled code calls it, without the context


@part
def _put(text: Any, at: int, source: Any, start: int, end: int) -> int:
    """Copy source[start : end] to `at`, some bytes at a time, and return where it ends."""
    for place in range(start, end, _COPIED):
        _copy(text, at + place - start, source, place)
    return at + end - start


@part
def _put_name(text: Any, at: int, name: Any) -> int:
    return _put(text, at, name, 0, len(name) - _COPIED)


@part
def _put_number(text: Any, at: int, value: int) -> int:
    """Write a number that is not negative."""
    end, left = at + 1, value // 10
    while left:
        end, left = end + 1, left // 10
    for place in range(end - 1, at - 1, -1):
        text[place] = _ZERO + value % 10
        value //= 10
    return end


@part
def _put_score(text: Any, at: int, score: Any) -> int:
    units = np.int64(np.rint(np.float64(score) * _UNITS))
    if units < 0:
        text[at] = _MINUS
        at, units = at + 1, -units
    at = _put_number(text, at, units // _UNITS)
    text[at] = _POINT
    left = np.uint32(units % _UNITS)
    for place in range(DECIMALS, 0, -1):
        text[at + place] = _ZERO + left % np.uint32(10)
        left //= np.uint32(10)
    last = at + DECIMALS
    while text[last] == _ZERO and last > at + 1:
        last -= 1
    return last + 1


@part
def _can_be_copied(keys: Any, start: int, end: int, row: int, scores: Any) -> Any:
    """Whether nothing of an answer needs the general encoder."""
    plain = row >= 0
    for place in range(start, end):
        plain &= (keys[place] >= _SPACE) & (keys[place] != _QUOTE) & (keys[place] != _BACKSLASH)
    for score in scores:
        plain &= abs(score) < _BELOW
    return plain


@compiled
def _write(  # noqa: PLR0917 - compiled functions take their arrays by position
    keys: Any,
    key_ends: Any,
    numbers: Any,
    top_rows: Any,
    scores: Any,
    ids: Any,
    id_ends: Any,
    version: Any,
    version_bytes: int,
    generated_at: int,
    text: Any,
    ends: Any,
) -> None:
    """Write the answers one after the other; that to click c is text[ends[c] : ends[c + 1]]."""
    at = 0
    ends[0] = 0
    for c in range(len(top_rows)):
        row = numbers[2, c]
        if _can_be_copied(keys, key_ends[c], key_ends[c + 1], row, scores[c]):
            at = _put_name(text, at, _SESSION)
            at = _put(text, at, keys, key_ends[c], key_ends[c + 1])
            at = _put_name(text, at, _ITEMS)
            text[at] = _OPEN
            at += 1
            for t in range(top_rows.shape[1]):
                at = _put(text, at, ids, id_ends[top_rows[c, t]], id_ends[top_rows[c, t] + 1])
                text[at] = _COMMA
                at += 1
            text[at - 1] = _CLOSE
            at = _put_name(text, at, _SCORES)
            text[at] = _OPEN
            at += 1
            for t in range(top_rows.shape[1]):
                at = _put_score(text, at, scores[c, t])
                text[at] = _COMMA
                at += 1
            text[at - 1] = _CLOSE
            at = _put_name(text, at, _VERSION)
            at = _put(text, at, version, 0, version_bytes)
            at = _put_number(text, _put_name(text, at, _PARTITION), numbers[0, c])
            at = _put_number(text, _put_name(text, at, _OFFSET), numbers[1, c])
            at = _put(text, _put_name(text, at, _ITEM), ids, id_ends[row], id_ends[row + 1])
            at = _put_number(text, _put_name(text, at, _TIMESTAMP), numbers[3, c])
            at = _put_number(text, _put_name(text, at, _GENERATED), generated_at)
            at = _put_name(text, at, _END)
        ends[c + 1] = at
