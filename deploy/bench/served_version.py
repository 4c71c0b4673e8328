"""The version that a measured worker serves."""

import time
from collections.abc import Mapping

import numpy as np
import torch
from confluent_kafka import Producer

from deploy.click_generator import generate_clicks
from deploy.settings import Settings
from deploy.shop import Shop
from model.announcements import SERVING_KEY, Announcement
from model.clicks import sessionise
from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.optimizer import SparseAdagrad
from model.registry import ModelVersion, Registry
from model.transitions import Transitions
from model.vocabulary import Vocabulary
from trainer.fine_tune import train
from trainer.learner import as_rows
from trainer.settings import TrainerSettings

LEARNED_CLICKS = 200_000
VERSION = "bench"


def trained_version(hidden: int, shop: Shop, *, companion: bool, seed: int) -> ModelVersion:
    """Return a version of the asked-for size that has learned from clicks of its own, as the versions of a shop have.

    What a search costs depends on the weights: with random ones twice as many items come near the best.

    Args:
        hidden: Width of the hidden vector and of the item vectors.
        shop: What it knows the items of, and where the clicks come from.
        companion: Whether it has one.
        seed: Of weights and clicks.
    """
    shape = GRU4RecSettings(embedding_size=hidden, hidden_sizes=(hidden,))
    settings = TrainerSettings(companion=companion)
    draws = torch.Generator().manual_seed(seed)
    network, vocabulary = GRU4Rec.initialised(shape, len(shop.item_ids), draws), Vocabulary(shop.item_ids)
    table = generate_clicks(shop, LEARNED_CLICKS, np.random.default_rng((seed, LEARNED_CLICKS)))
    sessions = as_rows(sessionise(table, minimum_length=2), table.item_ids, vocabulary)
    optimizer = SparseAdagrad(settings.learning_rate, settings.momentum, accumulator=settings.accumulator)
    train(network, optimizer, sessions, settings, epochs=1, generator=draws)
    transitions = Transitions(len(vocabulary))
    transitions.add(sessions)
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
