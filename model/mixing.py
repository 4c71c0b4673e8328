"""The network's chances and its companion's, mixed: exactly, and without touching all items.

p_j = softmax(temper s)_j + forward F_j + backward B_j + last [j was clicked last] + repeat fade^(clicks since j's last)
F and B sum the shares of `model.transitions.Neighbours` over the session's last `LOOKBACK` clicks, weighted
`AGE_DECAY` to the power of their age. All but the first term is 0 for all but a few hundred items.

Shape letters: S sessions, C clicks, N items, D width of a vector, L clicks of a history, k items of an answer.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.catalogue import Best, Catalogue, insert, score_of
from model.companion import Mixing
from model.compiling import ZERO, Floats, compiled, exp
from model.ranking import Ties
from model.transitions import Neighbours

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

LOOKBACK = 8
"""Clicks whose successors and predecessors count."""
AGE_DECAY = 0.7


def mix(
    best: Best,
    queries: Floats,
    catalogue: Catalogue,
    histories: NDArray[np.int64],
    neighbours: Neighbours,
    mixing: Mixing,
) -> tuple[NDArray[np.int32], Floats]:
    """Return the exact top k of the mixture: rows int32 [C, k] and their p float32 [C, k], the best first.

    Args:
        best: The network's own top k, with log-sums of `mixing.temper`.
        queries: float32 [C, D], what they answer.
        catalogue: All N items.
        histories: int64 [C, L], each click's session, the click itself in the last column; -1 for no or unknown item.
        neighbours: Of the first items of the N; items after them have none.
        mixing: The weights.
    """
    rows, chances = np.empty_like(best.rows), np.full_like(best.scores, -np.inf)
    network = best.rows, best.scores, best.log_sums, queries, catalogue.vectors, catalogue.bias
    _mix(*network, histories, *arrays_of(neighbours), mixing.as_array(), rows, chances)
    return rows, chances


def histories_after(
    before: NDArray[np.int64], slots: NDArray[np.int64], rows: NDArray[np.int64], counts: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Return the history up to and with each click of a micro-batch, int64 [C, L].

    Args:
        before: int64 [S, L], each session's history before the batch.
        slots: int64 [C], each click's session, in order of arrival.
        rows: int64 [C], each click's item, -1 for an unknown one.
        counts: bool [C], false for a click that is in its session's history already.
    """
    histories = np.empty((len(slots), before.shape[1]), dtype=np.int64)
    _follow(before.copy(), slots, rows, counts, histories)
    return histories


def mixture_ranks(
    scores: Tensor,
    targets: NDArray[np.int64],
    histories: NDArray[np.int64],
    neighbours: Neighbours,
    mixing: Mixing,
    ties: Ties = "conservative",
    ranked: Tensor | None = None,
) -> NDArray[np.int64]:
    """Return the exact rank of each target among all N items under the mixture, int64 [C]; see `mix`, `ranking`.

    Args:
        scores: float32 [C, N], the network's, on the CPU.
        targets: int64 [C], rows.
        histories: As in `mix`.
        neighbours: As in `mix`.
        mixing: As in `mix`.
        ties: See `model.ranking.ranks`.
        ranked: `scores` with minus infinity for what is left out of the ranking; by default nothing is.
    """
    found = np.empty(len(targets), dtype=np.int64)
    behind, table = ties == "conservative", scores.numpy()
    among = table if ranked is None else ranked.numpy()
    _rank(table, among, targets, histories, *arrays_of(neighbours), mixing.as_array(), behind, found)
    return found


def arrays_of(neighbours: Neighbours) -> Arrays:
    """Return the arrays as compiled code takes them: offsets, rows and shares of successors, then of predecessors."""
    return (
        neighbours.successor_offsets,
        neighbours.successor_rows,
        neighbours.successor_shares,
        neighbours.predecessor_offsets,
        neighbours.predecessor_rows,
        neighbours.predecessor_shares,
    )


@compiled
def _follow(newest: Any, slots: Any, rows: Any, counts: Any, histories: Any) -> None:
    """Let each session's history, a line of `newest`, follow its clicks, and write what it is at each of them."""
    for c in range(len(slots)):
        line = newest[slots[c]]
        if counts[c]:
            for place in range(len(line) - 1):
                line[place] = line[place + 1]
            line[len(line) - 1] = rows[c]
        histories[c] = line


@compiled
def _log_sum(line: Any, temper: float, largest: Any) -> Any:
    """Return the log of the sum of exp(temper s) over all items, of scores of which the largest is known."""
    factor, highest = np.float32(temper), np.float32(temper) * largest
    total = ZERO
    for j in range(len(line)):
        total += exp(factor * line[j] - highest)
    return float(highest) + np.log(float(total))


