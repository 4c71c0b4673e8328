import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError
from prometheus_client import CollectorRegistry

from deploy.embedded_kafka import ApiKey, EmbeddedKafka
from deploy.local_kafka import LocalKafka
from model.announcements import Announcement, RefreshAnnouncement
from tests.stream.event_loop import eventually
from tests.trainer.broker_topics import BrokerTopics, make_topics, on_events, run_within_deadline
from tests.trainer.click_builders import cyclic_clicks
from tests.trainer.test_service import ITEMS, QUICK, Trainer, run_until
from trainer.announcer import KafkaAnnouncer
from trainer.errors import AnotherTrainerError, KafkaUnavailableError
from trainer.lease import Lease
from trainer.leased_announcer import LeasedAnnouncer
from trainer.metrics import TrainerMetrics


class Member:
    """A trainer's lease in the making, without the trainer."""

    def __init__(self, topics: BrokerTopics) -> None:
        self.metrics = TrainerMetrics(CollectorRegistry())
        self.lease = Lease(topics.aiokafka, topics.models, settings=QUICK, metrics=self.metrics)
        self._task = asyncio.create_task(self.lease.run())

    async def end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def members(topics: BrokerTopics) -> AsyncIterator[Callable[[], Member]]:
    """Yields what makes a member; all end with the block."""
    made: list[Member] = []

    def make() -> Member:
        made.append(Member(topics))
        return made[-1]

    try:
        yield make
    finally:
        for member in made:
            await member.end()


def test_a_lone_trainer_has_the_lease(topics: BrokerTopics) -> None:
    async def main() -> None:
        async with members(topics) as make:
            lone = make()
            assert not await lone.lease.confirmed()
            await eventually(lambda: lone.lease.held, "it has the lease")
            assert await lone.lease.confirmed()
            assert lone.metrics.readiness()[1]["leads"]

    run_within_deadline(main())


@pytest.mark.kafka
def test_the_first_keeps_the_lease_while_others_come_and_go_and_hands_it_on_at_once(real_kafka: LocalKafka) -> None:
    topics = make_topics(real_kafka)

    async def main() -> None:
        standing_by = 0

        def one_more(_count: int) -> None:
            nonlocal standing_by
            standing_by += 1

        with on_events(standing_by=one_more) as events:
            async with members(topics) as make:
                first = make()
                await eventually(lambda: first.lease.held, "it has the lease")
                others = [make() for _ in range(4)]
                await eventually(lambda: standing_by >= 4, "all others stand by")
                await others.pop().end()
                assert await first.lease.confirmed()
                assert not any(other.lease.held for other in others)
                assert not others[0].metrics.readiness()[1]["leads"]
                await first.end()
                assert not first.lease.held
                await eventually(lambda: any(other.lease.held for other in others), "another has the lease")
                assert sum([await other.lease.confirmed() for other in others]) == 1
        assert [event["event"] for event in events].count("lease taken") == 2

    run_within_deadline(main())


@pytest.mark.kafka
def test_who_hung_and_lost_the_lease_is_told_before_it_announces(real_kafka: LocalKafka) -> None:
    topics = make_topics(real_kafka)
    holds, is_to_go_on = threading.Event(), threading.Event()

    async def hanging() -> bool:
        async with members(topics) as make:
            member = make()
            await eventually(lambda: member.lease.held, "it has the lease")
            holds.set()
            is_to_go_on.wait()  # on the event loop: nothing of this member lives meanwhile
            assert member.lease.held, "as far as it knows"
            return await member.lease.confirmed()

    async def main() -> None:
        hung = asyncio.create_task(asyncio.to_thread(asyncio.run, hanging()))
        await eventually(holds.is_set, "it has the lease")
        async with members(topics) as make:
            other = make()
            await eventually(lambda: other.lease.held, "it has the lease")
            is_to_go_on.set()
            assert not await hung
            assert await other.lease.confirmed()

    run_within_deadline(main())


