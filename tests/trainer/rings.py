"""Sessions that go round a ring of items, and what has learned from them."""

import numpy as np
import torch

from model.clicks import Sessions
from model.gru4rec import GRU4Rec
from model.gru4rec_settings import GRU4RecSettings
from model.transitions import Neighbours, Transitions
from trainer.scorers import NetworkScorer

ITEMS = 30


def ring(sessions: int, seed: int) -> Sessions:
    """Each item is followed by the next one of the ring."""
    starts = np.random.default_rng(seed).integers(0, ITEMS, sessions)
    offsets = np.arange(sessions + 1) * 4
    items = ((starts[:, None] + np.arange(4)) % ITEMS).ravel()
    return Sessions(items=items, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1])


def untrained(seed: int = 0) -> NetworkScorer:
    settings = GRU4RecSettings(embedding_size=8, hidden_sizes=(8,))
    return NetworkScorer(GRU4Rec.initialised(settings, ITEMS, torch.Generator().manual_seed(seed)))


def learned() -> Neighbours:
    transitions = Transitions(ITEMS)
    transitions.add(ring(200, 0))
    return transitions.neighbours()


def all_but_first(sessions: Sessions) -> np.ndarray:
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    return counted
