import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.clicks import DAY_MS
from model.recommender import Recommender
from model.vocabulary import Vocabulary, fingerprint
from stream.micro_batch import SessionKey
from stream.processor import Outcome, Processor
from stream.records import POPULARITY, SourceRecord
from tests.stream.builders import IDLE_MS, ITEMS, NOW_MS, SEEDS, encoded, network, plain, recommender, record
from tests.stream.deliveries_of_kafka import TOP_K, Delivered, answer, new_processor

A, B, C = ITEMS[:3]
KEY: SessionKey = (0, b"s")
V1 = recommender("v1")
V2 = recommender("v2", [*ITEMS, "late-item"])


class Stream:
    """A worker's store and processor, fed batch by batch."""

    def __init__(self, version: Recommender | None = V1) -> None:
        self.version = version
        self.processor: Processor = new_processor()
        self.kept = Delivered()

    def answer(self, *records: SourceRecord) -> Outcome:
        return answer(self.processor, records, self.version, self.kept)

    def clicks(self, *item_ids: str) -> Outcome:
        """Answer clicks of one session, at the offsets after those of the last call."""
        first = self.kept.session(KEY).offset + 1 if KEY in self.kept.store else 0
        return self.answer(*(record(first + place, item) for place, item in enumerate(item_ids)))


def refreshed(*new_items: str) -> Recommender:
    """Return v1 with items that a refresh has appended, each with a vector of its own."""
    vectors = {"new-1": 1.0, "new-2": -1.0}
    items = [*ITEMS, *new_items]
    grown = network(len(ITEMS), SEEDS["v1"]).with_items(
        len(items), vectors={"embedding": torch.tensor([[vectors[item]] * 6 for item in new_items])}
    )
    return Recommender(grown, Vocabulary(items), "v1", lasting_items=len(ITEMS))


def items_of(outcome: Outcome, place: int = -1) -> list[str]:
    return outcome.answers[place].recommendation.items


def versions_of(outcome: Outcome) -> list[str]:
    return [found.recommendation.model_version for found in outcome.answers]


def ranks_of(outcome: Outcome) -> list[tuple[str, list[int]]]:
    return [(evaluation.version, evaluation.ranks.tolist()) for evaluation in outcome.evaluations]


def test_the_most_clicked_items_answer_before_the_first_version() -> None:
    outcome = Stream(version=None).clicks(B, A, A)
    assert outcome.version == POPULARITY
    assert versions_of(outcome) == [POPULARITY] * 3
    assert items_of(outcome) == [A, B]
    assert outcome.answers[-1].recommendation.scores == [2.0, 1.0]


def test_an_answer_names_the_click_that_it_answers_and_when_it_was_made() -> None:
    found = Stream().answer(record(7, C, partition=1, event_ms=NOW_MS - 5)).answers[0].recommendation
    assert found.session_id == "s"
    assert (found.click.partition, found.click.offset, found.click.item_id) == (1, 7, C)
    assert found.click.timestamp == NOW_MS - 5
    assert found.generated_at == NOW_MS


def test_answers_stand_in_the_order_of_the_records() -> None:
    outcome = Stream().answer(
        record(0, A), record(0, B, session_id="t", partition=1), SourceRecord(0, 1, 0, None, None), record(2, C)
    )
    assert [(found.record.partition, found.record.offset) for found in outcome.answers] == [(0, 0), (1, 0), (0, 2)]


def test_an_answer_has_no_more_items_than_the_version() -> None:
    outcome = Stream(recommender("v1", ITEMS[:2])).clicks(A)
    assert sorted(items_of(outcome)) == ITEMS[:2]


def test_items_of_an_answer_are_the_best_by_score_and_scores_fall() -> None:
    found = Stream().clicks(A, B).answers[-1].recommendation
    everything = V1.forward(
        encoded(V1, [A])[None], np.array([-1]), np.array([0]), np.array([V1.vocabulary.row(B)]), len(ITEMS)
    )
    assert found.items == [ITEMS[row] for row in everything.top_rows[0, :TOP_K]]
    assert found.scores == sorted(found.scores, reverse=True)


def test_a_replay_is_answered_again_and_leaves_the_state_as_it_was() -> None:
    stream = Stream()
    first = stream.clicks(A, B)
    before = plain(stream.kept.session(KEY))
    again = stream.answer(record(1, B))
    assert (again.applied, again.replayed) == (0, 1)
    assert plain(again.sessions[KEY]) == before
    assert again.answers[0].recommendation.items == first.answers[1].recommendation.items
    assert again.evaluations == []


def test_a_replay_within_one_batch_is_recognised() -> None:
    outcome = Stream().answer(record(0, A), record(1, B), record(0, A), record(1, B), record(2, C))
    assert (outcome.applied, outcome.replayed) == (3, 2)
    assert outcome.sessions[KEY].items() == [A, B, C]
    assert len(outcome.answers) == 5


