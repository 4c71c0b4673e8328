"""The loss over sampled candidates and its gradient, in place of the scores.

Shape letters: B transitions, C distinct candidates.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np

from model.kernels.compiling import ONE, ZERO, Floats, Ints, bits_of, compiled, exp, float_of, part

_SIGN_PLACE, _ALL_BUT_SIGN = np.int32(31), np.int32(0x7FFFFFFF)


@part
def _largest(row: Any, shift: Any, count: int) -> Any:
    """Return the largest of row + shift, compared as integers in the same order: maxima of floats do not vectorise."""
    largest = np.int32(-2147483648)
    for u in range(count):
        bits = bits_of(row[u] + shift[u])
        ordered = np.int32(bits ^ ((bits >> _SIGN_PLACE) & _ALL_BUT_SIGN))
        largest = max(largest, ordered)
    return float_of(largest ^ ((largest >> _SIGN_PLACE) & _ALL_BUT_SIGN))


@compiled
def _begins(sessions: Ints) -> Any:
    """Return where each session's rows begin among the members, and at last how many there are."""
    begins = np.zeros(len(sessions) + 1, dtype=np.int64)
    for s in sessions:
        begins[s + 1] += 1
    return np.cumsum(begins)


@compiled
def _spare(weights: Floats, family: Ints, targets: Ints, place: int, spared: Floats) -> Any:
    """Take the weight from the targets of a family of rows, but for the one at `place`; returns how much it was."""
    taken = ZERO
    for member in family:
        u = targets[member]
        if u != place:
            spared[member] = weights[u]
            taken += weights[u]
            weights[u] = ZERO
    return taken


@compiled
def _restore(weights: Floats, family: Ints, targets: Ints, place: int, spared: Floats) -> None:
    """Undo `_spare`, the last first: of equal targets only the first had a weight left."""
    for n in range(len(family) - 1, -1, -1):
        u = targets[family[n]]
        if u != place:
            weights[u] = spared[family[n]]


@compiled
def cross_entropy(
    scores: Floats,
    shift: Floats,
    restored: Floats,
    weights: Floats,
    candidates: int,
    targets: Ints,
    sessions: Ints,
    members: Ints,
    lanes: int,
    smoothing: float,
    bias_gradient: Floats,
    loss: Floats,
) -> None:
    """Turn scores [B, >= C] into their gradients; equal candidates count as often as `weights` [C] says.

    The gradients are those of the loss's sum over the mini-batch, divided by the lanes: a small mini-batch weighs no
    more per click.

    Args:
        scores: Without `shift`.
        shift: float32 [C], added to every row.
        restored: float32 [C], added to a row's own target once more, or empty.
        weights: float32 [C].
        candidates: C.
        targets: int64 [B], places.
        sessions: int64 [B], which session each row is of, or empty: the targets of its other rows are no candidates.
        members: int64 [B], the rows session by session; empty as `sessions` is.
        lanes: Of a full mini-batch.
        smoothing: Share of the target spread over all candidates.
        bias_gradient: float32 [>= C], written: sums over B of the gradients; zero beyond C.
        loss: float32 [1], written: the mean over the mini-batch.
    """
    total = ZERO
    for u in range(candidates):
        total += weights[u]
    certain, scale, lost = np.float32(1 - smoothing), ONE / np.float32(lanes), 0.0
    begins, spared = _begins(sessions), np.empty(len(sessions), dtype=np.float32)
    bias_gradient[:] = ZERO
    for i in range(len(targets)):
        row = scores[i]
        largest = _largest(row, shift, candidates)
        place = targets[i]
        target = row[place] + shift[place] - largest
        own = target + (restored[place] if len(restored) else ZERO)
        family = members[begins[sessions[i]] : begins[sessions[i] + 1]] if len(sessions) else members
        spread = np.float32(smoothing) / (total - _spare(weights, family, targets, place, spared))
        mass, mean = ZERO, ZERO
        for u in range(candidates):
            corrected = row[u] + shift[u] - largest
            mean += weights[u] * corrected
            row[u] = weights[u] * exp(corrected)
            mass += row[u]
        # Of the target's occurrences among the candidates one is the row's own.
        extra = exp(own) - exp(target)
        row[place] += extra
        mass += extra
        mean += own - target
        share = scale / mass
        for u in range(candidates):
            row[u] = row[u] * share - weights[u] * (spread * scale)
            bias_gradient[u] += row[u]
        row[place] -= certain * scale
        bias_gradient[place] -= certain * scale
        _restore(weights, family, targets, place, spared)
        lost += np.log(mass) - certain * own - spread * mean
    loss[0] = lost / len(targets)
