"""Known answers of the scoreboard, and the observer on a broker."""

import time

import msgspec
import pytest
from confluent_kafka import Producer

from deploy.embedded_kafka import EmbeddedKafka
from deploy.observer import RANK_EVERY_CLICKS, Observer, Scoreboard
from stream.records import AnsweredClick, Recommendation
from stream.settings import Topics

IDLE_MS = 1_000
TOPICS = Topics()


def answer(
    offset: int,
    clicked: str,
    items: list[str] | None = None,
    *,
    session: str = "s",
    version: str = "v1",
    event_ms: int = 0,
    partition: int = 0,
) -> Recommendation:
    items = items or []
    click = AnsweredClick(partition=partition, offset=offset, item_id=clicked, timestamp=event_ms)
    return Recommendation(session, items, [0.0] * len(items), version, click, 0)


def scored(*answers: Recommendation) -> Scoreboard:
    """Return a scoreboard that heard these, a second apart."""
    board = Scoreboard(IDLE_MS)
    for second, each in enumerate(answers):
        board.answer_arrived(each, float(second))
    return board


def test_an_answer_is_scored_by_its_sessions_next_click() -> None:
    board = scored(answer(0, "a", ["b", "c"]), answer(1, "c", ["d"]), answer(2, "e"))
    (version,) = board.versions.values()

    assert (version.answers, version.cases, version.hits) == (3, 2, 1)
    assert version.recall == 0.5


def test_only_the_first_twenty_items_count() -> None:
    items = [f"i{rank}" for rank in range(1, 22)]

    assert scored(answer(0, "a", items), answer(1, "i20")).versions["v1"].hits == 1
    assert scored(answer(0, "a", items), answer(1, "i21")).versions["v1"].hits == 0


def test_a_case_belongs_to_the_version_that_answered_not_to_the_next() -> None:
    board = scored(answer(0, "a", ["b"], version="v1"), answer(1, "b", ["x"], version="v2"), answer(2, "c"))

    assert (board.versions["v1"].cases, board.versions["v1"].hits) == (1, 1)
    assert (board.versions["v2"].cases, board.versions["v2"].hits) == (1, 0)


def test_other_sessions_do_not_score_each_other() -> None:
    board = scored(answer(0, "a", ["b"], session="s"), answer(1, "b", ["a"], session="t"))

    assert board.versions["v1"].cases == 0


@pytest.mark.parametrize(("pause_ms", "cases"), [(IDLE_MS, 1), (IDLE_MS + 1, 0)])
def test_a_session_that_ended_scores_nothing(pause_ms: int, cases: int) -> None:
    board = scored(answer(0, "a", ["b"]), answer(1, "b", event_ms=pause_ms))

    assert board.versions["v1"].cases == cases


def test_a_late_click_does_not_turn_the_sessions_clock_back() -> None:
    board = scored(
        answer(0, "a", event_ms=5_000), answer(1, "b", event_ms=4_000), answer(2, "c", event_ms=5_000 + IDLE_MS)
    )

    assert board.versions["v1"].cases == 2


def test_an_answer_to_a_click_that_was_answered_is_a_copy_and_changes_nothing_else() -> None:
    board = scored(
        answer(0, "a", ["b"]), answer(0, "a", ["b"]), answer(1, "b"), answer(0, "a", partition=1, session="t")
    )
    view = board.view(10.0, dead_letters=0)

    assert (view.answers, view.copies) == (3, 1)
    assert (board.versions["v1"].cases, board.versions["v1"].hits) == (1, 1)


def test_popularity_is_scored_on_the_same_clicks_and_has_only_seen_those_before() -> None:
    board = Scoreboard(IDLE_MS)
    for offset in range(RANK_EVERY_CLICKS):
        board.answer_arrived(answer(offset, "hit", session=f"alone-{offset}"), 0.0)
    board.answer_arrived(answer(1_000, "x", ["y"]), 1.0)
    board.answer_arrived(answer(1_001, "hit", ["y"]), 2.0)
    board.answer_arrived(answer(1_002, "new"), 3.0)
    version = board.versions["v1"]

    assert (version.cases, version.hits, version.popularity_hits) == (2, 0, 1)
    assert version.popularity_recall == 0.5


def test_before_its_first_ranking_popularity_hits_nothing() -> None:
    board = scored(answer(0, "a", ["a"]), answer(1, "a"))

    assert board.versions["v1"].popularity_hits == 0
    assert board.view(5.0, 0).recent_popularity_recall == 0.0