def test_a_replay_of_an_ended_session_does_not_touch_the_one_that_follows() -> None:
    stream = Stream()
    late = record(1, B, event_ms=NOW_MS + IDLE_MS + 1)
    stream.answer(record(0, A), late)
    assert stream.answer(record(0, A), late).applied == 0
    assert stream.kept.session(KEY).items() == [B]


def test_a_replay_is_answered_though_nothing_is_popular_yet() -> None:
    stream = Stream(version=None)
    stream.clicks(A)
    stream.processor = new_processor()
    assert items_of(stream.answer(record(0, A))) == []


def test_a_session_ends_in_the_middle_of_a_batch() -> None:
    outcome = Stream().answer(record(0, A), record(1, B, event_ms=NOW_MS + IDLE_MS + 1), record(2, C))
    made = outcome.sessions[KEY]
    assert made.items() == [B, C]
    assert made.clicks == 2
    np.testing.assert_allclose(made.hidden, encoded(V1, [B, C]), atol=1e-6)
    assert (outcome.started, outcome.first_seen) == (2, 1)


def test_a_stored_session_that_ended_starts_from_zero() -> None:
    stream = Stream()
    stream.clicks(A, B)
    outcome = stream.answer(record(2, C, event_ms=NOW_MS + IDLE_MS + 1))
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(V1, [C]), atol=1e-6)
    assert (outcome.started, outcome.first_seen) == (1, 0)
    assert outcome.evaluations == []


def test_a_session_goes_on_after_exactly_the_idle_time() -> None:
    outcome = Stream().answer(record(0, A), record(1, B, event_ms=NOW_MS + IDLE_MS))
    assert outcome.sessions[KEY].items() == [A, B]


def test_a_late_click_does_not_turn_the_clock_of_its_session_back() -> None:
    outcome = Stream().answer(
        record(0, A), record(1, B, event_ms=NOW_MS - 10 * IDLE_MS), record(2, C, event_ms=NOW_MS + IDLE_MS)
    )
    assert outcome.sessions[KEY].items() == [A, B, C]
    assert outcome.started == 1


def test_one_session_id_in_two_partitions_is_two_sessions() -> None:
    outcome = Stream().answer(record(0, A), record(0, B, partition=1))
    assert {key: made.items() for key, made in outcome.sessions.items()} == {(0, b"s"): [A], (1, b"s"): [B]}


def test_sessions_are_loaded_once_per_batch_and_each_key_once() -> None:
    asked: list[Sequence[SessionKey]] = []

    def load(keys: Sequence[SessionKey]) -> list[None]:
        asked.append(keys)
        return [None] * len(keys)

    new_processor().process([record(0), record(1), record(0, session_id="t"), record(2)], load, V1, NOW_MS)
    assert asked == [[(0, b"s"), (0, b"t")]]


def test_an_unknown_item_leaves_the_hidden_vector_and_stays_in_the_history() -> None:
    outcome = Stream().clicks(A, "late-item")
    made = outcome.sessions[KEY]
    np.testing.assert_allclose(made.hidden, encoded(V1, [A]), atol=1e-6)
    assert made.items() == [A, "late-item"]
    assert len(outcome.unknown) == 1
    assert items_of(outcome, 0) == items_of(outcome, 1)


def test_popularity_answers_a_session_of_which_the_version_knows_nothing() -> None:
    stream = Stream()
    outcome = stream.clicks("late-item", A)
    assert versions_of(outcome) == [POPULARITY, "v1"]
    assert stream.answer(record(0, "never-known", session_id="t")).sessions[(0, b"t")].version == ""


def test_after_a_swap_a_state_is_encoded_again_from_its_history() -> None:
    stream = Stream()
    stream.clicks(A, B)
    stream.version = V2
    made = stream.clicks(C).sessions[KEY]
    assert made.version == "v2"
    np.testing.assert_allclose(made.hidden, encoded(V2, [A, B, C]), atol=1e-5)


def test_after_a_swap_a_replay_is_answered_by_the_new_version() -> None:
    stream = Stream()
    stream.clicks(A, B)
    stream.version = V2
    outcome = stream.answer(record(1, B))
    assert versions_of(outcome) == ["v2"]
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(V2, [A, B]), atol=1e-5)


def test_the_first_version_takes_up_the_sessions_that_popularity_answered() -> None:
    stream = Stream(version=None)
    stream.clicks(A, B)
    stream.version = V1
    outcome = stream.clicks(C)
    assert versions_of(outcome) == ["v1"]
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(V1, [A, B, C]), atol=1e-5)


def test_an_item_that_the_new_version_knows_counts_after_the_swap() -> None:
    stream = Stream()
    assert stream.clicks(A, "late-item").unknown == ["late-item"]
    stream.version = V2
    outcome = stream.clicks(B)
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(V2, [A, "late-item", B]), atol=1e-5)


def test_a_session_that_the_version_before_did_not_know_at_all_is_answered_after_the_swap() -> None:
    stream = Stream()
    assert versions_of(stream.clicks("late-item")) == [POPULARITY]
    stream.version = V2
    assert versions_of(stream.clicks("never-known")) == ["v2"]