def test_kafka_that_is_away_is_waited_for(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    embedded_kafka.set_down()

    async def main() -> None:
        def bring_up(count: int) -> None:
            if count == 2:
                embedded_kafka.set_up()

        with on_events(no_lease_without_kafka=bring_up) as events:
            async with members(topics) as make:
                member = make()
                await eventually(lambda: member.lease.held, "it has the lease")
        waits_s = [event["retry_in_s"] for event in events if event["event"] == "no lease without kafka"]
        assert waits_s[:2] == [0.02, 0.04]

    run_within_deadline(main())


def test_once_kafka_that_is_away_is_an_error(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    lease = Lease(topics.aiokafka, topics.models, settings=QUICK, metrics=TrainerMetrics(CollectorRegistry()))
    embedded_kafka.set_down()
    with pytest.raises(KafkaUnavailableError):
        run_within_deadline(lease.run(give_up=True))


def test_a_group_that_may_not_be_joined_is_named(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)
    lease = Lease(topics.aiokafka, topics.models, settings=QUICK, metrics=TrainerMetrics(CollectorRegistry()))
    embedded_kafka.push_request_errors(ApiKey.JOIN_GROUP, [KafkaError.GROUP_AUTHORIZATION_FAILED] * 3)
    with pytest.raises(KafkaUnavailableError, match=f"{topics.models}-trainers cannot be joined: .*Authorization"):
        run_within_deadline(lease.run(give_up=True))


def test_kafka_that_does_not_confirm_the_lease_is_an_error(embedded_kafka: EmbeddedKafka) -> None:
    topics = make_topics(embedded_kafka)

    async def main() -> None:
        async with members(topics) as make:
            member = make()
            await eventually(lambda: member.lease.held, "it has the lease")
            embedded_kafka.set_down()
            with pytest.raises(KafkaUnavailableError, match="did not say within 5 s"):
                await member.lease.confirmed()
            embedded_kafka.set_up()

    run_within_deadline(main())


class AsTold:
    """Takes the place of `Lease`: held until told otherwise."""

    group = "trainers"

    def __init__(self) -> None:
        self.held = True
        self.is_confirmed = True

    async def run(self, **_keywords: object) -> None:
        await asyncio.Event().wait()

    async def confirmed(self) -> bool:
        return self.is_confirmed


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> AsTold:
    lease = AsTold()
    monkeypatch.setattr("trainer.service.Lease", lambda *_arguments, **_keywords: lease)
    return lease


def test_a_round_ends_without_a_trace_when_the_lease_is_lost(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, told: AsTold
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"epochs_first": 10**7}))

    def lose(_count: int) -> bool:
        told.held = False
        return False

    run_until(trainer, round_started=lose, round_stopped=lambda _: True)
    assert trainer.registry.versions() == []
    assert trainer.serving() is None


def test_a_version_is_not_announced_where_kafka_says_that_the_lease_is_lost(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, told: AsTold
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path)
    told.is_confirmed = False
    events = run_until(trainer, round_refused=lambda _: True)
    assert [event["reason"] for event in events if event["event"] == "round refused"] == ["superseded"]
    assert trainer.serving() is None


def test_once_waits_for_the_lease_and_then_gives_up(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, told: AsTold
) -> None:
    told.held = False
    with pytest.raises(AnotherTrainerError, match="leave the rounds to it, or stop it first"):
        run_within_deadline(Trainer(make_topics(embedded_kafka), tmp_path).run(once=True))


def test_without_the_lease_nothing_is_said(embedded_kafka: EmbeddedKafka, told: AsTold) -> None:
    topics = make_topics(embedded_kafka)
    told.is_confirmed = False
    lease: Any = told

    async def main() -> None:
        kafka = KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=5)
        leased = LeasedAnnouncer(kafka, lease, asyncio.get_running_loop())
        said = Announcement("v1", "uri", "00", "reject", {}, 0)
        for say, what in (
            (leased.announce, said),
            (leased.announce_refresh, RefreshAnnouncement("r1", "v1", "00", 0)),
        ):
            with pytest.raises(AnotherTrainerError, match="took over meanwhile"):
                await asyncio.to_thread(say, what)
        assert not await asyncio.to_thread(leased.replace, None, said)
        assert await kafka._records() == []

    run_within_deadline(main())
