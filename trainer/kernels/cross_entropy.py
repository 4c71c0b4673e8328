"""The loss over sampled candidates and its gradient, in place of the scores.

Shape letters: B transitions, C distinct candidates.
"""

# ruff: noqa: PLR0917 - compiled functions take their arrays by position

from typing import Any

import numpy as np

from model.compiling import ONE, ZERO, Floats, Ints, bits_of, compiled, exp, float_of, part

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
def cross_entropy(
    scores: Floats,
    shift: Floats,
    restored: Floats,
    weights: Floats,
    candidates: int,
    targets: Ints,
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
        lanes: Of a full mini-batch.
        smoothing: Share of the target spread over all candidates.
        bias_gradient: float32 [>= C], written: sums over B of the gradients; zero beyond C.
        loss: float32 [1], written: the mean over the mini-batch.
    """
    total = ZERO
    for u in range(candidates):
        total += weights[u]
    spread, certain = np.float32(smoothing) / total, np.float32(1 - smoothing)
    scale, lost = ONE / np.float32(lanes), 0.0
    bias_gradient[:] = ZERO
    for i in range(len(targets)):
        row = scores[i]
        largest = _largest(row, shift, candidates)
        place = targets[i]
        target = row[place] + shift[place] - largest
        own = target + (restored[place] if len(restored) else ZERO)
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
        lost += np.log(mass) - certain * own - spread * mean
    loss[0] = lost / len(targets)
