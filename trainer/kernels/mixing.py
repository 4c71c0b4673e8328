"""What can be among a click's best under any mixture of `model.mixing`, and where the clicked item stands under one."""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np

from model.catalogue import insert
from model.kernels.compiling import LOG2_E, ZERO, compiled, part, power_of_two
from model.mixing import LOOKBACK, spread
from model.ranking import UNRANKED

_FORWARD, _BACKWARD = np.eye(6)[1], np.eye(6)[2]  # as `Mixing.as_array`: one part alone


@compiled
def collect(
    scores: Any,
    targets: Any,
    histories: Any,
    s_at: Any,
    s_row: Any,
    s_share: Any,
    p_at: Any,
    p_row: Any,
    p_share: Any,
    cutoff: int,
    tempers: Any,
) -> Any:
    """Return the entries of C clicks: items to which the companion may give something, and the network's best others.

    Args:
        scores: float32 [C, N], the network's.
        targets: int64 [C], rows of what was clicked next.
        histories: int64 [C, L], as in `model.mixing.Mixer.mix`.
        s_at: Offsets of the successors; see `model.mixing.arrays_of`.
        s_row: Their rows.
        s_share: Their shares.
        p_at: Offsets of the predecessors.
        p_row: Their rows.
        p_share: Their shares.
        cutoff: How many others.
        tempers: float64 [T]

    Returns:
        Where each click's entries begin, and the target's place, -1 where it is none of them, int64 [C]; of all entries
        the scores float32, the shares forward and backward float64, and the clicks since the item's last in the
        session int8, -1 where it is not in it; for each click the log of the sum of exp(temper score) over all items,
        float64 [C, T].
    """
    count, items = 0, scores.shape[1]
    most = _most_entries(histories, s_at, p_at, cutoff)
    rows, kept_scores = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.float32)
    shares, ages = np.empty((2, most)), np.empty(most, dtype=np.int8)
    begins, places = np.empty(len(targets), dtype=np.int64), np.full(len(targets), -1)
    norms = np.empty((len(targets), len(tempers)))
    forward, backward, touched = np.zeros(items), np.zeros(items), np.empty(items, dtype=np.int64)
    is_entry, age_of = np.zeros(items, dtype=np.bool_), np.full(items, np.int8(-1))
    best_rows, best = np.empty((1, cutoff), dtype=np.int64), np.empty((1, cutoff), dtype=np.float32)
    neighbours = s_at, s_row, s_share, p_at, p_row, p_share
    for c in range(len(targets)):
        line, history, begins[c] = scores[c], histories[c], count
        for mass, weights in ((forward, _FORWARD), (backward, _BACKWARD)):
            found = spread(mass, touched, history, *neighbours, weights)
            count = _enter(touched[:found], is_entry, rows, count)
        count = _enter(history, is_entry, rows, count)
        _date(history, age_of)
        found = _best_others(line, is_entry, best_rows, best)
        count = _enter(best_rows[0, :found], is_entry, rows, count)
        for e in range(begins[c], count):
            row = rows[e]
            kept_scores[e], ages[e] = line[row], age_of[row]
            shares[0, e], shares[1, e] = forward[row], backward[row]
            places[c] = e if row == targets[c] else places[c]
            is_entry[row], age_of[row], forward[row], backward[row] = False, -1, 0.0, 0.0
        _log_sums(line, tempers, norms[c])
    return begins, places, kept_scores[:count], shares[0, :count], shares[1, :count], ages[:count], norms


@part
def _most_entries(histories: Any, s_at: Any, p_at: Any, cutoff: int) -> Any:
    """Return how many entries the clicks have at most."""
    most = len(histories) * (cutoff + histories.shape[1])
    for c in range(len(histories)):
        for age in range(min(LOOKBACK, histories.shape[1])):
            row = histories[c, histories.shape[1] - 1 - age]
            if 0 <= row < len(s_at) - 1:
                most += s_at[row + 1] - s_at[row] + p_at[row + 1] - p_at[row]
    return most


@part
def _enter(new: Any, is_entry: Any, rows: Any, count: Any) -> Any:
    """Append the rows that are not among the entries yet; returns how many entries there are then."""
    for row in new:
        if 0 <= row < len(is_entry) and not is_entry[row]:
            is_entry[row] = True
            rows[count] = row
            count += 1
    return count


@part
def _date(history: Any, age_of: Any) -> None:
    """Write the clicks since each item's last; the oldest first, so that an item's newest click has the last word."""
    for place in range(len(history)):
        if 0 <= history[place] < len(age_of):
            age_of[history[place]] = len(history) - 1 - place


@part
def _best_others(line: Any, is_entry: Any, rows: Any, best: Any) -> Any:
    """Write the rows of the best scores that are no entries, the best first; returns how many there are."""
    best[:] = -np.inf
    last, found = best.shape[1] - 1, 0
    for row in range(len(line)):
        if line[row] > best[0, last] and not is_entry[row]:
            insert(rows, best, 0, row, line[row])
            found += 1
    return min(found, best.shape[1])


@part
def _log_sums(line: Any, tempers: Any, norms: Any) -> None:
    """Write the log of the sum of exp(temper score) over all items, for each temper."""
    highest = line.max()
    for t in range(len(tempers)):
        factor, total = np.float32(tempers[t]) * LOG2_E, ZERO
        for j in range(len(line)):
            total += power_of_two(factor * (line[j] - highest))
        norms[t] = tempers[t] * highest + np.log(float(total))


@compiled
def rank(
    begins: Any,
    places: Any,
    chances: Any,
    forward: Any,
    backward: Any,
    ages: Any,
    forward_weight: float,
    backward_weight: float,
    repeats: Any,
    found: Any,
) -> None:
    """Write the rank of each click's target, behind all of the same chance, among its entries; see `collect`.

    Args:
        begins: Where each click's entries begin.
        places: The targets' places.
        chances: float64 [n], the network's chance of each entry.
        forward: The companion's shares.
        backward: The same.
        ages: Clicks since the item's last.
        forward_weight: What the first are worth.
        backward_weight: What the second are worth.
        repeats: float64 [at least 1 + the largest age], what each age is worth, in the first place that of -1.
        found: int64 [C], written; `model.ranking.UNRANKED` where the target is no entry.
    """
    mixed = np.empty(len(chances))
    for e in range(len(chances)):
        mixed[e] = chances[e] + forward_weight * forward[e] + backward_weight * backward[e] + repeats[1 + ages[e]]
    for c in range(len(begins)):
        end = begins[c + 1] if c + 1 < len(begins) else len(chances)
        ahead = UNRANKED
        if places[c] >= 0:
            ahead = 0
            for e in range(begins[c], end):
                ahead += mixed[e] >= mixed[places[c]]
        found[c] = ahead
