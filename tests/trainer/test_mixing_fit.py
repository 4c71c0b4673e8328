import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.companion import Companion, Mixing
from model.gru4rec import GRU4Rec
from model.ranking import RankingMetrics
from tests.trainer.rings import ITEMS, all_but_first, learned, ring, untrained
from trainer.mixing_fit import GRID, Cases, fit_mixing, unseen_cases
from trainer.scorers import CompanionScorer


def network() -> GRU4Rec:
    return untrained().network


@settings(max_examples=30, deadline=None)
@given(
    st.builds(
        Mixing,
        temper=st.sampled_from(GRID["temper"]),
        forward=st.sampled_from(GRID["forward"]),
        backward=st.sampled_from(GRID["backward"]),
        last=st.sampled_from([-0.1, 0.0, 0.1]),
        repeat=st.sampled_from([0.1, 0.2, 0.8]),
        fade=st.sampled_from(GRID["fade"]),
    ),
    st.integers(0, 100),
)
def test_what_is_kept_of_a_case_is_enough_for_its_metrics(mixing: Mixing, seed: int) -> None:
    sessions = ring(15, seed)
    kept = unseen_cases(network(), learned(), sessions)
    scorer = CompanionScorer(network(), Companion(learned(), mixing))
    ranks = scorer.next_click_ranks(sessions, all_but_first(sessions), "conservative")
    assert kept.metrics(mixing) == pytest.approx(RankingMetrics.from_ranks(ranks, (20,)).to_dict())


def test_cases_of_two_networks_are_chosen_on_together() -> None:
    mixing, of_network = Mixing(temper=0.7, forward=0.4, backward=0.025, repeat=0.1), []
    for seed, sessions in ((0, ring(15, 1)), (1, ring(40, 2))):
        one = untrained(seed).network
        ranks = CompanionScorer(one, Companion(learned(), mixing)).next_click_ranks(
            sessions, all_but_first(sessions), "conservative"
        )
        of_network.append((unseen_cases(one, learned(), sessions), ranks))
    (some, some_ranks), (others, other_ranks) = of_network
    expected = RankingMetrics.from_ranks(np.concatenate([some_ranks, other_ranks]), (20,))
    both = Cases.joined([some, others])
    assert len(both) == len(some) + len(others) > len(others)
    assert both.metrics(mixing) == pytest.approx(expected.to_dict())


def test_weights_between_those_of_the_grid_are_a_place_to_begin() -> None:
    cases = unseen_cases(network(), learned(), ring(50, 2))
    found = fit_mixing(cases, Mixing(temper=0.95, forward=0.3))
    assert found.mixing.temper in GRID["temper"]
    assert found.mixture["mrr@20"] > 0.9 > found.network["mrr@20"]


def test_fitting_finds_weights_that_follow_the_pairs_and_finds_them_again() -> None:
    first, again = (fit_mixing(unseen_cases(network(), learned(), ring(50, 2), most_cases=100)) for _ in range(2))
    assert first == again
    assert first.cases == 100
    assert first.mixture["mrr@20"] > 0.9 > first.network["mrr@20"]


def test_only_counted_clicks_are_chosen_on_and_without_any_the_weights_stay() -> None:
    sessions, start = ring(50, 2), Mixing(forward=0.3)
    counted = np.zeros(len(sessions.items), dtype=np.bool_)
    counted[[1, 4, 6]] = True  # the second begins a session
    assert fit_mixing(unseen_cases(network(), learned(), sessions, counted=counted)).cases == 2
    nothing = fit_mixing(unseen_cases(network(), learned(), sessions, counted=np.zeros_like(counted)), start)
    assert (nothing.mixing, nothing.cases) == (start, 0)


def test_clicks_on_items_that_the_network_lacks_are_not_chosen_on() -> None:
    sessions = ring(50, 2)
    sessions.items[sessions.items == 3] = ITEMS + 1
    known = int((sessions.items[all_but_first(sessions)] < ITEMS).sum())
    with torch.inference_mode():
        found = unseen_cases(network(), learned(), sessions)
    assert 0 < len(found) <= known
