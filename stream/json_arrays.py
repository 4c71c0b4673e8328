"""Items and scores of a whole batch as JSON, in one compiled pass: the general encoder's loops over objects cost more.

Shape letters: C clicks, k items of an answer, N items.
"""

from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import Floats, compiled
from model.vocabulary import JsonIds

DECIMALS = 5
_UNITS = 10**DECIMALS
_BELOW = 1e12  # larger numbers need more than the fixed number of digits
_CHARACTERS = 13 + 1 + DECIMALS + 2  # of a number: digits, point, decimals, sign and comma
_COMMA, _MINUS, _POINT, _ZERO, _OPEN, _CLOSE = b",-.0[]"


def items_as_json(rows: NDArray[np.int32], ids: JsonIds) -> list[bytes]:
    """Return each line of rows, int32 [C, k], as a JSON array of their ids."""
    text = np.empty(len(rows) * (rows.shape[1] * (ids.longest + 1) + 2), dtype=np.uint8)
    ends = np.empty(len(rows) + 1, dtype=np.int64)
    _write_items(rows, ids.text, ids.ends, text, ends)
    return _cut(text, ends)


def scores_as_json(scores: Floats) -> list[bytes]:
    """Return each row of scores, float32 [C, k], as a JSON array of numbers rounded to `DECIMALS` decimals."""
    if not np.abs(scores).max(initial=0) < _BELOW:
        return [msgspec.json.encode(line) for line in np.round(scores.astype(np.float64), DECIMALS).tolist()]
    text = np.empty(len(scores) * (scores.shape[1] * _CHARACTERS + 2), dtype=np.uint8)
    ends = np.empty(len(scores) + 1, dtype=np.int64)
    _write_scores(scores, text, ends)
    return _cut(text, ends)


def _cut(text: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    whole, bounds = text[: ends[-1]].tobytes(), ends.tolist()
    return [whole[start:end] for start, end in pairwise(bounds)]


@compiled
def _write_items(rows: Any, ids: Any, id_ends: Any, text: Any, ends: Any) -> None:
    """Write the arrays one after the other; array c is text[ends[c] : ends[c + 1]]."""
    at = 0
    ends[0] = 0
    for c in range(len(rows)):
        text[at] = _OPEN
        at += 1
        for t in range(rows.shape[1]):
            if t:
                text[at] = _COMMA
                at += 1
            row = rows[c, t]
            for place in range(id_ends[row], id_ends[row + 1]):
                text[at] = ids[place]
                at += 1
        text[at] = _CLOSE
        at += 1
        ends[c + 1] = at


@compiled
def _write_scores(scores: Any, text: Any, ends: Any) -> None:
    """Write the arrays one after the other; array c is text[ends[c] : ends[c + 1]]."""
    digits = np.empty(_CHARACTERS, dtype=np.uint8)
    at = 0
    ends[0] = 0
    for c in range(len(scores)):
        text[at] = _OPEN
        at += 1
        for t in range(scores.shape[1]):
            if t:
                text[at] = _COMMA
                at += 1
            units = np.int64(np.rint(np.float64(scores[c, t]) * _UNITS))
            if units < 0:
                text[at] = _MINUS
                at += 1
                units = -units
            whole, part = units // _UNITS, units % _UNITS
            count = 0
            while whole or not count:
                digits[count] = _ZERO + whole % 10
                whole //= 10
                count += 1
            for place in range(count - 1, -1, -1):
                text[at] = digits[place]
                at += 1
            text[at] = _POINT
            at += 1
            share = _UNITS // 10
            while True:
                text[at] = _ZERO + part // share
                at += 1
                part %= share
                share //= 10
                if not part:
                    break
        text[at] = _CLOSE
        at += 1
        ends[c + 1] = at
