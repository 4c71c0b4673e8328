"""All items, packed so that the best of them for a query are found exactly without keeping a score of every item.

Every item is scored in integers first (`model.integer_search`); some more than k come out of that, among which the best
must be by the bound on its error, and are scored in float32. Where too many do, all are.

Shape letters: C queries, D width of a vector, N items, k items asked for.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.integer_search import QUERIES_PER_BLOCK, Items, search
from model.kernels.compiling import LOG2_E, ZERO, Floats, compiled, part, power_of_two, prefetch_row
from model.kernels.packing import Room, pack, packed_items, room_for_queries

Queries = Floats | Tensor
"""float32 [C, D], where the network is; an array on the CPU, as a lone click would pay for making a tensor of it."""
_MOST_SCORES = 1 << 24  # 64 MiB of float32 at a time


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

    def best(self, queries: Queries, k: int, temper: float | None = None) -> Best:
        """Return the k best items for each query; among equal scores any may be kept.

        Args:
            queries: Any number.
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


def as_floats(queries: Queries) -> Floats:
    """Return queries as an array."""
    return queries.cpu().numpy() if isinstance(queries, Tensor) else queries


class PlainCatalogue:
    """Scores every item in float32 with the tensor library, on any device: the reference for `PackedCatalogue`."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self.vectors, self.bias = vectors.cpu().numpy(), bias.cpu().numpy()
        self._vectors, self._bias = vectors, bias

    def best(self, queries: Queries, k: int, temper: float | None = None) -> Best:
        """See `Catalogue`."""
        count = min(k, len(self.vectors))
        rows = np.empty((len(queries), count), dtype=np.int32)
        scores = np.empty((len(queries), count), dtype=np.float32)
        log_sums = np.zeros(len(queries))
        asked = torch.as_tensor(queries)
        size = max(1, _MOST_SCORES // len(self.vectors))
        for start in range(0, len(queries), size):
            block = slice(start, start + size)
            all_scores = torch.addmm(self._bias, asked[block], self._vectors.T)
            best = torch.topk(all_scores, count, dim=1)
            rows[block], scores[block] = best.indices.cpu().numpy(), best.values.cpu().numpy()
            if temper is not None:
                log_sums[block] = torch.logsumexp(all_scores * temper, dim=1).cpu().numpy()
        return Best(rows, scores, log_sums)


class PackedCatalogue:
    """Scores every item in integers and the best of them in float32, on the CPU."""

    def __init__(self, vectors: Tensor, bias: Tensor) -> None:
        self.vectors, self.bias = vectors.numpy(), bias.numpy()
        self._items = Items.of(packed_items(self.vectors), self.bias)

    def best(self, queries: Queries, k: int, temper: float | None = None) -> Best:
        """See `Catalogue`."""
        asked, count = as_floats(queries), min(k, len(self.vectors))
        rows, scores = np.empty((len(asked), count), dtype=np.int32), np.empty((len(asked), count), dtype=np.float32)
        log_sums = np.empty(len(asked))
        room = room_for_queries(min(len(asked), QUERIES_PER_BLOCK), asked.shape[1])
        _best(asked, room, *self._items, self.vectors, self.bias, temper or 0.0, rows, scores, log_sums)
        return Best(rows, scores, log_sums)

    @property
    def packed_bytes(self) -> int:
        """What it takes in memory beside the vectors themselves."""
        return self._items.nbytes


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


@part
def score_of(queries: Any, vectors: Any, bias: Any, c: int, row: int) -> Any:
    """Return an item's score for query c in float32."""
    total = ZERO
    for d in range(queries.shape[1]):
        total += queries[c, d] * vectors[row, d]
    return total + bias[row]


@compiled
def _best(
    asked: Any,
    room: Any,
    values: Any,
    units: Any,
    tiled_bias: Any,
    longest: float,
    largest_error: float,
    vectors: Any,
    bias: Any,
    temper: float,
    rows: Any,
    scores: Any,
    log_sums: Any,
) -> None:
    """Write the best of all items, block of queries by block; see `Best`.

    Args:
        asked: float32 [C, D], the queries.
        room: Of a block of them, see `room_for_queries`.
        values: As in `Items`, like the next four.
        units: What 1 of them is worth.
        tiled_bias: The items' bias.
        longest: Of the items.
        largest_error: Of theirs.
        vectors: float32 [N, D]
        bias: float32 [N]
        temper: Of the log-sums; 0 for none.
        rows: int32 [C, k], written.
        scores: float32 [C, k], written.
        log_sums: float64 [C], written; zeros where there is no temper.
    """
    rows[:], scores[:], log_sums[:] = 0, -np.inf, 0.0
    items = Items(values, units, tiled_bias, longest, largest_error)
    for start in range(0, len(asked), QUERIES_PER_BLOCK):
        queries = asked[start : start + QUERIES_PER_BLOCK]
        groups = -(-len(queries) // room.values.shape[2])
        packed = pack(queries, Room(room.values[:groups], room.starts[:groups]), 0)
        candidates = search(packed, items, rows.shape[1], temper)
        stop = start + len(queries)
        _rescore(queries, vectors, bias, temper, candidates, rows[start:stop], scores[start:stop], log_sums[start:stop])


@compiled
def _rescore(
    queries: Any, vectors: Any, bias: Any, temper: Any, candidates: Any, rows: Any, scores: Any, log_sums: Any
) -> None:
    """Write the best of the candidates by their scores in float32, and with them the log-sums; see `_best`."""
    factor, counts = np.float32(temper) * LOG2_E, candidates.counts
    near, approximate = candidates.rows, candidates.scores
    exact = np.empty(near.shape[1], dtype=np.float32)
    for c in range(len(queries)):
        if counts[c] < 0:
            log_sums[c] = _score_all(queries, vectors, bias, temper, c, rows, scores)
            continue
        for t in range(counts[min(c + 1, len(queries) - 1)]):  # far off in memory: fetched while this query is at work
            prefetch_row(vectors, near[min(c + 1, len(queries) - 1), t])
        for t in range(counts[c]):
            exact[t] = score_of(queries, vectors, bias, c, near[c, t])
        for t in range(counts[c]):
            if exact[t] > scores[c, rows.shape[1] - 1]:
                insert(rows, scores, c, near[c, t], exact[t])
        if temper:
            highest, correction = candidates.highest[c], ZERO
            shift = factor * highest
            for t in range(counts[c]):
                correction += power_of_two(factor * exact[t] - shift) - power_of_two(factor * approximate[c, t] - shift)
            log_sums[c] = np.log(candidates.totals[c] + correction) + temper * highest


@part
def _score_all(queries: Any, vectors: Any, bias: Any, temper: Any, c: int, rows: Any, scores: Any) -> Any:
    """Write the best of all items for query c, where too many come near them, and return the log-sum."""
    highest, total = -np.inf, 0.0
    for row in range(len(vectors)):
        score = score_of(queries, vectors, bias, c, row)
        if score > scores[c, rows.shape[1] - 1]:
            insert(rows, scores, c, row, score)
        if score > highest:
            total, highest = total * np.exp(temper * (highest - score)), score
        total += np.exp(temper * (score - highest))
    return np.log(total) + temper * highest if temper else 0.0
