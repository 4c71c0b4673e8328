"""The promise of the processor: every state equals the one obtained by applying each click exactly once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings

from model.recommender import Recommender
from stream.records import POPULARITY, Recommendation
from stream.session import HISTORY_ITEMS
from tests.stream.builders import ITEMS, encoded, recommender
from tests.stream.deliveries_of_kafka import (
    PARTITIONS,
    TOP_K,
    UNKNOWN,
    Delivered,
    Step,
    Streams,
    deliver,
    expected_sessions,
    steps,
    streams,
)

# float32 through up to 60 steps of a network whose weights are within 2: batches of other sizes round differently.
TOLERANCE = 1e-4

V1 = recommender("v1")
MIXED = recommender("v3", with_companion=True)
V2 = recommender("v2", [*ITEMS, UNKNOWN[0]])
LONE_CLICK = [Step(take=take, interleaved=False, rewind=(0, 0), forget=0, version=0) for take in ((1, 0), (0, 1))]


def one_by_one(drawn: Streams, version: Recommender | None) -> Delivered:
    return deliver(drawn, [LONE_CLICK[p] for p in range(PARTITIONS) for _ in drawn[p]], [version])


def without_replays(turns: list[Step]) -> list[Step]:
    return [replace(turn, rewind=(0, 0), forget=0) for turn in turns]


def assert_sessions_are_exact(drawn: Streams, result: Delivered) -> None:
    """Compare the store with the clicks: counts, history and fence exactly, the hidden vector within TOLERANCE."""
    expected = expected_sessions(drawn)
    assert result.store.keys() == expected.keys()
    for key, life in expected.items():
        made, version = result.session(key), result.served[key]
        assert (made.partition, made.offset, made.event_ms) == (key[0], life.offset, life.event_ms)
        assert made.clicks == len(life.items)
        assert made.items() == life.items[-HISTORY_ITEMS:]
        hidden = encoded(version, life.items)
        assert made.version == (version.version if version and len(hidden) else "")
        np.testing.assert_allclose(made.hidden, hidden, atol=TOLERANCE)


def assert_everything_is_answered(drawn: Streams, result: Delivered) -> None:
    assert set(result.answered()) == {(found.partition, found.offset) for records in drawn for found in records}


@given(streams(), steps())
def test_any_batches_and_any_replays_give_the_state_of_each_click_applied_once(
    drawn: Streams, turns: list[Step]
) -> None:
    result = deliver(drawn, turns, [V1])
    assert_sessions_are_exact(drawn, result)
    assert_everything_is_answered(drawn, result)


@given(streams(), steps())
def test_the_same_holds_while_popularity_answers(drawn: Streams, turns: list[Step]) -> None:
    result = deliver(drawn, turns, [None])
    assert_sessions_are_exact(drawn, result)
    assert_everything_is_answered(drawn, result)


@settings(max_examples=50)
@given(streams(items=[ITEMS[0], *UNKNOWN * 6], most=60), steps())
def test_a_known_item_that_left_the_history_still_counts(drawn: Streams, turns: list[Step]) -> None:
    assert_sessions_are_exact(drawn, deliver(drawn, turns, [V1]))


# At most 20 clicks a partition, so that no session outgrows the history from which a swap encodes it again.
@given(streams(most=HISTORY_ITEMS), steps(versions=4))
def test_after_any_swaps_a_state_is_its_history_encoded_by_the_version_that_served_it_last(
    drawn: Streams, turns: list[Step]
) -> None:
    result = deliver(drawn, turns, [None, V1, V2, MIXED])
    assert_sessions_are_exact(drawn, result)
    assert_everything_is_answered(drawn, result)


@given(streams(), steps(versions=3))
def test_no_batch_mixes_versions(drawn: Streams, turns: list[Step]) -> None:
    for outcome in deliver(drawn, turns, [None, V1, V2]).outcomes:
        found = {answer.recommendation.model_version for answer in outcome.answers}
        assert found <= {outcome.version, POPULARITY}


def assert_same_items(answer: Recommendation, reference: Recommendation) -> None:
    """Compare items by their scores, so that two nearly equal ones may change places, or at the end leave."""
    np.testing.assert_allclose(answer.scores, reference.scores, atol=10 * TOLERANCE)
    assert len(set(answer.items)) == len(reference.items) == TOP_K
    score_of = dict(zip(reference.items, reference.scores, strict=True))
    expected = [score_of.get(item, reference.scores[-1]) for item in answer.items]
    np.testing.assert_allclose(answer.scores, expected, atol=10 * TOLERANCE)


@pytest.mark.parametrize("version", [V1, MIXED], ids=["network", "companion"])
@given(drawn=streams(), turns=steps())
@example(drawn=[[], []], turns=[])
def test_the_first_answer_to_a_click_is_the_one_that_it_gets_when_processed_alone(
    version: Recommender, drawn: Streams, turns: list[Step]
) -> None:
    alone = {
        (answer.record.partition, answer.record.offset): answer.recommendation
        for outcome in one_by_one(drawn, version).outcomes
        for answer in outcome.answers
    }
    for outcome in deliver(drawn, without_replays(turns), [version]).outcomes:
        for answer in outcome.answers:
            reference = alone[(answer.record.partition, answer.record.offset)]
            assert answer.recommendation.model_version == reference.model_version
            assert answer.recommendation.click == reference.click
            if reference.model_version == version.version:
                assert_same_items(answer.recommendation, reference)


# Always the same examples: of two nearly equal items either may be first, which would change a rank.
@settings(derandomize=True)
@given(streams(), steps())
def test_online_ranks_do_not_depend_on_how_clicks_are_batched(drawn: Streams, turns: list[Step]) -> None:
    def ranks(result: Delivered) -> list[int]:
        found = [
            evaluation.ranks.tolist()
            for outcome in result.outcomes
            for evaluation in outcome.evaluations
            if evaluation.version == V1.version
        ]
        return sorted(rank for batch in found for rank in batch)

    assert ranks(deliver(drawn, without_replays(turns), [V1])) == ranks(one_by_one(drawn, V1))


@given(streams(), steps())
def test_counts_of_applied_and_replayed_clicks_add_up(drawn: Streams, turns: list[Step]) -> None:
    outcomes = deliver(drawn, [replace(turn, forget=0) for turn in turns], [V1]).outcomes
    valid = sum(found.value != b"junk" for records in drawn for found in records)
    assert sum(outcome.applied for outcome in outcomes) == valid
    for outcome in outcomes:
        assert outcome.applied + outcome.replayed == len(outcome.answers)
