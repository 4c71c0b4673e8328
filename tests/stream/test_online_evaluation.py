from hypothesis import given
from hypothesis import strategies as st

from stream import online_evaluation
from stream.online_evaluation import OnlineEvaluation
from stream.records import POPULARITY
from tests.stream.builders import ITEMS, NOW_MS, recommender, record
from tests.stream.deliveries_of_kafka import Delivered, answer, new_processor


@given(st.lists(st.tuples(st.integers(0, len(ITEMS) - 1), st.integers(0, 2)), min_size=1, max_size=12), st.data())
def test_a_rank_is_the_place_in_the_answer_before_it_however_clicks_are_cut_into_batches(
    clicks: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Items and sessions of the clicks; an answer lies in the batch, or was stored with the session."""
    processor, kept, shown = new_processor(), Delivered(), {}
    expected, found, start = [], [], 0
    while start < len(clicks):
        stop = data.draw(st.integers(start + 1, len(clicks)))
        batch = [
            record(offset, ITEMS[clicks[offset][0]], session_id=f"s{clicks[offset][1]}", event_ms=NOW_MS)
            for offset in range(start, stop)
        ]
        outcome = answer(processor, batch, recommender(), kept)
        for (item, session), given_answer in zip(clicks[start:stop], outcome.answers, strict=True):
            if session in shown:
                items = shown[session]
                expected.append(items.index(ITEMS[item]) + 1 if ITEMS[item] in items else 0)
            shown[session] = given_answer.recommendation.items
        for evaluation in outcome.evaluations:
            assert isinstance(evaluation, OnlineEvaluation)
            assert evaluation.version == "v1"
            found += evaluation.ranks.tolist()
        start = stop
    assert found == expected


def test_answers_by_popularity_are_evaluated_under_that_name() -> None:
    processor, kept = new_processor(), Delivered()
    answer(processor, [record(0)], None, kept)
    (evaluation,) = answer(processor, [record(1)], None, kept).evaluations
    assert evaluation.version == POPULARITY
    assert evaluation.ranks.tolist() == [1]


def test_a_batch_without_an_answer_before_it_has_nothing_to_evaluate() -> None:
    assert answer(new_processor(), [record(0)], recommender(), Delivered()).evaluations == []


def test_no_click_waits_for_a_compiler() -> None:
    processor, kept = new_processor(), Delivered()
    compiled = len(online_evaluation._rank.signatures)
    answer(processor, [record(0), record(1)], recommender(), kept)
    assert len(online_evaluation._rank.signatures) == compiled == 1
