import numpy as np

from deploy.bench.freshness import PLANTED_BETWEEN, delays, with_planted
from model.clicks import Click, ClickTable
from stream.records import AnsweredClick, Recommendation


def table(sessions: int) -> ClickTable:
    """Return sessions of four clicks each, one after the other."""
    return ClickTable.from_clicks(
        Click(f"s{number}", f"item-{place}", 1_000 * number + 10 * place)
        for number in range(sessions)
        for place in range(4)
    )


def answer(second: float, session_id: str, clicked: str, *items: str) -> Recommendation:
    at_ms = int(1000 * second)
    return Recommendation(session_id, [*items], [], "v1", AnsweredClick(0, at_ms, clicked, at_ms), at_ms)


def test_new_items_come_up_one_after_the_other_in_their_share_of_sessions() -> None:
    clicks = table(2_000)
    planted, ids = with_planted(clicks, 3, 0.1, np.random.default_rng(0))
    assert planted.item_ids[-3:] == ids
    expected_first = np.linspace(*PLANTED_BETWEEN, 3) * len(clicks)
    for item, start in zip(ids, expected_first, strict=True):
        places = np.flatnonzero(planted.item == planted.item_ids.index(item))
        left = 2_000 * (1 - start / len(clicks))
        assert len(places) == np.unique(planted.session[places]).size
        assert 0.05 * left < len(places) < 0.15 * left
        assert places[0] >= start
        before = planted.timestamp_ms[places - 1]
        assert (planted.session[places - 1] == planted.session[places]).all() or len(places) == 0
        assert (planted.timestamp_ms[places] - before <= 2).all()
    assert len(planted) == len(clicks) + np.isin(planted.item, np.arange(4, 7)).sum()


def test_the_clicks_that_were_there_stay_in_their_order() -> None:
    clicks = table(500)
    planted, _ = with_planted(clicks, 5, 0.2, np.random.default_rng(1))
    old = planted.item < len(clicks.item_ids)
    assert (planted.item[old] == clicks.item).all()
    assert (planted.session[old] == clicks.session).all()


def test_a_delay_ends_with_the_first_answer_to_a_session_that_had_not_clicked_the_item() -> None:
    answers = [
        answer(1.0, "a", "new", "x"),
        answer(2.0, "a", "x", "new"),
        answer(4.5, "b", "x", "y", "new"),
        answer(9.0, "c", "x", "new"),
        answer(3.0, "d", "other"),
    ]
    assert delays(answers, ["new", "other", "never"]) == {"new": 3.5, "other": None}
    assert delays(reversed(answers), ["new"]) == {"new": 3.5}
