import numpy as np
import torch

from model.clicks import Sessions
from model.companion import Mixing
from model.gru4rec import GRU4Rec
from model.gru4rec_settings import GRU4RecSettings
from model.transitions import Neighbours, Transitions
from trainer.companion_scorer import CompanionScorer, fit_mixing, histories_at
from trainer.evaluate import NetworkScorer

ITEMS = 30


def ring(sessions: int, seed: int) -> Sessions:
    """Each item is followed by the next one of the ring."""
    starts = np.random.default_rng(seed).integers(0, ITEMS, sessions)
    offsets = np.arange(sessions + 1) * 4
    items = ((starts[:, None] + np.arange(4)) % ITEMS).ravel()
    return Sessions(items=items, offsets=offsets, start_ms=offsets[:-1], end_ms=offsets[:-1])


def untrained() -> NetworkScorer:
    settings = GRU4RecSettings(embedding_size=8, hidden_sizes=(8,))
    return NetworkScorer(GRU4Rec.initialised(settings, ITEMS, torch.Generator().manual_seed(0)))


def learned() -> Neighbours:
    transitions = Transitions(ITEMS)
    transitions.add(ring(200, 0))
    return transitions.neighbours()


def all_but_first(sessions: Sessions) -> np.ndarray:
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    return counted


def test_histories_end_at_their_click_and_stay_inside_their_session() -> None:
    sessions = ring(2, 1)
    found = histories_at(sessions, np.array([0, 2, 5]))
    assert found[:, :-3].max() == -1
    items = sessions.items.tolist()
    assert found[:, -3:].tolist() == [[-1, -1, items[0]], items[:3], [-1, *items[4:6]]]


def test_without_weights_the_scorer_ranks_as_the_network_alone() -> None:
    sessions, network = ring(20, 1), untrained()
    alone = Mixing(temper=1, forward=0, backward=0, last=0, repeat=0)
    scorer = CompanionScorer(network.network, learned(), alone)
    counted = all_but_first(sessions)
    expected = network.next_click_ranks(sessions, counted, "conservative")
    assert scorer.next_click_ranks(sessions, counted, "conservative").tolist() == expected.tolist()


def test_fitting_finds_weights_that_follow_the_pairs_and_finds_them_again() -> None:
    first = fit_mixing(untrained(), learned(), ring(50, 2), most_cases=100)
    assert first == fit_mixing(untrained(), learned(), ring(50, 2), most_cases=100)
    assert first.cases == 100
    assert first.mixture["mrr@20"] > 0.9 > first.network["mrr@20"]
