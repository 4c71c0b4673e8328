"""Between two rounds: count what came since and append new items, without training.

It takes the time of counting the newest clicks, so new items can be recommended within seconds of their first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from model.refresh import Refresh
from model.registry import ModelVersion
from model.transitions import Neighbours
from trainer.learner import as_rows, in_order_of_appearance, with_new_items
from trainer.selection import Lesson


def refreshed(
    base: ModelVersion,
    lesson: Lesson,
    item_ids: list[str],
    *,
    name: str,
    read_until: Mapping[int, int],
    now_ms: int,
    appended: Sequence[str] = (),
) -> Refresh | None:
    """Return what the clicks of a lesson change about a version; None where they change nothing.

    A new item starts where a round would start it, see `trainer.learner.Learner.grown`.

    Args:
        base: Loaded with its counts.
        lesson: The clicks that it has not learned, with those that lead up to them; of codes.
        item_ids: What the codes mean.
        name: Of the refresh.
        read_until: See `Refresh`.
        now_ms: Wall clock.
        appended: What an earlier refresh of the same version has appended.

    Raises:
        ValueError: The version was loaded without counts, or has none.
    """
    if base.transitions is None:
        raise ValueError(f"version {base.version} was loaded without its counts, or has no companion")
    if not len(lesson.sessions):
        return None
    new_ids = [*appended, *in_order_of_appearance(lesson.sessions, item_ids)]
    generator = torch.Generator().manual_seed(base.created_at_ms % 2**63)  # the same vectors in every refresh
    network, vocabulary = with_new_items(
        base.network, base.vocabulary, new_ids, sessions=lesson.sessions, item_ids=item_ids, generator=generator
    )
    sessions = as_rows(lesson.sessions, item_ids, vocabulary)
    rows = np.unique(np.concatenate([sessions.items, np.arange(len(base.vocabulary), len(vocabulary))]))
    counts = base.transitions.around(rows[rows < len(base.vocabulary)])
    counts.grow(len(vocabulary))
    counts.add(sessions, lesson.is_new)
    return Refresh(
        name=name,
        base=base.version,
        item_ids=vocabulary.item_ids[len(base.vocabulary) :],
        vectors={table: vectors[len(base.vocabulary) :] for table, vectors in network.item_tables.items()},
        rows=rows,
        # Of other items that were copied only some pairs are there.
        neighbours=Neighbours.none(len(vocabulary)).replaced(rows, counts.neighbours()),
        read_until=dict(read_until),
        created_at_ms=now_ms,
    )
