import pytest

from model.baselines.histories import Histories
from tests.model.baselines.sessions_of_rows import fitted, sessions_of

CLICKS = [[0, 1, 0], [2, 2, 2, 2], [1, 3]]


def test_popularity_of_all_time_counts_clicks() -> None:
    scores = fitted("popularity", sessions_of(CLICKS), 5).score(Histories.of([[], [3]]))
    assert scores.tolist() == [[2, 2, 4, 1, 0]] * 2


def test_a_click_counts_half_after_one_half_life_of_clicks() -> None:
    scores = fitted("popularity", sessions_of(CLICKS), 5, half_life_clicks=2.0).score(Histories.of([[]]))
    ages = {0: [8, 6], 1: [7, 1], 2: [5, 4, 3, 2], 3: [0], 4: []}
    expected = [sum(0.5 ** (age / 2) for age in ages[row]) for row in range(5)]
    assert scores[0].tolist() == pytest.approx(expected)


def test_clicks_of_the_session_come_before_any_popularity() -> None:
    baseline = fitted("popularity", sessions_of(CLICKS), 5, in_session=True)
    rows, scores = baseline.top_k(Histories.of([[3, 4, 3], []]), 5)
    assert rows[0, :3].tolist() == [3, 4, 2]
    assert rows[1, 0] == 2
    assert scores[0, 0] > scores[0, 1] + 0.5 > scores[0, 2]


def test_equally_popular_items_keep_equal_scores_in_a_session() -> None:
    scores = fitted("popularity", sessions_of(CLICKS), 5, in_session=True).score(Histories.of([[2]]))
    assert scores[0, 0] == scores[0, 1]
