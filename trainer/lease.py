"""Which of several trainers holds rounds: the one with the lease, while the others stand by.

The lease is the only partition of the models topic in a consumer group of the trainers. Whoever leaves the group hands
it on at once; whoever is killed or cut off does so when Kafka has not heard of it for `lease_s`.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata
from aiokafka.errors import KafkaError

from trainer.click_log import kafka_answer, stop_consumer
from trainer.errors import KafkaUnavailableError
from trainer.metrics import TrainerMetrics
from trainer.settings import TrainerSettings

_POLL_S = 0.1
_HEARTBEATS = 10  # in the time after which a trainer that is not heard of loses the lease

_log = structlog.get_logger(__name__)


class Lease:
    """One trainer's part in the group; `run` it, and ask `held`.

    Args:
        kafka_options: Keyword arguments of aiokafka's clients, `bootstrap_servers` and security among them.
        topic: The models topic, which must exist.
        settings: Waits.
        metrics: What Prometheus sees.

    Attributes:
        group: Id of the consumer group.
        held: Whether this trainer is the one, as far as is known here.
    """

    def __init__(
        self, kafka_options: Mapping[str, Any], topic: str, *, settings: TrainerSettings, metrics: TrainerMetrics
    ) -> None:
        self.group = f"{topic}-trainers"
        self.held = False
        self._changed = asyncio.Event()
        self._partition = TopicPartition(topic, 0)
        self._settings = settings
        self._metrics = metrics
        # Kafka answers a request to join only when every member has rejoined, or lost its place after `lease_s`.
        request_timeout_s = settings.kafka_timeout_s + settings.lease_s
        self._options = {"request_timeout_ms": int(request_timeout_s * 1000), **kafka_options}
        self._consumer: Any = None
        self._failures = 0  # since Kafka last let this trainer take part

    async def run(self, *, give_up: bool = False) -> None:
        """Take part until cancelled; then leave.

        Args:
            give_up: Raise where Kafka does not let this trainer take part, instead of trying again after growing waits.

        Raises:
            KafkaUnavailableError: With `give_up`.
        """
        while True:
            try:
                await self._take_part()
            except KafkaUnavailableError as error:
                if give_up:
                    raise
                wait_s = self._settings.retry_wait_s(self._failures)
                self._failures += 1
                _log.warning("no lease without kafka", error=str(error), retry_in_s=wait_s)
                await asyncio.sleep(wait_s)

    async def _take_part(self) -> None:
        lease_ms = int(self._settings.lease_s * 1000)
        self._consumer = AIOKafkaConsumer(
            group_id=self.group,
            enable_auto_commit=False,
            partition_assignment_strategy=[_ToTheFirst()],
            session_timeout_ms=lease_ms,
            heartbeat_interval_ms=lease_ms // _HEARTBEATS,
            **self._options,
        )
        try:
            await kafka_answer(self._consumer.start(), self._settings.kafka_timeout_s)
            self._consumer.subscribe([self._partition.topic], listener=_Listener(self))
            while True:
                # Nothing is ever read: this only tells the client that we are alive, and us what is wrong.
                await self._consumer.getmany(timeout_ms=int(_POLL_S * 1000))
        except KafkaError as error:
            raise KafkaUnavailableError(f"the trainers' group {self.group} cannot be joined: {error}") from error
        finally:
            self._note(held=False)
            await stop_consumer(self._consumer)

    async def confirmed(self) -> bool:
        """Whether the lease is still this trainer's, by Kafka's own word: `held` may be out of date after a pause.

        Raises:
            KafkaUnavailableError: Kafka did not say.
        """
        try:
            async with asyncio.timeout(self._settings.kafka_timeout_s):
                while self.held:
                    self._changed.clear()
                    if await self._is_member():
                        return True
                    await self._changed.wait()  # other trainers come or go; `held` is right after that
        except TimeoutError as error:
            raise KafkaUnavailableError(
                f"Kafka did not say within {self._settings.kafka_timeout_s:g} s whether this trainer holds the lease"
            ) from error
        return False

    async def _is_member(self) -> bool:
        """Commit: Kafka refuses that to whoever is not, or no more, of the group as it is now."""
        try:
            await self._consumer.commit({self._partition: 0})
        except KafkaError:
            return False
        return True

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Take note of what this trainer has in the group; called after every change of the group."""
        held_before, self._failures = self.held, 0
        self._note(held=self._partition in partitions)
        if self.held:
            self._consumer.pause(self._partition)
            if not held_before:
                _log.info("lease taken", group=self.group)
        elif held_before:
            _log.warning("lease lost", group=self.group, to_do="was this process stopped, or its machine overloaded?")
        else:
            _log.info(
                "standing by", group=self.group, reason="another trainer is at work; this one takes over when it ends"
            )

    def _note(self, *, held: bool) -> None:
        self.held = held
        self._metrics.leads(leads=held)
        self._changed.set()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Do nothing: the lease mostly comes back at the end of the change, and a round need not end for that."""

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._lease.assigned(assigned)


class _ToTheFirst:
    """Assigns all to the member that assigns: Kafka picks the earliest of a group, and keeps it while it lives.

    Every assignor of aiokafka would hand the lease to a trainer that has just come.
    """

    name = "nextclick-to-the-first"

    def __init__(self) -> None:
        self._me = secrets.token_bytes(16)

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, list(topics), self._me)

    def assign(
        self, _cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        return {
            member: ConsumerProtocolMemberAssignment(
                0, [(topic, [0]) for topic in metadata.subscription if metadata.user_data == self._me], b""
            )
            for member, metadata in members.items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing to remember."""
