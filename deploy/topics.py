"""Which topics the system needs, and how they are made and checked. Nothing else creates a topic."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, NewTopic

from deploy.errors import TopicError
from model.clicks import DAY_MS

if TYPE_CHECKING:
    from concurrent.futures import Future

CleanupPolicy = Literal["delete", "compact", "compact,delete"]

_HOUR_MS: Final = 60 * 60 * 1000
_UNLIMITED_MS: Final = -1
# A changelog is compacted segment by segment and never in the one being written; with Kafka's own 1 GiB a
# worker would recover from records that were overwritten long ago.
_CHANGELOG_SEGMENT_BYTES: Final = 64 * 1024 * 1024
# The models topic is read from its beginning; refreshes come every few seconds, and the newest alone matters.
_MODELS_SEGMENT_BYTES: Final = 1024 * 1024
# How librdkafka's mock cluster names itself; it answers neither CreateTopics nor DescribeConfigs.
_EMBEDDED_CLUSTER: Final = "mockCluster"
# A dead letter has at most the first `stream.records.MOST_DEAD_BYTES` of a record, its key and some headers.
_DEAD_LETTER_BYTES: Final = 2 * 1024 * 1024
_ANSWER_DEADLINE_S: Final = 15.0
_POLL_S: Final = 0.05


@dataclass(frozen=True)
class Topic:
    """One topic as planned; `retention_ms` None where the policy never deletes by age."""

    name: str
    partitions: int
    cleanup_policy: CleanupPolicy
    retention_ms: int | None = None
    segment_bytes: int | None = None
    message_bytes: int | None = None

    def settings(self) -> dict[str, str]:
        """Kafka's settings for this topic."""
        settings: dict[str, str] = {"cleanup.policy": self.cleanup_policy}
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        if self.segment_bytes is not None:
            settings["segment.bytes"] = str(self.segment_bytes)
        if self.message_bytes is not None:
            settings["max.message.bytes"] = str(self.message_bytes)
        return settings


@dataclass(frozen=True)
class TopicPlan:
    """Every topic of one installation. All but `models` share one partition count, so clicks stay in place.

    Attributes:
        app: Id of the worker's consumer group; names the changelog.
        clicks: Topic of the clicks, also the trainer's log: its retention bounds the training window.
        recommendations: Topic of the answers.
        dead_letters: Topic of the records that are not clicks.
        models: Topic of the announcements; one partition.
        partitions: Of every topic but `models`; bounds how many workers can share the work.
        replication_factor: Copies of each partition.
        session_ttl_ms: How long a session may rest before it ends.
    """

    app: str = "nextclick"
    clicks: str = "clicks"
    recommendations: str = "recommendations"
    dead_letters: str = "clicks-dead-letters"
    models: str = "models"
    partitions: int = 8
    replication_factor: int = 1
    clicks_retention_ms: int = 7 * DAY_MS
    recommendations_retention_ms: int = DAY_MS
    dead_letters_retention_ms: int = 14 * DAY_MS
    changelog_retention_ms: int = DAY_MS
    session_ttl_ms: int = _HOUR_MS // 2

    def __post_init__(self) -> None:
        if self.partitions < 1 or self.replication_factor < 1:
            raise ValueError(
                "partitions and replication_factor must be at least 1, "
                f"got {self.partitions} and {self.replication_factor}"
            )
        if 0 <= self.changelog_retention_ms < self.session_ttl_ms:
            raise ValueError(
                f"changelog_retention_ms ({self.changelog_retention_ms}) is below session_ttl_ms "
                f"({self.session_ttl_ms}): sessions would be lost before they end"
            )
        names = [topic.name for topic in self.topics()]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"topic names must differ and not be empty, got {names}")

    @property
    def sessions_changelog(self) -> str:
        """Topic that mirrors the session store; the name that Faust gives the table `sessions`."""
        return f"{self.app}-sessions-changelog"

    def topics(self) -> tuple[Topic, ...]:
        """Every topic of the plan."""
        return (
            Topic(self.clicks, self.partitions, "delete", self.clicks_retention_ms),
            Topic(self.recommendations, self.partitions, "delete", self.recommendations_retention_ms),
            Topic(
                self.dead_letters,
                self.partitions,
                "delete",
                self.dead_letters_retention_ms,
                message_bytes=_DEAD_LETTER_BYTES,
            ),
            Topic(
                self.sessions_changelog,
                self.partitions,
                "compact,delete",
                self.changelog_retention_ms,
                _CHANGELOG_SEGMENT_BYTES,
            ),
            Topic(self.models, 1, "compact", segment_bytes=_MODELS_SEGMENT_BYTES),
        )

    def partition_counts(self) -> dict[str, int]:
        """Partition count of each topic, as `EmbeddedKafka` takes them."""
        return {topic.name: topic.partitions for topic in self.topics()}