def test_after_a_refresh_that_gives_new_items_other_rows_a_state_with_one_is_encoded_again() -> None:
    stream = Stream(refreshed("new-1", "new-2"))
    assert stream.clicks(A, "new-1").sessions[KEY].last_row == -1, "as a worker of any release can read it"
    stream.version = refreshed("new-2", "new-1")
    outcome = stream.clicks(B)
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(stream.version, [A, "new-1", B]), atol=1e-5)


def test_after_a_refresh_a_state_without_new_items_goes_on_and_the_new_item_is_answered() -> None:
    stream = Stream()
    stream.clicks(A, "new-1")
    stream.version = refreshed("new-1")
    outcome = stream.clicks("new-1")
    assert outcome.unknown == []
    np.testing.assert_allclose(outcome.sessions[KEY].hidden, encoded(stream.version, [A, "new-1"]), atol=1e-5)


def test_a_click_is_ranked_in_the_answer_before_it_stored_or_of_the_same_batch() -> None:
    stream = Stream()
    best = items_of(stream.clicks(A))
    in_answer = stream.clicks(best[2], "never-known")
    assert ranks_of(in_answer) == [("v1", [3, 0])]
    assert ranks_of(stream.clicks(items_of(in_answer)[0])) == [("v1", [1])]


def test_the_first_click_of_a_session_is_not_ranked() -> None:
    assert ranks_of(Stream().clicks(A)) == []


def test_a_click_after_a_swap_is_credited_to_the_version_that_answered_before() -> None:
    stream = Stream()
    best = items_of(stream.clicks(A))
    stream.version = V2
    assert ranks_of(stream.clicks(best[1], "never-known")) == [("v1", [2]), ("v2", [0])]


def test_answers_of_popularity_are_ranked_under_its_name() -> None:
    stream = Stream(version=None)
    stream.clicks(A)
    assert ranks_of(stream.clicks(A)) == [(POPULARITY, [1])]


def test_the_stored_answer_holds_the_fingerprints_of_its_items() -> None:
    outcome = Stream().clicks(A)
    assert outcome.sessions[KEY].answer.tolist() == [fingerprint(item) for item in items_of(outcome)]


def test_an_answer_shorter_than_asked_is_not_filled_up_with_what_is_popular() -> None:
    stream = Stream(recommender("v1", ITEMS[:2]))
    stream.answer(*(record(0, item, session_id=item) for item in ITEMS[2:]))
    stored = stream.clicks(A).sessions[KEY].answer.tolist()
    assert sorted(stored[:2]) == sorted(map(fingerprint, ITEMS[:2]))
    assert stored[2:] == [0] * (TOP_K - 2)
    assert ranks_of(stream.clicks(ITEMS[2])) == [("v1", [0])]


def value(**fields: object) -> bytes:
    return json.dumps({"session_id": "s", "item_id": A, "timestamp": NOW_MS} | fields).encode()


@pytest.mark.parametrize(
    ("reason", "junk"),
    [
        ("empty", SourceRecord(0, 1, NOW_MS, b"s", None)),
        ("malformed", SourceRecord(0, 1, NOW_MS, b"s", b"\xff")),
        ("missing-field", SourceRecord(0, 1, NOW_MS, b"s", b"{}")),
        ("invalid-id", SourceRecord(0, 1, NOW_MS, b"s", value(item_id=""))),
        ("key-mismatch", SourceRecord(0, 1, NOW_MS, b"other", value())),
        ("key-mismatch", SourceRecord(0, 1, NOW_MS, None, value())),
        ("timestamp-out-of-range", SourceRecord(0, 1, NOW_MS, b"s", value(timestamp=NOW_MS + DAY_MS + 1))),
    ],
)
def test_a_record_that_is_no_click_becomes_a_dead_letter_and_its_neighbours_are_answered(
    reason: str, junk: SourceRecord
) -> None:
    outcome = Stream().answer(record(0, A), junk, record(2, B))
    assert [(letter.reason, letter.record) for letter in outcome.dead_letters] == [(reason, junk)]
    assert outcome.dead_letters[0].message
    assert outcome.sessions[KEY].items() == [A, B]
    assert len(outcome.answers) == 2


@given(
    st.lists(
        st.tuples(st.none() | st.binary(max_size=8), st.none() | st.binary(max_size=40), st.integers(-1, 2**62)),
        max_size=5,
    ),
    st.sampled_from([None, V1]),
)
def test_no_bytes_whatsoever_raise(
    junk: list[tuple[bytes | None, bytes | None, int]], version: Recommender | None
) -> None:
    records = [SourceRecord(0, offset, time_ms, key, found) for offset, (key, found, time_ms) in enumerate(junk)]
    outcome = Stream(version).answer(*records)
    assert len(outcome.answers) + len(outcome.dead_letters) == len(records)
    for letter in outcome.dead_letters:
        assert all(isinstance(header, bytes) for _, header in letter.headers("clicks"))
