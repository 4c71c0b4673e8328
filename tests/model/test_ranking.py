import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.ranking import RankingMetrics, Ties, ranks


@given(
    scores=st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=1, max_size=6),
    target=st.integers(0, 4),
)
def test_ranks_equal_their_definition(scores: list[list[int]], target: int) -> None:
    given_scores, targets = torch.tensor(scores, dtype=torch.float32), torch.full((len(scores),), target)
    at_least = [sum(score >= row[target] for score in row) for row in scores]
    above = [sum(score > row[target] for score in row) + 1 for row in scores]
    assert ranks(given_scores, targets).tolist() == at_least
    assert ranks(given_scores, targets, "conservative").tolist() == at_least
    assert ranks(given_scores, targets, "standard").tolist() == above


def test_model_that_scores_all_items_alike_is_ranked_last_unless_asked_otherwise() -> None:
    scores, targets = torch.zeros(1, 100), torch.tensor([40])
    assert ranks(scores, targets).tolist() == [100]
    assert ranks(scores, targets, "standard").tolist() == [1]


@pytest.mark.parametrize("ties", ["conservative", "standard"])
def test_scores_that_are_not_numbers_never_flatter(ties: Ties) -> None:
    nan = math.nan
    scores = torch.tensor([[nan, 1.0, 2.0], [5.0, nan, 2.0], [nan, nan, nan]])
    assert ranks(scores, torch.tensor([0, 0, 0]), ties).tolist() == [3, 2, 3]


def test_metrics_equal_their_definition() -> None:
    metrics = RankingMetrics.from_ranks(np.array([1, 3, 21, 2]), ks=(1, 2, 20))
    assert metrics.cases == 4
    assert metrics.recall == {1: 1 / 4, 2: 2 / 4, 20: 3 / 4}
    assert metrics.hr == metrics.recall
    assert metrics.mrr == pytest.approx({1: 1 / 4, 2: 1.5 / 4, 20: (1 + 1 / 3 + 1 / 2) / 4})
    assert metrics.ndcg == pytest.approx(
        {1: 1 / 4, 2: (1 + 1 / math.log2(3)) / 4, 20: (1 + 1 / math.log2(3) + 0.5) / 4}
    )


def test_metrics_are_named_with_their_cut_off() -> None:
    named = RankingMetrics.from_ranks(torch.tensor([1, 4]), ks=(2,)).to_dict()
    assert named == {"recall@2": 0.5, "hr@2": 0.5, "mrr@2": 0.5, "ndcg@2": 0.5}


def test_no_cases_give_zeros() -> None:
    metrics = RankingMetrics.from_ranks(np.array([], dtype=np.int64), ks=(20,))
    assert (metrics.cases, metrics.recall, metrics.mrr) == (0, {20: 0.0}, {20: 0.0})
