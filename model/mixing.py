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
from model.companion import Companion, Mixing
from model.kernels.compiling import ZERO, Floats, compiled, exp, part
from model.ranking import Ties
from model.transitions import Neighbours

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]

LOOKBACK = 8
"""Clicks whose successors and predecessors count."""
AGE_DECAY = 0.7


class Mixer:
    """Mixes the answers of one version, in one thread at a time: what it works in is made once.

    Args:
        catalogue: All N items.
        companion: Its neighbours are those of the first items of the N; items after them have none.
    """

    def __init__(self, catalogue: Catalogue, companion: Companion) -> None:
        self._items = catalogue.vectors, catalogue.bias
        self._companion = *arrays_of(companion.neighbours), companion.mixing.as_array()
        count = len(catalogue.vectors)
        self._mass, self._touched = np.zeros(count), np.empty(count, dtype=np.int64)

    def mix(self, best: Best, queries: Floats, histories: NDArray[np.int64]) -> tuple[NDArray[np.int32], Floats]:
        """Return the exact top k of the mixture: rows int32 [C, k] and their p float32 [C, k], the best first.

        Args:
            best: The network's own top k, with log-sums of the mixing's temper.
            queries: float32 [C, D], what they answer.
            histories: int64 [C, L], each click's session, the click itself in the last column; -1 for no or unknown
                item.
        """
        rows, chances = np.empty(best.rows.shape, dtype=np.int32), np.empty(best.rows.shape, dtype=np.float32)
        network = best.rows, best.scores, best.log_sums, queries, *self._items
        _mix(*network, histories, *self._companion, self._mass, self._touched, rows, chances)
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
    """Return the exact rank of each target among all N items under the mixture, int64 [C]; see `ranking`.

    Args:
        scores: float32 [C, N], the network's, on the CPU.
        targets: int64 [C], rows.
        histories: As in `Mixer.mix`.
        neighbours: Of the first items of the N; items after them have none.
        mixing: The weights.
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
    count, newest = 0, len(history) - 1
    forward, backward = w[1], w[2]
    for age in range(min(LOOKBACK, len(history))):
        row = history[newest - age]
        if 0 <= row < len(s_at) - 1:
            for e in range(s_at[row], s_at[row + 1] if forward > 0 else 0):
                count += _noted(mass, touched, count, s_row[e])
                mass[s_row[e]] += forward * s_share[e]
            for e in range(p_at[row], p_at[row + 1] if backward > 0 else 0):
                count += _noted(mass, touched, count, p_row[e])
                mass[p_row[e]] += backward * p_share[e]
        forward, backward = forward * AGE_DECAY, backward * AGE_DECAY
    repeat = w[4]
    for age in range(len(history)):
        row, amount = history[newest - age], repeat + (w[3] if age == 0 else 0.0)
        is_newest = True
        for younger in range(age):
            is_newest = is_newest and history[newest - younger] != row
        if 0 <= row < len(mass) and is_newest and amount > 0:
            count += _noted(mass, touched, count, row)
            mass[row] += amount
        repeat *= w[5]
    return count


@part
def _noted(mass: Any, touched: Any, count: int, row: int) -> int:
    """Note an item that has no mass yet; returns how many were."""
    if mass[row] != 0.0:
        return 0
    touched[count] = row
    return 1


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
    mass: Any,
    touched: Any,
    rows: Any,
    chances: Any,
) -> None:
    """Write the top of each click's mixture; only items with enough mass to come into it are scored.

    `mass` is zeros before and after; what `touched` holds means nothing.
    """
    last = tops.shape[1] - 1
    chances[:] = -np.inf
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
