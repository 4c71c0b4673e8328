"""Small versions, clicks and records that the stream tests start from."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.announcements import Action, Announcement
from model.clicks import Click, Sessions, encode_click
from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.recommender import Recommender
from model.registry import ModelVersion, Registry
from model.transitions import Transitions
from model.vocabulary import Vocabulary
from stream.records import SourceRecord
from stream.session import NO_HIDDEN, Session

NOW_MS = 1_790_000_000_000
IDLE_MS = 30 * 60 * 1000
ITEMS = [f"item-{row}" for row in range(12)]
SHAPE = GRU4RecSettings(embedding_size=6, hidden_sizes=(5, 6))
SEEDS = {"v1": 1, "v2": 2, "v3": 3}


def network(item_count: int, seed: int) -> GRU4Rec:
    """Return a random network whose answers differ clearly from session to session."""
    small = GRU4Rec.initialised(SHAPE, item_count, torch.Generator().manual_seed(seed))
    return GRU4Rec(SHAPE, {name: tensor * 2 for name, tensor in small.parameters.items()})


def counts(item_count: int, seed: int) -> Transitions:
    """Return the pair counts of random sessions."""
    offsets = np.arange(0, 61, 6)
    items = np.random.default_rng(seed).integers(0, item_count, 60)
    transitions = Transitions(item_count)
    transitions.add(Sessions(items=items, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1]))
    return transitions


def recommender(version: str = "v1", item_ids: Sequence[str] = ITEMS, *, with_companion: bool = False) -> Recommender:
    """Return a version in memory; each of v1, v2, v3 has weights of its own."""
    seed, items = SEEDS[version], len(item_ids)
    companion = Companion(counts(items, seed).neighbours(), Mixing()) if with_companion else None
    return Recommender(network(items, seed), Vocabulary(item_ids), version, companion=companion)


def write_version(
    registry: Registry,
    version: str,
    item_ids: Sequence[str] = ITEMS,
    *,
    parent: str | None = None,
    with_companion: bool = False,
) -> Announcement:
    """Write a version like `recommender` to a registry and return the announcement that promotes it."""
    seed, items = SEEDS[version], len(item_ids)
    transitions = counts(items, seed) if with_companion else None
    registry.write(
        ModelVersion(
            version=version,
            parent=parent,
            network=network(items, seed),
            vocabulary=Vocabulary(item_ids),
            created_at_ms=NOW_MS + seed,
            companion=Companion(transitions.neighbours(), Mixing()) if transitions else None,
            transitions=transitions,
        )
    )
    return announcement(registry, version)


def announcement(registry: Registry, version: str, action: Action = "promote") -> Announcement:
    """Return the announcement of a version as it lies in the registry."""
    return Announcement(
        version, registry.location(version), registry.manifest_sha256(version), action, {}, NOW_MS + SEEDS[version]
    )


def record(
    offset: int,
    item_id: str = ITEMS[0],
    *,
    session_id: str = "s",
    partition: int = 0,
    event_ms: int = NOW_MS,
) -> SourceRecord:
    """Return a valid record of the clicks topic."""
    value = encode_click(Click(session_id, item_id, event_ms))
    return SourceRecord(partition, offset, event_ms, session_id.encode(), value)


def session(offset: int = 3, *, partition: int = 0, event_ms: int = NOW_MS) -> Session:
    """Return a session of two clicks that v1 answered."""
    found = Session(
        partition,
        offset,
        event_ms,
        clicks=2,
        version="v1",
        last_row=1,
        answer=np.array([7, 8, 9], np.uint32),
        hidden=np.array([0.5, -1.0], np.float32),
    )
    found.append_item("red")
    found.append_item("blaü")
    return found


def plain(found: Session) -> dict[str, object]:
    """Return everything a session carries in a form that compares with ==."""
    return {
        "partition": found.partition,
        "offset": found.offset,
        "event_ms": found.event_ms,
        "clicks": found.clicks,
        "items": found.items(),
        "version": found.version,
        "last_row": found.last_row,
        "answer": found.answer.tolist(),
        "hidden": found.hidden.tolist(),
    }


def encoded(version: Recommender | None, item_ids: Sequence[str]) -> NDArray[np.float32]:
    """Return the hidden vector after `item_ids`, from zero; empty where the version knows none of them."""
    rows = [] if version is None else [row for item in item_ids if (row := version.vocabulary.row(item)) >= 0]
    return version.encode([rows])[0] if version and rows else NO_HIDDEN
