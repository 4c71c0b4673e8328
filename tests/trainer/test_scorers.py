import numpy as np

from model.companion import Companion, Mixing
from tests.trainer.rings import all_but_first, learned, ring, untrained
from trainer.scorers import CompanionScorer, histories_at


def test_histories_end_at_their_click_and_stay_inside_their_session() -> None:
    sessions = ring(2, 1)
    found = histories_at(sessions, np.array([0, 2, 5]))
    assert found[:, :-3].max() == -1
    items = sessions.items.tolist()
    assert found[:, -3:].tolist() == [[-1, -1, items[0]], items[:3], [-1, *items[4:6]]]


def test_without_weights_the_scorer_ranks_as_the_network_alone() -> None:
    sessions, network = ring(20, 1), untrained()
    alone = Mixing(temper=1, forward=0, backward=0, last=0, repeat=0)
    scorer = CompanionScorer(network.network, Companion(learned(), alone))
    counted = all_but_first(sessions)
    expected = network.next_click_ranks(sessions, counted, "conservative")
    assert scorer.next_click_ranks(sessions, counted, "conservative").tolist() == expected.tolist()
