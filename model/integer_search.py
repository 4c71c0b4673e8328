"""Which items may be among the best for a query, by scores in integers whose error has a bound.

An item of the true top k has in integers at least the score of the k-th best, less twice the bound: one error may push
it down, another the k-th up. So that is the bar. While the catalogue is gone through it is that of the items seen so
far, which can only be lower; what beats it is held, and now and then the bar is raised and what it excludes let go.

Shape letters: C queries, N items, M candidates held at most.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import HALF, LOG2_E, TWO, ZERO, Floats, compiled, larger, part, power_of_two, smaller
from model.kernels.dot_products import products, products_of_few
from model.kernels.packing import FEW_QUERIES, ITEMS, Packed
from model.kernels.sieve import SIFTED, sifted

QUERIES_PER_BLOCK = 240  # whole groups; the sums of these and a tile of items stay in the second cache
ITEMS_PER_TILE = 128
_ROOM = 544  # candidates; a power of two would let those of many queries share few places of the cache
_HELD = 64  # beyond k, before the bar is raised
_SPARE = 4  # the bar may be that of the (k + 4)-th: a sharper one would cost more than the few candidates
_HALVINGS = 20
_FLOAT_ROUNDING = 1e-6  # of a score or a length worked out in float32
_NEVER = np.float32(np.inf)


class Items(NamedTuple):
    """What is searched.

    Attributes:
        values: As in `model.kernels.packing.Packed`.
        units: float32 [N, up to whole tiles], as there.
        bias: float32 [N, up to whole tiles], minus infinity where there is no item.
        longest: Length of the longest.
        largest_error: The largest of their errors.
    """

    values: NDArray[Any]
    units: Floats
    bias: Floats
    longest: float
    largest_error: float

    @classmethod
    def of(cls, packed: Packed, bias: Floats) -> "Items":
        """Return the items with their bias, float32 [N], to be searched."""
        rest = (0, -len(bias) % ITEMS_PER_TILE)
        tiled_bias = np.pad(bias, rest, constant_values=-np.inf)
        longest, largest_error = float(packed.lengths.max()), float(packed.errors.max())
        return cls(packed.values, np.pad(packed.units, rest), tiled_bias, longest, largest_error)

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        return self.values.nbytes + self.units.nbytes + self.bias.nbytes


class Candidates(NamedTuple):
    """What the search found for a block of queries.

    Attributes:
        rows: int32 [C, M], each query's candidates, in no order.
        scores: float32 [C, M], theirs by the integers.
        counts: int64 [C], how many; -1 where there are too many to hold, and all items must be looked at.
        highest: float32 [C], the best of the scores.
        totals: float64 [C], the sum of exp(temper * (score - highest)) over all items; zeros unless asked for.
    """

    rows: NDArray[np.int32]
    scores: Floats
    counts: NDArray[np.int64]
    highest: Floats
    totals: NDArray[np.float64]


@part
def _sum_of_powers(line: Any, factor: Any, shift: Any) -> Any:
    """Return the sum of 2^(factor s - shift) over the scores of a tile, none of which gives more than 1."""
    total = ZERO
    for j in range(len(line)):
        total += power_of_two(factor * line[j] - shift)
    return total


@compiled
def _raise_bar(rows: Any, scores: Any, c: int, count: int, k: int, error: Any, bar: Any) -> Any:
    """Raise the bar of query c, let go of whom it excludes, and return how many are left, and the bar."""
    room, low, high = rows.shape[1], scores[c, 0], scores[c, 0]
    for t in range(count):
        low, high = smaller(low, scores[c, t]), larger(high, scores[c, t])
    reached = bar  # by k at least
    for _ in range(_HALVINGS):
        middle = HALF * (low + high)
        better = 0
        for t in range(count):
            better += scores[c, t] > middle
        if better < k:
            high = middle
            continue
        low = reached = middle
        if better <= k + _SPARE:
            break
    left, raised = count, reached - TWO * error
    if raised > bar:
        left, bar = 0, raised
        for t in range(count, count + SIFTED):
            scores[c, t] = -np.inf  # to be sifted out with whom the bar excludes
        for t in range(0, count, SIFTED):
            left += sifted(scores, c * room + t, rows, c * room + t, bar, scores, rows, c * room + left)
    if left > _most_held(room) and error == 0:  # the same score for many, of which any are the best
        left, bar = _sort_out(rows, scores, c, left, k)
    return left, bar


@part
def _most_held(room: int) -> int:
    """Return how many may be held before a tile, so that all of it could be."""
    return room - ITEMS_PER_TILE - SIFTED


@part
def _sort_out(rows: Any, scores: Any, c: int, count: int, k: int) -> Any:
    """Bring the best k of the candidates to the front, and return k and the score of the last of them."""
    for place in range(k):
        best = place
        for t in range(place + 1, count):
            best = t if scores[c, t] > scores[c, best] else best
        rows[c, place], rows[c, best] = rows[c, best], rows[c, place]
        scores[c, place], scores[c, best] = scores[c, best], scores[c, place]
    return k, scores[c, k - 1]


@compiled
def _multiply_tile(queries: Any, starts: Any, items: Any, first: int, sums: Any) -> None:
    """Write the sums of all queries and the panels of a tile, from panel `first` on."""
    for panel in range(first, min(first + ITEMS_PER_TILE // ITEMS, len(items))):
        column = (panel - first) * ITEMS
        if queries.shape[2] == FEW_QUERIES:
            products_of_few(queries, starts, 0, items, panel, sums, column)
        else:
            for group in range(len(queries)):
                products(queries, starts, group, items, panel, sums, column)


@compiled
def search(queries: Any, items: Any, k: int, temper: float) -> Any:  # noqa: C901 - see below
    """Return items among which the k best for each query are: go through all, tile by tile.

    Compiled as one, as each call with arrays would count references.

    Args:
        queries: C of them, `Packed`.
        items: N of them, at least k, `Items`.
        k: How many are asked for.
        temper: Of `Candidates.totals`; 0 leaves them out.

    Returns:
        `Candidates`.
    """
    count, room = len(queries.units), max(_ROOM, 2 * (k + _HELD) + ITEMS_PER_TILE + SIFTED)
    rows, scores = np.empty((count, room), dtype=np.int32), np.empty((count, room), dtype=np.float32)
    counts, highest = np.zeros(count, dtype=np.int64), np.full(count, -_NEVER)
    totals, errors = np.zeros(count), _bounds(queries, items)
    units, item_units, bias = queries.units, items.units, items.bias
    factor = np.float32(temper) * LOG2_E
    sums = np.empty((len(queries.values) * queries.values.shape[2], ITEMS_PER_TILE), dtype=np.int32)
    line = np.empty(ITEMS_PER_TILE, dtype=np.float32)
    bars, most = np.full(count, -_NEVER), np.full(count, k + _HELD)
    tile_rows = np.arange(ITEMS_PER_TILE).astype(np.int32)
    for start in range(0, len(bias), ITEMS_PER_TILE):
        _multiply_tile(queries.values, queries.starts, items.values, start // ITEMS, sums)
        # Slices, as loops over them vectorise.
        offsets, worth = bias[start : start + ITEMS_PER_TILE], item_units[start : start + ITEMS_PER_TILE]
        for c in range(count):
            high = -_NEVER
            for j in range(ITEMS_PER_TILE):
                line[j] = units[c] * worth[j] * np.float32(sums[c, j]) + offsets[j]
                high = larger(high, line[j])
            best = larger(highest[c], high)
            if counts[c] > most[c]:
                counts[c], bars[c] = _raise_bar(rows, scores, c, counts[c], k, errors[c], bars[c])
                most[c] = min(max(2 * counts[c], k + _HELD), _most_held(room))
                if counts[c] > most[c]:
                    counts[c], bars[c] = 0, _NEVER
            held, bar = counts[c], bars[c]
            for at in range(0, ITEMS_PER_TILE if high > bar else 0, SIFTED):
                held += sifted(line, at, tile_rows, at, bar, scores, rows, c * room + held)
            if temper:
                total = _sum_of_powers(line, factor, factor * best)
                totals[c] = totals[c] * np.exp(temper * (highest[c] - best)) + total
            counts[c], highest[c] = held, best
        tile_rows += np.int32(ITEMS_PER_TILE)
    for c in range(count):
        if bars[c] == _NEVER:
            counts[c] = -1
        elif counts[c] > k:
            counts[c], bars[c] = _raise_bar(rows, scores, c, counts[c], k, errors[c], bars[c])
    return Candidates(rows, scores, counts, highest, totals)


@compiled
def _bounds(queries: Any, items: Any) -> Any:
    """Return how far off each query's scores in integers may be, float32 [C].

    With q = q' + e and v = v' + f, where the integers stand for q' and v', q . v - q' . v' = e . v + q' . f.
    """
    errors = np.empty(len(queries.units), dtype=np.float32)
    for c in range(len(errors)):
        length, rounding = queries.lengths[c], queries.errors[c]
        bound = rounding * items.longest + (length + rounding) * items.largest_error
        errors[c] = bound + length * items.longest * _FLOAT_ROUNDING
    return errors
