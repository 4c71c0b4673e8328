import socket
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from deploy.embedded_kafka import EmbeddedKafka
from deploy.errors import TopicError
from deploy.local_kafka import LocalKafka
from deploy.topics import TopicPlan, check, create

DAY_MS = 24 * 60 * 60 * 1000


def plan_named(prefix: str, **settings: Any) -> TopicPlan:
    """Return a plan whose topics no other test touches."""
    names = TopicPlan(
        app=f"{prefix}-app",
        clicks=f"{prefix}-clicks",
        recommendations=f"{prefix}-recommendations",
        dead_letters=f"{prefix}-dead-letters",
        models=f"{prefix}-models",
    )
    return replace(names, **settings)


def test_every_topic_but_the_models_has_the_same_partitions() -> None:
    assert TopicPlan(partitions=6).partition_counts() == {
        "clicks": 6,
        "recommendations": 6,
        "clicks-dead-letters": 6,
        "nextclick-sessions-changelog": 6,
        "models": 1,
    }


def test_the_models_are_compacted_and_the_changelog_also_ages() -> None:
    policies = {topic.name: topic.cleanup_policy for topic in TopicPlan().topics()}

    assert policies["models"] == "compact"
    assert policies["nextclick-sessions-changelog"] == "compact,delete"
    assert [policy for policy in policies.values() if policy == "delete"] == ["delete"] * 3


def test_a_changelog_that_forgets_sessions_before_they_end_is_refused() -> None:
    with pytest.raises(ValueError, match="sessions would be lost"):
        TopicPlan(changelog_retention_ms=1000, session_ttl_ms=1001)


def test_an_unlimited_changelog_is_long_enough() -> None:
    assert TopicPlan(changelog_retention_ms=-1).changelog_retention_ms == -1


@pytest.mark.parametrize("settings", [{"partitions": 0}, {"replication_factor": 0}])
def test_a_plan_without_partitions_or_copies_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TopicPlan(**settings)


def test_two_topics_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        TopicPlan(models="clicks")


def test_an_embedded_broker_given_the_plan_is_as_planned_and_says_what_was_not_checked() -> None:
    plan = TopicPlan(partitions=2)
    with EmbeddedKafka(plan.partition_counts()) as broker:
        report = check(plan, {"bootstrap.servers": broker.bootstrap})

    assert report.is_as_planned
    assert "embedded broker has no policies" in report.notes[0]


def test_missing_topics_and_other_partition_counts_are_named() -> None:
    with EmbeddedKafka({**TopicPlan(partitions=2).partition_counts(), "models": 3}) as broker:
        report = check(TopicPlan(partitions=2, clicks="visits"), {"bootstrap.servers": broker.bootstrap})

    assert report.differences == ("visits: missing, planned partitions: 2", "models: 3 partitions, planned 1")


def test_fewer_copies_than_planned_are_named() -> None:
    plan = TopicPlan(partitions=1, replication_factor=2)
    with EmbeddedKafka(plan.partition_counts()) as broker:
        report = check(plan, {"bootstrap.servers": broker.bootstrap})

    assert "clicks: replication factor 1, planned 2" in report.differences


def test_a_check_creates_no_topic(embedded_kafka: EmbeddedKafka) -> None:
    options = {"bootstrap.servers": embedded_kafka.bootstrap}
    check(TopicPlan(), options)

    assert AdminClient(options).list_topics(timeout=5).topics == {}


def test_nothing_is_left_to_create_on_an_embedded_broker_given_the_plan() -> None:
    with EmbeddedKafka(TopicPlan().partition_counts()) as broker:
        assert create(TopicPlan(), {"bootstrap.servers": broker.bootstrap}) == []


def test_creating_on_an_embedded_broker_says_how_it_gets_its_topics(embedded_kafka: EmbeddedKafka) -> None:
    with pytest.raises(TopicError, match=r"give it plan\.partition_counts\(\)"):
        create(TopicPlan(), {"bootstrap.servers": embedded_kafka.bootstrap})


def test_no_broker_is_a_readable_error_within_the_deadline() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(TopicError, match=f"no answer from Kafka at {nobody} within 0.3 s .*is it running"):
            check(TopicPlan(), {"bootstrap.servers": nobody}, deadline_s=0.3)


@pytest.mark.kafka
def test_created_topics_are_as_planned_and_created_once(real_kafka: LocalKafka) -> None:
    options = {"bootstrap.servers": real_kafka.bootstrap}
    plan = plan_named("created", partitions=3)

    assert create(plan, options) == list(plan.partition_counts())
    assert check(plan, options).differences == check(plan, options).notes == ()
    assert create(plan, options) == []


@pytest.mark.kafka
def test_other_policies_and_shorter_retentions_are_named_and_longer_ones_are_not(real_kafka: LocalKafka) -> None:
    options = {"bootstrap.servers": real_kafka.bootstrap}
    made = plan_named("aged", partitions=1, clicks_retention_ms=2 * DAY_MS, recommendations_retention_ms=DAY_MS)
    create(made, options)
    wanted = plan_named("aged", partitions=1, clicks_retention_ms=-1, recommendations_retention_ms=DAY_MS // 2)
    swapped = replace(wanted, models=made.dead_letters, dead_letters=made.models)

    assert check(wanted, options).differences == ("aged-clicks: retention.ms 172800000, planned -1",)
    assert "aged-dead-letters: cleanup.policy delete, planned compact" in check(swapped, options).differences


@pytest.mark.kafka
def test_the_changelog_is_cut_into_segments_small_enough_to_compact(real_kafka: LocalKafka) -> None:
    options = {"bootstrap.servers": real_kafka.bootstrap}
    plan = plan_named("segments", partitions=1)
    create(plan, options)
    client = AdminClient(options)
    resource = ConfigResource(ConfigResource.Type.TOPIC, plan.sessions_changelog)

    settings = client.describe_configs([resource])[resource].result(10)
    assert settings["segment.bytes"].value == str(64 * 1024 * 1024)
