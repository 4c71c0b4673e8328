"""What goes with a network when it answers: pair counts ready to serve, and what each part of the mixture is worth.

How they are mixed is in `model.mixing`; this file needs no compiler, so that reading a version does not either.

Shape letters: S sessions, L clicks of a history.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from model.transitions import Neighbours

HISTORY = 20
"""L, the newest clicks of a session that the mixture looks at: what a session record holds."""


@dataclass(frozen=True)
class Mixing:
    """What each part is worth; the defaults are mild enough to help any shop looked at (see DECISIONS.md).

    Attributes:
        temper: Factor of the network's scores before the softmax.
        forward: Weight of what followed the session's items elsewhere.
        backward: Weight of what came before them.
        last: Added for the item clicked last, beside `repeat`; may be as low as -repeat.
        repeat: Weight of an item of the session.
        fade: What a repeat keeps with each click since.
    """

    temper: float = 1.0
    forward: float = 0.1
    backward: float = 0.1
    last: float = 0.0
    repeat: float = 0.05
    fade: float = 0.8

    def __post_init__(self) -> None:
        if not all(np.isfinite(value) for value in asdict(self).values()):
            raise ValueError(f"every weight must be finite: {self}")
        if self.temper <= 0 or not 0 <= self.fade <= 1:
            raise ValueError(f"temper must be above 0 and fade in [0, 1]: {self}")
        if min(self.forward, self.backward, self.repeat) < 0 or self.last < -self.repeat:
            raise ValueError(f"no item may lose by the companion: {self}")

    @classmethod
    def of(cls, weights: dict[str, float]) -> "Mixing":
        """Return the mixing of these weights by name.

        Raises:
            ValueError: One is missing, unknown or not allowed.
        """
        names = {field.name for field in fields(cls)}
        if set(weights) != names:
            raise ValueError(f"expected the mixing weights {sorted(names)}, got {sorted(weights)}")
        return cls(**weights)

    def to_dict(self) -> dict[str, float]:
        """Return what `of` reads."""
        return asdict(self)

    def as_array(self) -> NDArray[np.float64]:
        """Return the weights in the order of the attributes, float64 [6]."""
        weights = self.temper, self.forward, self.backward, self.last, self.repeat, self.fade
        return np.array(weights, dtype=np.float64)


@dataclass(frozen=True)
class Companion:
    """The companion of one version.

    Attributes:
        neighbours: Of the version's first items; items after them have none.
        mixing: What each part is worth, fitted when the version was made.
    """

    neighbours: Neighbours
    mixing: Mixing


def histories_of(sessions: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Return the newest rows of each session, the last in the last column, -1 before the first: int64 [S, L]."""
    table = np.full((len(sessions), HISTORY), -1, dtype=np.int64)
    for line, rows in zip(table, sessions, strict=True):
        newest = rows[-HISTORY:]
        line[HISTORY - len(newest) :] = newest
    return table
