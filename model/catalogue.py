"""All items, packed so that the best of them for a query are found exactly without keeping a score of every item.

Every item is scored in 16-bit integers first; a few more than k come out of that, which are scored in float32. The
error of the first stage has a bound, so the answer is known to be that of float32 for all items, or else it is worked
out in float32 after all.

Shape letters: C queries, D width of a vector, N items, K items kept of the first stage, k items asked for.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.compiling import (
    LOG2_E,
    LOOKED_AT,
    ZERO,
    Floats,
    above,
    compiled,
    lowest_bit,
    part,
    power_of_two,
    prefetch_row,
)
from model.dot_products import ITEMS, LARGEST, QUERIES, packed_items, packed_queries, products

_MORE = 8  # items kept beyond k: the bound on the error seldom takes in more than two
# Sums of a block of queries and a tile of items stay in the second cache, with the queries.
_QUERIES_PER_BLOCK = 20 * 12
_ITEMS_PER_TILE = 128
_MOST_SCORES = 1 << 24  # 64 MiB of float32 at a time
_LENGTH_ROUNDING = 1e-6  # of a length summed in float32


@dataclass(frozen=True)
class Best:
    """The best items after each query; k' = min(k, N).

    Attributes:
        rows: int32 [C, k'], best first.
        scores: float32 [C, k'].
        log_sums: float64 [C], log of the sum of exp(temper * score) over all items; zeros unless asked for. At most as
            far off as one score of the first stage is, and in the mean over many items a hundred times nearer.
    """

    rows: NDArray[np.int32]
    scores: Floats
    log_sums: NDArray[np.float64]


class Catalogue(Protocol):
    """The items of one version: score = query . vector + bias. Immutable.

    Attributes:
        vectors: float32 [N, D].
        bias: float32 [N].
    """

    vectors: Floats
    bias: Floats

    def best(self, queries: Tensor, k: int, temper: float | None = None) -> Best:
        """Return the k best items for each query; among equal scores any may be kept.

        Args:
            queries: float32 [C, D].
            k: How many.
            temper: Of the log-sum; None leaves it out.
        """


def catalogue_of(vectors: Tensor, bias: Tensor | None) -> Catalogue:
    """Return the catalogue that suits the device of the items.

    Args:
        vectors: float32 [N, D], must not be changed afterwards.
        bias: float32 [N], or None for none.
    """
    bias = vectors.new_zeros(len(vectors)) if bias is None else bias
    return PackedCatalogue(vectors, bias) if vectors.device.type == "cpu" else PlainCatalogue(vectors, bias)


class PlainCatalogue:
    """Scores every item in float32 with the tensor library, on any device: the reference for `PackedCatalogue`."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self.vectors, self.bias = vectors.cpu().numpy(), bias.cpu().numpy()
        self._vectors, self._bias = vectors, bias

    def best(self, queries: Tensor, k: int, temper: float | None = None) -> Best:
        """See `Catalogue`."""
        count = min(k, len(self.vectors))
        rows = np.empty((len(queries), count), dtype=np.int32)
        scores = np.empty((len(queries), count), dtype=np.float32)
        log_sums = np.zeros(len(queries))
        size = max(1, _MOST_SCORES // len(self.vectors))
        for start in range(0, len(queries), size):
            block = slice(start, start + size)
            all_scores = torch.addmm(self._bias, queries[block], self._vectors.T)
            best = torch.topk(all_scores, count, dim=1)
            rows[block], scores[block] = best.indices.cpu().numpy(), best.values.cpu().numpy()
            if temper is not None:
                log_sums[block] = torch.logsumexp(all_scores * temper, dim=1).cpu().numpy()
        return Best(rows, scores, log_sums)


class PackedCatalogue:
    """Scores every item in integers and the best of them in float32, on the CPU."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self.vectors, self.bias = vectors.numpy(), bias.numpy()
        self._longest = float(torch.linalg.vector_norm(vectors, dim=1).max())
        self._items = packed_items(self.vectors, LARGEST / self._longest if self._longest else 0.0)
        tiled = -(-len(vectors) // _ITEMS_PER_TILE) * _ITEMS_PER_TILE
        self._tiled_bias = np.full(tiled, -np.inf, dtype=np.float32)
        self._tiled_bias[: len(vectors)] = self.bias
        self._error = self._largest_error()

    def best(self, queries: Tensor, k: int, temper: float | None = None) -> Best:
        """See `Catalogue`."""
        asked, items = queries.numpy(), len(self.vectors)
        count, kept = min(k, items), min(k + _MORE, items)
        lengths = torch.linalg.vector_norm(queries, dim=1).numpy()
        scale = np.divide(LARGEST, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        units = (lengths * np.float32(self._longest / LARGEST**2)).astype(np.float32)
        rows = np.empty((len(asked), kept), dtype=np.int32)
        scores = np.full((len(asked), kept), -np.inf, dtype=np.float32)
        log_sums = np.zeros(len(asked))
        for start in range(0, len(asked), _QUERIES_PER_BLOCK):
            block = slice(start, start + _QUERIES_PER_BLOCK)
            packed = packed_queries(asked[block], scale[block])
            sums = np.empty((len(packed) * QUERIES, _ITEMS_PER_TILE), dtype=np.int32)
            found = rows[block], scores[block], log_sums[block]
            _search(packed, units[block], self._items, self._tiled_bias, sums, temper or 0.0, *found)
        _rescore(asked, self.vectors, self.bias, lengths * self._error, count, rows, scores)
        return Best(np.ascontiguousarray(rows[:, :count]), np.ascontiguousarray(scores[:, :count]), log_sums)

    @property
    def packed_bytes(self) -> int:
        """What it takes in memory beside the vectors themselves."""
        return self._items.nbytes + self._tiled_bias.nbytes

    def _largest_error(self) -> float:
        """Return the largest error of the first stage for a query of length 1.

        Rounding moves a row by at most half the root of D, in units of which LARGEST are the longest item, or the
        query. So q . v moves by at most |q| |v - v'| + |q - q'| |v'|.
        """
        moved = 0.5 * np.sqrt(self.vectors.shape[1]) / LARGEST + _LENGTH_ROUNDING
        return float(self._longest * moved * (2 + moved))


@part
def insert(rows: Any, scores: Any, c: int, row: int, score: Any) -> None:
    """Put an item where it belongs among the best of query c so far, of which there are always as many."""
    place = rows.shape[1] - 1
    while place > 0 and scores[c, place - 1] < score:
        rows[c, place] = rows[c, place - 1]
        scores[c, place] = scores[c, place - 1]
        place -= 1
    rows[c, place] = row
    scores[c, place] = score


@compiled
def _search(
    queries: Any,
    units: Any,
    items: Any,
    bias: Any,
    sums: Any,
    temper: Any,
    rows: Any,
    scores: Any,
    log_sums: Any,
) -> None:
    """Find the best of each query by the integers' scores, the best first.

    Args:
        queries: `packed_queries` of C queries.
        units: float32 [C], what a query's integer products are worth.
        items: `packed_items`.
        bias: float32 [N, up to whole tiles], minus infinity where there is no item.
        sums: int32 [at least C, items of a tile], a place to work in.
        temper: See `Best`; 0 for no log-sums.
        rows: int32 [C, K], written.
        scores: float32 [C, K], minus infinity before; written.
        log_sums: float64 [C], written.
    """
    tile_items = sums.shape[1]
    panels = tile_items // ITEMS
    factor = np.float32(temper) * LOG2_E
    line = np.empty(tile_items, dtype=np.float32)
    totals = np.zeros(len(units))
    for start in range(0, len(bias), tile_items):
        first, offsets = start // ITEMS, bias[start : start + tile_items]  # a slice, as its loop vectorises
        for panel in range(first, min(first + panels, len(items))):
            for group in range(len(queries)):
                products(queries, group, items, panel, sums, (panel - first) * ITEMS)
        for c in range(len(units)):
            highest = scores[c, 0]
            for j in range(tile_items):
                line[j] = units[c] * np.float32(sums[c, j]) + offsets[j]
            _let_in(rows, scores, c, line, start)
            if temper:
                total = _sum_of_powers(line, factor, factor * scores[c, 0])
                totals[c] = totals[c] * np.exp(temper * (highest - scores[c, 0])) + total
    if temper:
        for c in range(len(units)):
            log_sums[c] = np.log(totals[c]) + temper * scores[c, 0]


@part
def _let_in(rows: Any, scores: Any, c: int, line: Any, start: int) -> None:
    """Let in the items of a tile, from row `start` on, that are better than the last of those kept for query c."""
    bar = scores[c, rows.shape[1] - 1]
    for first in range(0, len(line), LOOKED_AT):
        better = above(line, first, bar)
        while better:
            j = first + lowest_bit(better)
            better &= better - 1
            if line[j] > bar:
                insert(rows, scores, c, start + j, line[j])
                bar = scores[c, rows.shape[1] - 1]


@part
def _sum_of_powers(line: Any, factor: Any, shift: Any) -> Any:
    """Return the sum of 2^(factor s - shift) over the scores of a tile, none of which gives more than 1."""
    total = ZERO
    for j in range(len(line)):
        total += power_of_two(factor * line[j] - shift)
    return total


@part
def score_of(queries: Any, vectors: Any, bias: Any, c: int, row: int) -> Any:
    """Return an item's score for query c in float32."""
    total = ZERO
    for d in range(queries.shape[1]):
        total += queries[c, d] * vectors[row, d]
    return total + bias[row]


@compiled
def _rescore(queries: Any, vectors: Any, bias: Any, errors: Any, count: int, rows: Any, scores: Any) -> None:
    """Put float32 scores in the place of the integers', and the items in their order; the first `count` are right.

    An item that was left out has at most the last score of those kept, plus the error.
    """
    kept = rows.shape[1]
    for t in range(kept):
        prefetch_row(vectors, rows[0, t])
    for c in range(len(queries)):
        for t in range(kept):  # what lies far off in memory is fetched while the query before is at work
            prefetch_row(vectors, rows[min(c + 1, len(queries) - 1), t])
        left_out = scores[c, kept - 1] + errors[c]
        for t in range(kept):  # nearly in order already
            row, place = rows[c, t], t
            score = score_of(queries, vectors, bias, c, row)
            while place > 0 and scores[c, place - 1] < score:
                rows[c, place], scores[c, place] = rows[c, place - 1], scores[c, place - 1]
                place -= 1
            rows[c, place], scores[c, place] = row, score
        if kept < len(vectors) and not left_out <= scores[c, count - 1]:
            scores[c] = -np.inf
            for row in range(len(vectors)):
                score = score_of(queries, vectors, bias, c, row)
                if score > scores[c, kept - 1]:
                    insert(rows, scores, c, row, score)