@dataclass(frozen=True)
class TopicReport:
    """What `check` found: differences are to be mended, notes say what could not be looked at."""

    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_as_planned(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def require(self) -> None:
        """Raise TopicError unless everything is as planned."""
        advice = (
            "`nextclick topics create` makes missing ones; NEXTCLICK_PARTITIONS, NEXTCLICK_REPLICATION_FACTOR and"
            " NEXTCLICK_RETENTION__…_DAYS say what is planned"
        )
        if self.differences:
            raise TopicError(f"topics differ from the plan: {'; '.join(self.differences)}; {advice}")


def create(plan: TopicPlan, options: Mapping[str, Any], *, deadline_s: float = _ANSWER_DEADLINE_S) -> list[str]:
    """Create the topics of the plan that are missing and return their names, once clients can see them.

    Topics that exist are left as they are, whatever they are like: `check` tells.

    Args:
        plan: What to create.
        options: Connection for librdkafka: `bootstrap.servers`, and SASL and TLS where needed.
        deadline_s: For each step.

    Raises:
        TopicError: The cluster did not answer, refused, or is an embedded broker without them, which is given
            its topics at its start (`EmbeddedKafka(plan.partition_counts())`).
    """
    client = AdminClient({"log_level": 0, **options})
    cluster = _describe_cluster(client, options, deadline_s)
    missing = [topic for topic in plan.topics() if topic.name not in cluster.topics]
    if not missing:
        return []
    if _is_embedded(cluster):
        raise TopicError("an embedded broker makes its topics at its start: give it plan.partition_counts()")
    requests = [
        NewTopic(topic.name, topic.partitions, plan.replication_factor, config=topic.settings()) for topic in missing
    ]
    answers = client.create_topics(requests, request_timeout=deadline_s)
    created = [name for name, answer in answers.items() if _was_created(name, answer)]
    _wait_until_visible(client, options, created, deadline_s)
    return created


def check(plan: TopicPlan, options: Mapping[str, Any], *, deadline_s: float = _ANSWER_DEADLINE_S) -> TopicReport:
    """Compare the cluster with the plan, changing nothing.

    Missing topics, other partition counts, fewer copies, another cleanup policy and a shorter retention are
    differences; a longer retention is not. An embedded broker has no policies, which becomes a note.

    Args:
        plan: What should be there.
        options: As for `create`.
        deadline_s: For each step.

    Raises:
        TopicError: The cluster did not answer.
    """
    client = AdminClient({"log_level": 0, **options})
    cluster = _describe_cluster(client, options, deadline_s)
    differences: list[str] = []
    present: list[Topic] = []
    for topic in plan.topics():
        if topic.name not in cluster.topics:
            differences.append(f"{topic.name}: missing, planned partitions: {topic.partitions}")
            continue
        present.append(topic)
        differences += _layout_differences(topic, plan.replication_factor, cluster)
    if _is_embedded(cluster):
        note = "an embedded broker has no policies and no retention: only names and partitions were checked"
        return TopicReport(tuple(differences), (note,))
    for topic, settings in zip(present, _describe_settings(client, present, deadline_s), strict=True):
        differences += _settings_differences(topic, settings)
    return TopicReport(tuple(differences))


def require(plan: TopicPlan, options: Mapping[str, Any], *, deadline_s: float = _ANSWER_DEADLINE_S) -> None:
    """Raise TopicError unless all is as planned: a worker without its changelog would stay up and answer nothing."""
    check(plan, options, deadline_s=deadline_s).require()


def partitions_of(name: str, options: Mapping[str, Any], *, deadline_s: float = _ANSWER_DEADLINE_S) -> list[int]:
    """Return the partitions of one topic, or raise TopicError: no answer, or no such topic."""
    cluster = _describe_cluster(AdminClient({"log_level": 0, **options}), options, deadline_s)
    if name not in cluster.topics:
        raise TopicError(f"there is no topic {name}; make it with `nextclick topics create`")
    return sorted(cluster.topics[name].partitions)


def _describe_cluster(client: AdminClient, options: Mapping[str, Any], deadline_s: float) -> ClusterMetadata:
    try:
        # Without a name: asking for one topic by name may create it.
        return client.list_topics(timeout=deadline_s)
    except KafkaException as error:
        raise TopicError(
            f"no answer from Kafka at {options.get('bootstrap.servers')} within {deadline_s:g} s "
            f"({error.args[0].str()}): is it running, and are address and credentials right?"
        ) from error


def _is_embedded(cluster: ClusterMetadata) -> bool:
    return str(cluster.cluster_id).startswith(_EMBEDDED_CLUSTER)


def _was_created(name: str, answer: "Future[None]") -> bool:
    """Whether we created it; somebody else having done so at the same time is fine."""
    try:
        answer.result()
    except KafkaException as error:
        reason = error.args[0]
        if reason.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise TopicError(f"Kafka did not create topic {name}: {reason.str()}") from error
    return True


def _wait_until_visible(
    client: AdminClient, options: Mapping[str, Any], names: Sequence[str], deadline_s: float
) -> None:
    """Wait until the broker that we ask knows the topics: the controller says done a little earlier."""
    deadline = time.monotonic() + deadline_s
    while missing := set(names) - _describe_cluster(client, options, deadline_s).topics.keys():
        if time.monotonic() > deadline:
            raise TopicError(f"Kafka created {', '.join(sorted(missing))} but does not list them")
        time.sleep(_POLL_S)


def _layout_differences(topic: Topic, copies: int, cluster: ClusterMetadata) -> list[str]:
    partitions = cluster.topics[topic.name].partitions
    differences = []
    if len(partitions) != topic.partitions:
        differences.append(f"{topic.name}: {len(partitions)} partitions, planned {topic.partitions}")
    fewest = min((len(partition.replicas) for partition in partitions.values()), default=copies)
    if fewest < copies:
        differences.append(f"{topic.name}: replication factor {fewest}, planned {copies}")
    return differences


def _describe_settings(client: AdminClient, topics: Sequence[Topic], deadline_s: float) -> list[dict[str, str]]:
    """Ask for the settings of each topic, in this order."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic.name) for topic in topics]
    if not resources:
        return []
    answers = client.describe_configs(resources, request_timeout=deadline_s)
    try:
        return [{name: entry.value for name, entry in answers[resource].result().items()} for resource in resources]
    except KafkaException as error:
        raise TopicError(f"Kafka did not describe the topics: {error.args[0].str()}") from error


def _settings_differences(topic: Topic, settings: Mapping[str, str]) -> list[str]:
    differences = []
    policy = settings["cleanup.policy"]
    if {part.strip() for part in policy.split(",")} != set(topic.cleanup_policy.split(",")):
        differences.append(f"{topic.name}: cleanup.policy {policy}, planned {topic.cleanup_policy}")
    if topic.retention_ms is not None:
        actual, planned = _as_limit(int(settings["retention.ms"])), _as_limit(topic.retention_ms)
        if actual < planned:
            differences.append(f"{topic.name}: retention.ms {settings['retention.ms']}, planned {topic.retention_ms}")
    return differences


def _as_limit(retention_ms: int) -> float:
    return float("inf") if retention_ms == _UNLIMITED_MS else retention_ms