@compiled
def _give(mass: Any, touched: Any, count: int, row: int, amount: float) -> int:
    """Add to an item's mass and note the item when it is its first; returns how many items are noted."""
    if amount <= 0.0:
        return count
    if mass[row] == 0.0:
        touched[count] = row
        count += 1
    mass[row] += amount
    return count


@compiled
def spread(
    mass: Any,
    touched: Any,
    history: Any,
    s_at: Any,
    s_row: Any,
    s_share: Any,
    p_at: Any,
    p_row: Any,
    p_share: Any,
    w: Any,
) -> int:
    """Add the companion's mass of one session to `mass`; returns how many rows of `touched` it has written.

    Args:
        mass: float64 [N], zeros before.
        touched: int64 [N], written: the rows that have mass now.
        history: int64 [L]
        s_at: Offsets of the successors; see `arrays_of`.
        s_row: Their rows.
        s_share: Their shares.
        p_at: Offsets of the predecessors.
        p_row: Their rows.
        p_share: Their shares.
        w: float64 [6], as `Mixing.as_array`.
    """
    count = 0
    age_weight = 1.0
    for age in range(min(LOOKBACK, len(history))):
        row = history[len(history) - 1 - age]
        if 0 <= row < len(s_at) - 1:
            for e in range(s_at[row], s_at[row + 1]):
                count = _give(mass, touched, count, s_row[e], w[1] * age_weight * s_share[e])
            for e in range(p_at[row], p_at[row + 1]):
                count = _give(mass, touched, count, p_row[e], w[2] * age_weight * p_share[e])
        age_weight *= AGE_DECAY
    for age in range(len(history)):
        row = history[len(history) - 1 - age]
        if 0 <= row < len(mass) and row not in history[len(history) - age :]:
            amount = w[4] * w[5] ** age + (w[3] if age == 0 else 0.0)
            count = _give(mass, touched, count, row, amount)
    return count


@compiled
def _mix(
    tops: Any,
    scores: Any,
    log_sums: Any,
    queries: Any,
    vectors: Any,
    bias: Any,
    histories: Any,
    s_at: Any,
    s_row: Any,
    s_share: Any,
    p_at: Any,
    p_row: Any,
    p_share: Any,
    w: Any,
    rows: Any,
    chances: Any,
) -> None:
    """Write the top of each click's mixture; only items with enough mass to come into it are scored."""
    last = tops.shape[1] - 1
    mass = np.zeros(len(vectors))
    touched = np.empty(len(vectors), dtype=np.int64)
    for c in range(len(tops)):
        count = spread(mass, touched, histories[c], s_at, s_row, s_share, p_at, p_row, p_share, w)
        for t in range(last + 1):
            row = tops[c, t]
            chance = np.exp(w[0] * scores[c, t] - log_sums[c]) + mass[row]
            mass[row] = 0.0
            if chance > chances[c, last]:
                insert(rows, chances, c, row, chance)
        most = np.exp(w[0] * scores[c, last] - log_sums[c])  # that the network gives to any other
        for t in range(count):
            row = touched[t]
            if mass[row] > 0.0 and mass[row] + most > chances[c, last]:  # else it is among the tops, or too small
                chance = np.exp(w[0] * score_of(queries, vectors, bias, c, row) - log_sums[c]) + mass[row]
                if chance > chances[c, last]:
                    insert(rows, chances, c, row, chance)
            mass[row] = 0.0


@compiled
def _rank(
    scores: Any,
    ranked: Any,
    targets: Any,
    histories: Any,
    s_at: Any,
    s_row: Any,
    s_share: Any,
    p_at: Any,
    p_row: Any,
    p_share: Any,
    w: Any,
    behind: bool,  # noqa: FBT001
    found: Any,
) -> None:
    """Write each target's rank: all items by their scores, then what the companion changes."""
    mass = np.zeros(scores.shape[1])
    touched = np.empty(scores.shape[1], dtype=np.int64)
    for c in range(len(scores)):
        line, target = ranked[c], targets[c]
        norm = _log_sum(scores[c], w[0], scores[c].max())
        count = spread(mass, touched, histories[c], s_at, s_row, s_share, p_at, p_row, p_share, w)
        goal = np.exp(w[0] * line[target] - norm) + mass[target]
        bar = line[target]
        if mass[target] > 0.0:
            bar = np.float32((np.log(goal) + norm) / w[0])
        ahead = 0
        for j in range(len(line)):
            ahead += (line[j] >= bar) if behind else (line[j] > bar)
        for t in range(count):
            row = touched[t]
            chance = np.exp(w[0] * line[row] - norm) + mass[row]
            mass[row] = 0.0
            if line[row] == -np.inf:
                continue
            if row == target:
                ahead -= (line[row] >= bar) if behind else (line[row] > bar)
                ahead += 1 if behind else 0
            elif behind:
                ahead += int(chance >= goal) - int(line[row] >= bar)
            else:
                ahead += int(chance > goal) - int(line[row] > bar)
        found[c] = ahead if behind else ahead + 1
