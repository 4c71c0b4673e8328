"""What goes with a network when it answers: pair counts ready to serve, and what each part of the mixture is worth.

How they are mixed is in `model.mixing`; this file needs no compiler, so that reading a version does not either.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from model.transitions import Neighbours


@dataclass(frozen=True)
class Mixing:
    """What each part is worth; the defaults suit DIGINETICA, other shops need their own (see DECISIONS.md).

    Attributes:
        temper: Factor of the network's scores before the softmax.
        forward: Weight of what followed the session's items elsewhere.
        backward: Weight of what came before them.
        last: Added for the item clicked last, beside `repeat`; may be as low as -repeat.
        repeat: Weight of an item of the session.
        fade: What a repeat keeps with each click since.
    """

    temper: float = 1.15
    forward: float = 0.4
    backward: float = 0.4
    last: float = 0.05
    repeat: float = 0.2
    fade: float = 0.8

    def __post_init__(self) -> None:
        if not all(np.isfinite(value) for value in asdict(self).values()):
            raise ValueError(f"every weight must be finite: {self}")
        if self.temper <= 0 or not 0 <= self.fade <= 1:
            raise ValueError(f"temper must be above 0 and fade in [0, 1]: {self}")
        if min(self.forward, self.backward, self.repeat) < 0 or self.last < -self.repeat:
            raise ValueError(f"no item may lose by the companion: {self}")

    def as_array(self) -> NDArray[np.float64]:
        """Return the weights in the order of the attributes, float64 [6]."""
        return np.array(tuple(asdict(self).values()), dtype=np.float64)


@dataclass(frozen=True)
class Companion:
    """The companion of one version.

    Attributes:
        neighbours: Of the version's first items; items after them have none.
        mixing: What each part is worth, fitted when the version was made.
    """

    neighbours: Neighbours
    mixing: Mixing