def test_a_latency_is_joined_whichever_of_click_and_answer_is_heard_first() -> None:
    board = Scoreboard(IDLE_MS)
    board.click_appended(0, 0, 1_000)
    board.answer_arrived(answer(0, "a"), 1.010)
    board.answer_arrived(answer(1, "b"), 2.030)
    board.click_appended(0, 1, 2_000)

    assert board.latencies_ms == pytest.approx([10.0, 30.0])
    assert board.view(3.0, 0).latency_all_ms == pytest.approx((20.0, 29.8))


def test_a_click_without_an_answer_and_an_answer_without_a_click_have_no_latency() -> None:
    board = Scoreboard(IDLE_MS)
    board.click_appended(0, 0, 1_000)
    board.answer_arrived(answer(1, "a"), 1.0)

    assert board.latencies_ms == []
    assert board.view(2.0, 0).latency_all_ms == (0.0, 0.0)


def test_gaps_are_between_arrivals_and_those_around_a_swap_within_a_second_of_it() -> None:
    board = Scoreboard(IDLE_MS)
    arrivals_s = [0.0, 5.0, 5.5, 5.6, 5.9, 6.1]
    for offset, arrived_s in enumerate(arrivals_s):
        version = "popularity" if arrived_s < 5.6 else "v1"
        board.answer_arrived(answer(offset, "a", session=f"s{offset}", version=version), arrived_s)
    view = board.view(6.2, 0)

    assert view.longest_gap_ms == pytest.approx(5_000)
    assert view.swap_gap_ms == pytest.approx(500)
    assert [score.version for score in view.versions] == ["popularity", "v1"]


def test_the_rate_and_the_recent_latencies_are_those_of_the_last_five_seconds() -> None:
    board = Scoreboard(IDLE_MS)
    for offset, (arrived_s, waited_ms) in enumerate([(1.0, 900), (8.0, 10), (9.0, 10)]):
        board.click_appended(0, offset, int(arrived_s * 1000) - waited_ms)
        board.answer_arrived(answer(offset, "a", session=f"s{offset}"), arrived_s)
    view = board.view(10.0, 0)

    assert view.answers_per_s == pytest.approx(2 / 5)
    assert view.latency_ms[0] == pytest.approx(10)


def test_nothing_seen_is_all_zero() -> None:
    view = Scoreboard(IDLE_MS).view(0.0, dead_letters=0)

    assert (view.answers, view.copies, view.answers_per_s, view.longest_gap_ms, view.swap_gap_ms) == (0, 0, 0, 0, 0)
    assert (view.recent_recall, view.versions, view.sample) == (0.0, [], None)


def test_the_sample_is_the_newest_answer_to_a_session_of_several_clicks() -> None:
    board = scored(*(answer(n, f"i{n}") for n in range(6)), answer(9, "alone", session="t"))

    assert board.sample is not None
    clicked, newest = board.sample
    assert clicked == ["i2", "i3", "i4", "i5"]
    assert newest.click.offset == 5


def test_an_observer_hears_what_comes_after_its_start_and_nothing_before() -> None:
    topics = dict.fromkeys((TOPICS.clicks, TOPICS.recommendations, TOPICS.dead_letters), 2)
    with EmbeddedKafka(topics) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        producer.produce(TOPICS.recommendations, msgspec.json.encode(answer(0, "before")), b"s", partition=1)
        producer.flush(10)
        observer = Observer({"bootstrap.servers": broker.bootstrap}, TOPICS, IDLE_MS)
        observer.start()
        producer.produce(TOPICS.clicks, b"click", b"s", partition=1)
        producer.produce(TOPICS.recommendations, msgspec.json.encode(answer(0, "b", ["c"], partition=1)), b"s", 1)
        producer.produce(TOPICS.recommendations, msgspec.json.encode(answer(1, "c", partition=1)), b"s", 1)
        producer.produce(TOPICS.dead_letters, b"junk", b"s", partition=0)
        producer.flush(10)
        deadline_s = time.monotonic() + 20
        while (view := observer.view()).answers + view.dead_letters + len(view.versions) < 4:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        observer.stop()

    assert (view.answers, view.copies, view.dead_letters) == (2, 0, 1)
    assert view.versions[0].recall == 1.0


def test_an_observer_says_what_ended_its_reading() -> None:
    topics = dict.fromkeys((TOPICS.clicks, TOPICS.recommendations, TOPICS.dead_letters), 1)
    with EmbeddedKafka(topics) as broker:
        observer = Observer({"bootstrap.servers": broker.bootstrap}, TOPICS, IDLE_MS)
        observer.start()
        producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
        producer.produce(TOPICS.recommendations, b"no recommendation")
        producer.flush(10)
        with pytest.raises(msgspec.DecodeError):
            check_for_a_while(observer)
        observer.stop()


def check_for_a_while(observer: Observer) -> None:
    deadline_s = time.monotonic() + 20
    while time.monotonic() < deadline_s:
        observer.check()
        time.sleep(0.01)
