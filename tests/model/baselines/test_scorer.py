from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.baselines.fpmc import FPMC, FPMCSettings
from model.baselines.histories import Histories
from model.baselines.kinds import BASELINES
from model.baselines.scorer import BaselineScorer
from model.clicks import Sessions, read_clicks, sessionise, split_table
from model.ranking import UNRANKED, RankingMetrics, Ties, ranks
from model.vocabulary import Vocabulary
from tests.model.baselines.sessions_of_rows import fitted, sessions_of, shuffled
from trainer.learner import as_rows
from trainer.protocols import known_sessions
from trainer.scorers import PopularityScorer, Scorer

ITEMS = 10


def all_but_first(sessions: Sessions) -> np.ndarray[Any, np.dtype[np.bool_]]:
    counted = np.ones(len(sessions.items), dtype=np.bool_)
    counted[sessions.offsets[:-1]] = False
    return counted


def ranks_one_by_one(scorer: BaselineScorer, sessions: Sessions, counted: np.ndarray[Any, Any]) -> list[int]:
    """Ask for every click alone, as the definition says."""
    found = []
    for session in range(len(sessions)):
        for place in range(sessions.offsets[session], sessions.offsets[session + 1]):
            if not counted[place]:
                continue
            before = sessions.items[sessions.offsets[session] : place]
            history = [row for row in before.tolist() if 0 <= row < ITEMS]
            target = int(sessions.items[place])
            if not history or not 0 <= target < ITEMS:
                found.append(UNRANKED)
                continue
            scores = scorer.baseline.score(Histories.of([history]))
            found.append(int(ranks(scores, torch.tensor([target]))))
    return found


@pytest.mark.parametrize("kind", ["popularity", "item-knn", "vmis-knn", "fpmc"])
def test_ranks_of_whole_sessions_equal_those_asked_for_one_by_one(kind: str) -> None:
    """Among them are unknown rows of both sorts, and clicks before any known one."""
    scorer = BaselineScorer(fitted(kind, shuffled(ITEMS, sessions=60, seed=0), ITEMS))
    generator = np.random.default_rng(0)
    sessions = sessions_of([generator.integers(-1, ITEMS + 2, size=length).tolist() for length in [1, 2, 5, 9] * 10])
    counted = all_but_first(sessions) & (generator.random(len(sessions.items)) < 0.8)
    expected = ranks_one_by_one(scorer, sessions, counted)
    assert UNRANKED in expected
    assert scorer.next_click_ranks(sessions, counted, "conservative").tolist() == expected


@pytest.mark.parametrize("ties", ["conservative", "standard"])
def test_popularity_ranks_as_the_scorer_of_counts_does(ties: Ties) -> None:
    sessions = shuffled(ITEMS, sessions=60, seed=0)
    by_counts: Scorer = PopularityScorer(np.bincount(sessions.items, minlength=ITEMS))
    by_baseline: Scorer = BaselineScorer(fitted("popularity", sessions, ITEMS))
    counted = all_but_first(sessions)
    expected = by_counts.next_click_ranks(sessions, counted, ties)
    assert by_baseline.next_click_ranks(sessions, counted, ties).tolist() == expected.tolist()


def test_no_clicks_are_ranked_where_none_is_counted() -> None:
    scorer = BaselineScorer(fitted("item-knn", shuffled(ITEMS, sessions=60, seed=0), ITEMS))
    for sessions in (sessions_of([[1, 2]]), sessions_of([])):
        nothing = np.zeros(len(sessions.items), dtype=np.bool_)
        assert scorer.next_click_ranks(sessions, nothing, "conservative").tolist() == []


def test_users_reach_a_baseline_that_knows_them() -> None:
    sessions = sessions_of([[0, 1 + user // 5] for user in range(10)] * 20)
    users = np.tile(np.arange(10), 20)
    settings = FPMCSettings(factors=8, learning_rate=0.1, epochs=60, batch_size=16)
    fpmc = FPMC.fit(sessions, 4, settings, torch.Generator().manual_seed(0), users=users)
    found = BaselineScorer(fpmc, users).next_click_ranks(sessions, all_but_first(sessions), "conservative")
    assert found.max() == 1


@pytest.mark.parametrize(
    ("kind", "recall", "mrr"),
    [("popularity", 0.08, 0.02), ("item-knn", 0.40, 0.18), ("vmis-knn", 0.67, 0.35), ("fpmc", 0.55, 0.27)],
)
def test_next_clicks_of_a_real_day_are_found_as_often_as_measured(
    data_file: Callable[[str], Path], kind: str, recall: float, mrr: float
) -> None:
    train, test = split_table(read_clicks(data_file("rsc15_100k.parquet")), "days:1")
    sessions = sessionise(train, minimum_length=2)
    vocabulary = Vocabulary([train.item_ids[code] for code in np.unique(sessions.items)])
    learnt = as_rows(sessions, train.item_ids, vocabulary)
    settings = BASELINES[kind].settings_type(**({"epochs": 10} if kind == "fpmc" else {}))
    baseline = BASELINES[kind].fit(learnt, len(vocabulary), settings, torch.Generator().manual_seed(0))
    asked = known_sessions(test, vocabulary, 30 * 60 * 1000)
    found = BaselineScorer(baseline).next_click_ranks(asked, all_but_first(asked), "conservative")
    metrics = RankingMetrics.from_ranks(found, (20,))
    assert metrics.cases > 10_000
    assert metrics.recall[20] > recall
    assert metrics.mrr[20] > mrr
