from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.clicks import Click, Sessions, read_clicks, sessionise, split_table
from model.gru4rec import GRU4Rec
from model.ranking import UNRANKED
from model.vocabulary import Vocabulary
from tests.trainer.click_builders import SMALL, cyclic_clicks, shuffled_clicks, table_of
from trainer.evaluate import evaluate
from trainer.fit import fit
from trainer.protocols import Protocol
from trainer.scorers import NetworkScorer, PopularityScorer
from trainer.settings import TrainerSettings

ITEMS = [f"item-{number}" for number in range(30)]


def sessions_of_rows(generator: np.random.Generator, *, sessions: int, clicks: int) -> Sessions:
    return sessionise(table_of(shuffled_clicks(ITEMS, generator, sessions=sessions, clicks=clicks)))


def all_but_first(sessions: Sessions) -> NDArray[np.bool_]:
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    return counted


def ranks_one_by_one(network: GRU4Rec, sessions: Sessions, counted: NDArray[np.bool_]) -> list[int]:
    """Play every session alone, click by click, as the definition says."""
    table, found = network.input_table, []
    for session in range(len(sessions)):
        state, x = torch.zeros(1, network.state_width), None
        for place in range(sessions.offsets[session], sessions.offsets[session + 1]):
            row = int(sessions.items[place])
            is_known = 0 <= row < network.item_count
            if counted[place]:
                if x is None or not is_known:
                    found.append(int(UNRANKED))
                else:
                    scores = network.score_all(network.query(state, x))[0]
                    found.append(int((scores >= scores[row]).sum()))
            if is_known:
                x = table[row : row + 1]
                state = network.advance(x, state)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"item_input": "separate"},
        {"item_input": "one_hot", "skip": False},
        {"item_input": "one_hot", "skip": False, "hidden_sizes": (12, 16), "reset_gate": "after"},
        {"activation": "tanh"},
    ],
    ids=str,
)
def test_batched_ranks_equal_those_of_sessions_played_one_by_one(changes: dict[str, object]) -> None:
    generator = np.random.default_rng(0)
    network = GRU4Rec.initialised(SMALL.model_copy(update=changes).network(), 25, torch.Generator().manual_seed(0))
    sessions = sessions_of_rows(
        generator, sessions=300, clicks=6
    )  # more than one chunk, of 30 rows of which 25 are known
    sessions.items[generator.random(len(sessions.items)) < 0.1] = -1
    counted = all_but_first(sessions) & (generator.random(len(sessions.items)) < 0.7)
    found = NetworkScorer(network).next_click_ranks(sessions, counted, "conservative")
    expected = ranks_one_by_one(network, sessions, counted)
    assert UNRANKED in expected
    assert found.tolist() == expected


def test_sessions_of_different_lengths_keep_their_ranks_in_order() -> None:
    network = GRU4Rec.initialised(SMALL.network(), 30, torch.Generator().manual_seed(0))
    lengths = [2, 7, 3, 5, 9, 2]
    clicks = [
        Click(f"s{session}", ITEMS[(session * 5 + step * 7) % 30], session * 1000 + step)
        for session, length in enumerate(lengths)
        for step in range(length)
    ]
    sessions = sessionise(table_of(clicks))
    found = NetworkScorer(network).next_click_ranks(sessions, all_but_first(sessions), "conservative")
    assert found.tolist() == ranks_one_by_one(network, sessions, all_but_first(sessions))


@pytest.mark.parametrize(("ties", "expected"), [("conservative", [1, 3, 3, 4]), ("standard", [1, 2, 2, 4])])
def test_popularity_ranks_by_count_with_ties_as_asked(
    ties: Literal["conservative", "standard"], expected: list[int]
) -> None:
    sessions = Sessions(np.array([0, 0, 1, 2, 3, 9]), np.array([0, 6]), np.array([0]), np.array([0]))
    found = PopularityScorer(np.array([8, 5, 5, 1])).next_click_ranks(sessions, all_but_first(sessions), ties)
    assert found.tolist() == [*expected, UNRANKED]


def test_clicks_on_unknown_items_are_dropped_before_cases_are_counted() -> None:
    network = GRU4Rec.initialised(SMALL.network(), 3, torch.Generator().manual_seed(0))
    test = table_of(
        [Click("s", item, time) for time, item in enumerate(["A", "new", "B", "C"])]
        + [Click("t", item, time) for time, item in enumerate(["new", "A"])]
    )
    found = evaluate(network, Vocabulary("ABC"), Protocol(test, test, last_only=False), ks=(1, 3))
    assert found["gru4rec"]["cases"] == found["popularity"]["cases"] == 2
    assert found["gru4rec"]["recall@3"] == 1.0


def test_a_fitted_version_evaluates_far_above_popularity_on_clicks_with_an_order() -> None:
    train = table_of(cyclic_clicks(ITEMS, sessions=300))
    test = table_of(cyclic_clicks(ITEMS, sessions=60, start_ms=10**9))
    version, report = fit(train, SMALL, version="v", created_at_ms=5)
    found = evaluate(version.network, version.vocabulary, Protocol(train, test, last_only=False), ks=(1,))
    assert found["gru4rec"]["recall@1"] == 1.0
    assert found["popularity"]["recall@1"] < 0.1
    assert (version.version, version.parent, version.created_at_ms) == ("v", None, 5)
    assert report.is_complete


def test_a_table_without_a_next_click_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="no session of two clicks"):
        fit(table_of([Click("s", "A", 0), Click("t", "B", 1)]), SMALL, version="v", created_at_ms=0)


def test_one_epoch_on_real_clicks_is_far_above_popularity(data_file: Callable[[str], Path]) -> None:
    train, test = split_table(read_clicks(data_file("rsc15_100k.parquet")), "days:1")
    version, _ = fit(train, TrainerSettings(epochs_first=1), version="v", created_at_ms=0)
    found = evaluate(version.network, version.vocabulary, Protocol(train, test, last_only=False), ks=(20,))
    assert found["gru4rec"]["cases"] > 10_000
    assert found["popularity"]["recall@20"] < 0.10
    assert found["gru4rec"]["recall@20"] > 0.64
    assert found["gru4rec"]["mrr@20"] > 0.32
