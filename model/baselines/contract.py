"""The contract of the systems that GRU4Rec is compared with.

All of them are fitted on sessions of rows and answer a batch of histories along one line: a history is encoded (as a
vector, or as the few items that it speaks for), all items are scored, the k best are returned. All of them become
tensors and settings, and come back from them, so that a registry can keep them without knowing which one it holds.

Shape letters: B histories, N items, D width of a vector, e sparse scores, k items asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.baselines.histories import Histories
from model.clicks import Sessions
from model.top_k import top_k

OnProgress = Callable[[int, int], None]
"""Told now and then how many of how many steps are done."""

_MOST_SCORES = 1 << 22  # 16 MiB of float32 at a time, as in serving


def silent(_done: int, _total: int) -> None:
    """Report no progress."""


class Baseline(ABC):
    """A fitted recommender. Immutable: its tensors must not be changed.

    Attributes:
        kind: The name under which it is kept, never reused for another.
        settings_type: A frozen dataclass of plain values, every one with a default; it checks itself.
        window: How many of a history's last rows it looks at; None for all.
        settings: What it was fitted with.
        item_count: N.
    """

    kind: ClassVar[str]
    settings_type: ClassVar[type[Any]]
    window: int | None
    settings: Any
    item_count: int

    @classmethod
    @abstractmethod
    def fit(
        cls,
        sessions: Sessions,
        item_count: int,
        settings: Any,
        generator: torch.Generator,
        on_progress: OnProgress = silent,
    ) -> Self:
        """Learn from sessions.

        Args:
            sessions: Of rows, all of them known: 0 <= row < `item_count`.
            item_count: N.
            settings: Of `settings_type`.
            generator: Source of every random choice; what is learnt by gradient comes to lie on its device. Equal
                generators and sessions give equal results on the CPU.
            on_progress: See `OnProgress`.

        Raises:
            ValueError: A row is unknown, or no session has two clicks.
        """

    @abstractmethod
    def score(self, histories: Histories) -> Tensor:
        """Return the scores of all items after each history, float32 [B, N]; the better, the higher.

        An empty history is answered with what is known without one, at worst with equal scores.
        """

    @abstractmethod
    def to_tensors(self) -> dict[str, Tensor]:
        """Return all that was learnt, by name; together with the settings enough for `from_tensors`."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, settings: Any, tensors: Mapping[str, Tensor]) -> Self:
        """Build what `to_tensors` took apart; it answers as before. The tensors are kept, not copied.

        Raises:
            ValueError: A tensor is missing, unexpected, or of a wrong shape or type; the message names it.
        """

    def top_k(self, histories: Histories, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the best rows and their scores, each [B, min(k, N)], best first, by a search over all items.

        Among equal scores any may be kept.
        """
        k = min(k, self.item_count)
        rows = np.empty((len(histories), k), dtype=np.int32)
        scores = np.empty((len(histories), k), dtype=np.float32)
        start = 0
        for block in histories.blocks(max(1, _MOST_SCORES // self.item_count)):
            best, columns = top_k(self.score(block), k)
            scores[start : start + len(block)] = best.cpu().numpy()
            rows[start : start + len(block)] = columns.cpu().numpy()
            start += len(block)
        return rows, scores


class VectorBaseline(Baseline):
    """A baseline that compares a history's vector with a vector of every item."""

    @abstractmethod
    def encode(self, histories: Histories) -> Tensor:
        """Return a vector for each history, float32 [B, D]."""

    @property
    @abstractmethod
    def item_vectors(self) -> Tensor:
        """float32 [N, D]."""

    @property
    def item_bias(self) -> Tensor | None:
        """float32 [N], added to the scores, or None."""
        return None

    @torch.no_grad()
    def score(self, histories: Histories) -> Tensor:
        """See `Baseline`: the products of the history's vector with all items' vectors, plus their bias."""
        query, table = self.encode(histories), self.item_vectors.T
        return query @ table if self.item_bias is None else torch.addmm(self.item_bias, query, table)


def mean_vectors(table: Tensor, histories: Histories) -> Tensor:
    """Return the mean vector of each history's rows, float32 [B, D]; zeros for an empty one.

    Args:
        table: A vector of every item, float32 [N, D].
        histories: Of these items.
    """
    sums = table.new_zeros(len(histories), table.shape[1])
    taken = table.index_select(0, torch.from_numpy(histories.rows).to(table.device))
    sums.index_add_(0, torch.from_numpy(histories.owners).to(table.device), taken)
    return sums / torch.from_numpy(np.maximum(histories.lengths, 1)).to(table.device).unsqueeze(1)


@dataclass(frozen=True)
class SparseScores:
    """Scores other than zero; an item that occurs twice in a history counts twice.

    Attributes:
        histories: int64 [e], place of the history.
        rows: int64 [e]
        values: float64 [e]
    """

    histories: NDArray[np.int64]
    rows: NDArray[np.int64]
    values: NDArray[np.float64]


class SparseBaseline(Baseline):
    """A baseline that speaks for a few items after each history; all others score zero."""

    @abstractmethod
    def speak_for(self, histories: Histories) -> SparseScores:
        """Return the scores that are not zero."""

    def score(self, histories: Histories) -> Tensor:
        """See `Baseline`; on the CPU."""
        found = self.speak_for(histories)
        scores = torch.zeros(len(histories) * self.item_count)
        cell = torch.from_numpy(found.histories * self.item_count + found.rows)
        scores.index_add_(0, cell, torch.from_numpy(found.values.astype(np.float32)))
        return scores.view(len(histories), self.item_count)


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Return plain JSON values that `settings_from_dict` reads back."""
    values: dict[str, Any] = msgspec.to_builtins(settings)
    return values


def settings_from_dict(baseline: type[Baseline], values: Mapping[str, Any]) -> Any:
    """Read the settings of a baseline.

    Raises:
        ValueError: A name is unknown, or a value is of the wrong type or out of range.
    """
    unknown = sorted(values.keys() - {field.name for field in fields(baseline.settings_type)})
    if unknown:
        raise ValueError(f"{baseline.kind} has no setting {', '.join(unknown)}")
    try:
        return msgspec.convert(dict(values), type=baseline.settings_type)
    except msgspec.ValidationError as error:
        raise ValueError(f"these are not settings of {baseline.kind}: {error}") from error


def require_sessions(sessions: Sessions, item_count: int) -> None:
    """Check what `Baseline.fit` asks of its sessions.

    Raises:
        ValueError: See there.
    """
    rows = sessions.items
    if len(rows) and not 0 <= rows.min() <= rows.max() < item_count:
        raise ValueError(f"rows must be 0 to {item_count - 1}, got {rows.min()} to {rows.max()}; drop unknown items")
    if sessions.lengths.max(initial=0) <= 1:
        raise ValueError(f"{len(rows)} clicks hold no session of two clicks or more: nothing to learn from")


Shape = tuple[int | None, ...]


def require_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[Shape, torch.dtype]]) -> None:
    """Check tensors against the names, shapes and types expected; None in a shape stands for any size.

    Raises:
        ValueError: One is missing, unexpected or otherwise; the message names it.
    """
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"the tensor {name!r} is {'missing' if name in expected else 'unexpected'}")
    for name, (shape, dtype) in expected.items():
        found = tensors[name]
        fits = len(found.shape) == len(shape) and all(
            size in (None, there) for size, there in zip(shape, found.shape, strict=True)
        )
        if not fits or found.dtype != dtype:
            raise ValueError(
                f"the tensor {name!r} must be {dtype} {list(shape)}, got {found.dtype} {list(found.shape)}"
            )


def require_ragged(name: str, offsets: NDArray[np.int64], values: NDArray[np.int64], limit: int) -> None:
    """Check that offsets cut the values into spans and that the values are places below `limit`.

    Raises:
        ValueError: They do not; the message names the tensor.
    """
    cuts = len(offsets) > 0 and offsets[0] == 0 and offsets[-1] == len(values) and bool((np.diff(offsets) >= 0).all())
    if not cuts:
        raise ValueError(f"the tensor {name!r} is not cut into spans by its offsets")
    if len(values) and not 0 <= values.min() <= values.max() < limit:
        raise ValueError(f"the tensor {name!r} must hold values from 0 to {limit - 1}")
