import math

import numpy as np
import pytest
import torch

from model.baselines.histories import Histories
from model.baselines.item_knn import ItemKNN, _Holdings
from model.clicks import Sessions
from tests.model.baselines.sessions_of_rows import fitted, sessions_of, shuffled

ITEMS = 15


def similarities_by_the_formula(sessions: Sessions, regularisation: float, balance: float) -> list[list[float]]:
    bounds = zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True)
    sets = [set(sessions.items[start:stop].tolist()) for start, stop in bounds]
    support = [sum(row in held for held in sets) for row in range(ITEMS)]
    return [
        [
            sum({i, j} <= held for held in sets)
            / ((support[i] + regularisation) ** balance * (support[j] + regularisation) ** (1 - balance))
            if i != j
            else 0.0
            for j in range(ITEMS)
        ]
        for i in range(ITEMS)
    ]


@pytest.mark.parametrize(("regularisation", "balance"), [(20.0, 0.5), (1.0, 1.0), (3.0, 0.3)])
def test_similarities_equal_the_formula(regularisation: float, balance: float) -> None:
    sessions = shuffled(ITEMS, sessions=60, seed=1)
    baseline = fitted("item-knn", sessions, ITEMS, regularisation=regularisation, balance=balance)
    found = baseline.score(Histories.of([[row] for row in range(ITEMS)]))
    expected = torch.tensor(similarities_by_the_formula(sessions, regularisation, balance))
    torch.testing.assert_close(found, expected)


def test_only_the_nearest_neighbours_are_kept() -> None:
    sessions = shuffled(ITEMS, sessions=60, seed=1)
    every_row = Histories.of([[row] for row in range(ITEMS)])
    whole = fitted("item-knn", sessions, ITEMS).score(every_row)
    cut = fitted("item-knn", sessions, ITEMS, neighbours=3).score(every_row)
    assert (cut > 0).sum(dim=1).tolist() == [3] * ITEMS
    torch.testing.assert_close(cut.topk(3).values, whole.topk(3).values)


def test_a_session_counts_once_however_often_it_clicks_an_item() -> None:
    baseline = fitted("item-knn", sessions_of([[0, 1, 0, 1], [0, 2]]), 3, regularisation=0.0)
    assert baseline.score(Histories.of([[0]])).tolist()[0] == pytest.approx([0, 1 / math.sqrt(2), 1 / math.sqrt(2)])


def test_items_that_never_met_another_are_fitted_and_score_nothing() -> None:
    baseline = fitted("item-knn", sessions_of([[0, 0], [1, 1]]), 3)
    assert baseline.score(Histories.of([[0], [2]])).tolist() == [[0, 0, 0]] * 2


def test_blocks_hold_every_item_once_and_no_more_meetings_than_asked() -> None:
    held = _Holdings.of(shuffled(ITEMS, sessions=60, seed=1), ITEMS)
    whole = held.meetings(0, ITEMS)
    for most in (1, 100, 500, 10**6):
        blocks = list(held.blocks(most))
        assert [row for start, stop in blocks for row in range(start, stop)] == list(range(ITEMS))
        parts = [held.meetings(start, stop) for start, stop in blocks]
        for column, expected in enumerate(whole):
            assert np.concatenate([part[column] for part in parts]).tolist() == expected.tolist()
    assert len(list(held.blocks(1))) == ITEMS
    assert len(list(held.blocks(10**6))) == 1


def test_neighbours_that_are_no_items_are_refused() -> None:
    baseline = fitted("item-knn", shuffled(ITEMS, sessions=60, seed=1), ITEMS)
    tensors = baseline.to_tensors()
    with pytest.raises(ValueError, match="'neighbours' must hold values from 0 to 14"):
        ItemKNN.from_tensors(baseline.settings, tensors | {"neighbours": tensors["neighbours"] + ITEMS})
    with pytest.raises(ValueError, match="'neighbours' is not cut into spans"):
        ItemKNN.from_tensors(baseline.settings, tensors | {"offsets": tensors["offsets"] + 1})
