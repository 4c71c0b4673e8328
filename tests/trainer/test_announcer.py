import pytest
from msgspec.structs import replace

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import SERVING_KEY, Announcement
from model.errors import InvalidAnnouncementError
from tests.brokers import read_records
from tests.trainer.broker_topics import BrokerTopics, make_topics, run_within_deadline
from trainer.announcer import KafkaAnnouncer
from trainer.errors import KafkaUnavailableError
from trainer.retention import Announced


def announcement(version: str) -> Announcement:
    return Announcement(version, f"registry/{version}", "00", "promote", {"recall@20": 0.5}, 1_000)


def announcer(topics: BrokerTopics) -> KafkaAnnouncer:
    return KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=10)


def test_nothing_serves_before_the_first_announcement(topics: BrokerTopics) -> None:
    assert run_within_deadline(announcer(topics).serving()) is None


def test_what_was_announced_last_serves(topics: BrokerTopics) -> None:
    for version in ("v1", "v2"):
        run_within_deadline(announcer(topics).announce(announcement(version)))
    assert run_within_deadline(announcer(topics).serving()) == announcement("v2")


def test_the_serving_key_is_written_last(topics: BrokerTopics) -> None:
    run_within_deadline(announcer(topics).announce(announcement("v1")))
    records = read_records(topics.bootstrap, topics.models, 2)
    assert [record.key() for record in records] == [b"v1", SERVING_KEY]
    assert {record.value() for record in records} == {announcement("v1").encode()}


def test_a_version_announced_without_the_serving_key_does_not_serve(topics: BrokerTopics) -> None:
    topics.produce(topics.models, (SERVING_KEY, announcement("v1").encode()), (b"v2", announcement("v2").encode()))
    assert run_within_deadline(announcer(topics).serving()) == announcement("v1")


def test_after_a_tombstone_nothing_serves(topics: BrokerTopics) -> None:
    topics.produce(topics.models, (SERVING_KEY, announcement("v1").encode()), (SERVING_KEY, None))
    assert run_within_deadline(announcer(topics).serving()) is None


def test_versions_that_were_last_pinned_or_cannot_be_read_are_held(topics: BrokerTopics) -> None:
    pins = {name: replace(announcement(name), action="pin") for name in ("v1", "v2")}
    for said in (announcement("v1"), pins["v1"], pins["v2"], announcement("v2"), announcement("v3")):
        run_within_deadline(announcer(topics).announce(said))
    topics.produce(topics.models, (b"v4", b"junk"))
    assert run_within_deadline(announcer(topics).announced()) == Announced(
        announcement("v3"), frozenset({"v1", "v2", "v3", "v4"}), frozenset({"v1", "v4"})
    )


def test_a_rejection_stands_under_the_version_s_own_name_until_something_else_is_said(topics: BrokerTopics) -> None:
    rejection = replace(announcement("v2"), action="reject")
    for said in (announcement("v1"), announcement("v2"), rejection):
        run_within_deadline(announcer(topics).announce(said))
    assert [record.key() for record in read_records(topics.bootstrap, topics.models, 5)][-1] == b"v2"
    expected = Announced(announcement("v2"), frozenset({"v1", "v2"}), rejected=frozenset({"v2"}))
    assert run_within_deadline(announcer(topics).announced()) == expected, "it alone changes nothing that serves"
    run_within_deadline(announcer(topics).announce(announcement("v2")))
    assert not run_within_deadline(announcer(topics).announced()).rejected


def test_forgotten_versions_leave_the_topic_and_what_serves_stays(topics: BrokerTopics) -> None:
    for version in ("v1", "v2"):
        run_within_deadline(announcer(topics).announce(announcement(version)))
    run_within_deadline(announcer(topics).forget(["v1"]))
    assert run_within_deadline(announcer(topics).announced()) == Announced(announcement("v2"), frozenset({"v2"}))
    last = read_records(topics.bootstrap, topics.models, 5)[-1]
    assert (last.key(), last.value()) == (b"v1", None)


def test_a_version_replaces_the_one_that_serves(topics: BrokerTopics) -> None:
    assert run_within_deadline(announcer(topics).replace(None, announcement("v1")))
    assert run_within_deadline(announcer(topics).replace(announcement("v1"), announcement("v2")))
    assert run_within_deadline(announcer(topics).serving()) == announcement("v2")


def test_a_version_replaces_nothing_but_the_one_that_it_is_to(topics: BrokerTopics) -> None:
    run_within_deadline(announcer(topics).announce(announcement("v1")))
    assert not run_within_deadline(announcer(topics).replace(None, announcement("v2")))
    assert not run_within_deadline(announcer(topics).replace(announcement("v0"), announcement("v2")))
    assert run_within_deadline(announcer(topics).serving()) == announcement("v1")


def test_after_a_tombstone_a_version_replaces_nothing_that_serves(topics: BrokerTopics) -> None:
    topics.produce(topics.models, (SERVING_KEY, announcement("v1").encode()), (SERVING_KEY, None))
    assert run_within_deadline(announcer(topics).replace(None, announcement("v2")))


class Hurried(KafkaAnnouncer):
    """Somebody else announces just before it writes, after it has looked what serves."""

    others: tuple[Announcement, ...] = ()

    async def announce(self, announcement: Announcement) -> None:
        others, self.others = self.others, ()
        for other in others:
            await super().announce(other)
        await super().announce(announcement)


def test_who_is_overtaken_while_it_announces_gives_way(topics: BrokerTopics) -> None:
    run_within_deadline(announcer(topics).announce(announcement("v1")))
    by_hand = replace(announcement("v0"), action="pin")
    hurried = Hurried(topics.aiokafka, topics.models, timeout_s=10)
    hurried.others = (announcement("v3"), by_hand)
    assert not run_within_deadline(hurried.replace(announcement("v1"), announcement("v2")))
    assert run_within_deadline(announcer(topics).serving()) == by_hand


def test_bytes_under_the_serving_key_that_are_no_announcement_are_an_error(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce(topics.models, (SERVING_KEY, b"{}"))
    with pytest.raises(InvalidAnnouncementError):
        run_within_deadline(announcer(topics).serving())


def test_a_missing_topic_is_named(embedded_kafka: EmbeddedKafka) -> None:
    topics = BrokerTopics(embedded_kafka.bootstrap, "clicks", "no-such-topic")
    with pytest.raises(KafkaUnavailableError, match="no topic 'no-such-topic'"):
        run_within_deadline(announcer(topics).serving())


def test_an_announcement_that_no_broker_takes_is_an_error(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    embedded_kafka.set_down()
    with pytest.raises(KafkaUnavailableError, match="Kafka cannot be reached"):
        run_within_deadline(announcer(topics).announce(announcement("v1")))
