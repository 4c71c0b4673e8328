"""The version that a measured worker serves."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from confluent_kafka import Producer

from deploy.settings import Settings
from model.announcements import SERVING_KEY, Announcement
from model.clicks import ClickTable, sessionise
from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.registry import ModelVersion, Registry
from model.transitions import Transitions
from model.vocabulary import Vocabulary

VERSION = "bench"


def untrained_version(
    hidden: int, item_ids: Sequence[str], table: ClickTable, *, companion: bool, seed: int
) -> ModelVersion:
    """Return a version of the asked-for size, untrained as arithmetic does not mind the weights, with real counts.

    Args:
        hidden: Width of the hidden vector and of the item vectors.
        item_ids: What it knows.
        table: Clicks that are counted for its companion.
        companion: Whether it has one.
        seed: Of the weights.
    """
    shape = GRU4RecSettings(embedding_size=hidden, hidden_sizes=(hidden,))
    network = GRU4Rec.initialised(shape, len(item_ids), torch.Generator().manual_seed(seed))
    vocabulary, transitions = Vocabulary(item_ids), Transitions(len(item_ids))
    sessions = sessionise(table)
    transitions.add(replace(sessions, items=vocabulary.rows(table.item_ids)[sessions.items]))
    return ModelVersion(
        VERSION,
        None,
        network,
        vocabulary,
        created_at_ms=time.time_ns() // 1_000_000,
        companion=Companion(transitions.neighbours(), Mixing()) if companion else None,
        transitions=transitions if companion else None,
    )


def publish(version: ModelVersion, registry: Registry, settings: Settings, connection: Mapping[str, str]) -> None:
    """Write a version and announce it."""
    registry.write(version)
    announce(version.version, registry, settings, connection)


def announce(name: str, registry: Registry, settings: Settings, connection: Mapping[str, str]) -> None:
    """Make a version of the registry serve."""
    announcement = Announcement(
        name, registry.location(name), registry.manifest_sha256(name), "promote", {}, time.time_ns() // 1_000_000
    )
    producer = Producer({**connection, "acks": "all"})
    producer.produce(settings.topics.models, announcement.encode(), SERVING_KEY)
    producer.flush()
