"""What came since a version was made, counted but not trained on: a change to that version, small and quickly made.

New items get rows, and items of the newest clicks new neighbours; no weight of the version changes, so the states of
sessions stay what they are.

Shape letters: N items of the version, A appended ones, R rows with new neighbours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.companion import Companion
from model.registry import ModelVersion
from model.transitions import Neighbours

_SIDES = ("successor", "predecessor")
_VECTORS = "vectors."


@dataclass(frozen=True)
class Refresh:
    """A change to one version, from what was read since; a newer one of the same version replaces it whole.

    Attributes:
        name: Its own name.
        base: The version that it changes.
        item_ids: Ids of the appended items, in row order, which the next refresh of the version need not keep.
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
        vocabulary = version.vocabulary.extended(self.item_ids)
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

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all but the names, for a safetensors file: as much as there are appended items and `rows`."""
        tensors = {f"{_VECTORS}{table}": vectors for table, vectors in self.vectors.items()}
        neighbours = self.neighbours.to_tensors()
        for side in _SIDES:
            lengths = neighbours.pop(f"{side}_offsets").diff()
            neighbours[f"{side}_lengths"] = lengths[torch.from_numpy(self.rows)]
        return tensors | neighbours | {"rows": torch.from_numpy(self.rows.copy())}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], *, item_count: int, **described: Any) -> Self:
        """Read what `to_tensors` wrote.

        Args:
            tensors: By name.
            item_count: N + A.
            **described: The attributes that are no arrays.

        Raises:
            ValueError: They are not the arrays of a refresh of as many items.
        """
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items() if not name.startswith(_VECTORS)}
        sides = {f"{side}_{part}" for side in _SIDES for part in ("lengths", "rows", "shares")}
        if arrays.keys() != sides | {"rows"}:
            raise ValueError(f"expected {sorted(sides | {'rows'})}, got {sorted(arrays)}")
        rows = arrays.pop("rows")
        if rows.dtype != np.int64 or rows.ndim != 1 or (np.diff(rows, prepend=-1, append=item_count) <= 0).any():
            raise ValueError(f"rows must be int64 and rise between 0 and {item_count - 1}")
        for side in _SIDES:
            of_rows = arrays.pop(f"{side}_lengths")
            if of_rows.shape != rows.shape or of_rows.dtype != np.int64:
                raise ValueError(
                    f"expected int64 {side}_lengths of {len(rows)} rows, got {of_rows.dtype} {of_rows.shape}"
                )
            lengths = np.zeros(item_count, dtype=np.int64)
            lengths[rows] = of_rows
            arrays[f"{side}_offsets"] = np.concatenate([[0], np.cumsum(lengths)])
        vectors = {name.removeprefix(_VECTORS): tensor for name, tensor in tensors.items() if name.startswith(_VECTORS)}
        return cls(rows=rows, neighbours=Neighbours(**arrays), vectors=vectors, **described)
