"""What came since a version was made, counted but not trained on: a change to that version, small and quickly made.

New items get rows, and items of the newest clicks new neighbours; no weight of the version changes, so the states of
sessions stay what they are.

Shape letters: N items of the version, A appended ones, R rows with new neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.companion import Companion
from model.registry import ModelVersion
from model.transitions import Neighbours
from model.vocabulary import Vocabulary


@dataclass(frozen=True)
class Refresh:
    """A change to one version, from what was read since; a newer one of the same version replaces it whole.

    Attributes:
        name: Its own name.
        base: The version that it changes.
        item_ids: Ids of the appended items, in row order; a newer refresh of the same version begins with the same.
        vectors: Rows of the appended items, by the name of the network's table, float32 [A, ...].
        rows: int64 [R], rising: whose neighbours it replaces.
        neighbours: Of N + A items; only `rows` have any.
        read_until: For each partition of the clicks topic, the first offset that it has not counted.
        created_at_ms: Milliseconds since the Unix epoch, UTC.
    """

    name: str
    base: str
    item_ids: list[str]
    vectors: Mapping[str, Tensor]
    rows: NDArray[np.int64]
    neighbours: Neighbours
    read_until: dict[int, int]
    created_at_ms: int

    def applied_to(self, version: ModelVersion) -> ModelVersion:
        """Return the version as it serves from then on, under its own name, without what only training needs.

        Raises:
            ValueError: It is not the version that this is a change to, has no companion, or does not fit.
        """
        if version.version != self.base or version.companion is None:
            raise ValueError(f"a change to version {self.base} and its companion, not to {version.version}")
        vocabulary = Vocabulary([*version.vocabulary.item_ids, *self.item_ids])
        network = version.network
        if self.item_ids:
            network = network.with_items(len(vocabulary), vectors=self.vectors)
        if self.neighbours.item_count != len(vocabulary):
            raise ValueError(f"neighbours of {self.neighbours.item_count} items, and there are {len(vocabulary)}")
        neighbours = version.companion.neighbours.replaced(self.rows, self.neighbours)
        return replace(
            version,
            network=network,
            vocabulary=vocabulary,
            companion=Companion(neighbours, version.companion.mixing),
            optimizer_state={},
            transitions=None,
        )
