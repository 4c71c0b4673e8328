"""The answers given so far against the clicks that came after them.

Shape letters: C clicks of a micro-batch, E of them that met an answer, k items of an answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.kernels.compiling import compiled
from model.vocabulary import fingerprint
from stream.micro_batch import MicroBatch
from stream.records import POPULARITY


@dataclass(frozen=True)
class OnlineEvaluation:
    """How the answers given so far met the clicks of a micro-batch.

    Attributes:
        version: Version that gave the answers, or `POPULARITY`.
        ranks: 1-based rank of the clicked item in the answer before it, int64; 0 where it was not in it.
    """

    version: str
    ranks: NDArray[np.int64]


def evaluate(batch: MicroBatch, versions: Sequence[str], fingerprints: NDArray[np.uint32]) -> list[OnlineEvaluation]:
    """Check every applied click that continues a session against the answer given before it.

    Args:
        batch: Walked through.
        versions: Of the answer to each of its clicks.
        fingerprints: uint32 [C, k], of the items of these answers; 0 past the last.
    """
    if not batch.evaluated:
        return []
    stored = np.zeros((len(batch.evaluated), fingerprints.shape[1]), np.uint32)
    answered_by = []
    for place, answered in enumerate(batch.previous):
        if answered >= 0:
            answered_by.append(versions[answered])
            continue
        version, answer = batch.lives[-1 - answered].stored_answer
        shown = answer[: stored.shape[1]]  # another worker may answer with more items
        stored[place, : len(shown)] = shown
        answered_by.append(version or POPULARITY)
    clicked = np.array([fingerprint(batch.valid[position][1].item_id) for position in batch.evaluated], np.uint32)
    ranks = np.empty(len(clicked), np.int64)
    _rank(clicked, np.array(batch.previous), fingerprints, stored, ranks)
    met = list(dict.fromkeys(answered_by))
    if len(met) == 1:  # nearly always; an array of names costs as much as all of the above
        return [OnlineEvaluation(met[0], ranks)]
    of_version = np.array(answered_by)
    return [OnlineEvaluation(version, ranks[of_version == version]) for version in met]


def compile_evaluation() -> None:
    """Compile what `evaluate` needs, so that no click waits for it."""
    clicked, places, answers = np.empty(0, np.uint32), np.empty(0, np.int64), np.empty((0, 1), np.uint32)
    _rank(clicked, places, answers, answers, places)


@compiled
def _rank(clicked: Any, previous: Any, fingerprints: Any, stored: Any, ranks: Any) -> None:
    """Write where each clicked item stands in the answer before it, 1 for the first, 0 for nowhere.

    Args:
        clicked: uint32 [E], the items' fingerprints.
        previous: int64 [E], place of that answer in `fingerprints`; below 0 where it is in `stored`.
        fingerprints: uint32 [C, k]
        stored: uint32 [E, k]
        ranks: int64 [E], written.
    """
    for e in range(len(clicked)):
        line = stored[e] if previous[e] < 0 else fingerprints[previous[e]]
        ranks[e] = 0
        for place in range(len(line)):
            if line[place] == clicked[e]:
                ranks[e] = place + 1
                break
