"""A version that passes the gate and fails live, on real Apache Kafka: trainer's service and worker's hot swap."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer
from prometheus_client import CollectorRegistry

from deploy.local_kafka import LocalKafka
from model.registry import Registry
from stream.hot_swap import HotSwap
from stream.metrics import WorkerMetrics
from tests.trainer.broker_topics import BrokerTopics, make_topics, on_events
from tests.trainer.click_builders import MINUTE_MS, SMALL, wandering_clicks
from trainer.announcer import KafkaAnnouncer
from trainer.metrics import TrainerMetrics
from trainer.round import Published
from trainer.service import run

ITEMS = [f"item-{number}" for number in range(120)]
# What everybody does, and what only the clicks of one round do; the best 20 cannot hold both.
HABIT, LIE = range(1, 16), range(61, 76)
SETTINGS = SMALL.model_copy(
    update={
        "poll_s": 0.02,
        "first_round_clicks": 4000,
        "round_clicks": 2400,
        "gate_margin": 0.05,
        "rollback_cases": 500,
    }
)
DEADLINE_S = 120.0

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


class Site:
    """Topics, a registry, a trainer and a worker's hot swap between them."""

    def __init__(self, topics: BrokerTopics, folder: Path) -> None:
        self.topics = topics
        self.registry = Registry(str(folder / "registry"))
        self.announcer = KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=20)
        self._sessions = 0

    def click(self, steps: range, *, sessions: int) -> None:
        """Produce clicks that come after all the others."""
        generator = np.random.default_rng(self._sessions)
        start_ms = self._sessions * MINUTE_MS
        self._sessions += sessions
        self.topics.produce_clicks(wandering_clicks(ITEMS, steps, generator, sessions=sessions, start_ms=start_ms))

    def hot_swap(self) -> HotSwap:
        return HotSwap(
            registry=self.registry,
            new_consumer=lambda: AIOKafkaConsumer(**self.topics.aiokafka, enable_auto_commit=False),
            topic=self.topics.models,
            metrics=WorkerMetrics(CollectorRegistry()),
            top_k=20,
            device="cpu",
            versions_kept=3,
        )

    async def trainer(self, scrape: CollectorRegistry, **keywords: Any) -> Any:
        return await run(
            kafka_options=self.topics.aiokafka,
            clicks_topic=self.topics.clicks,
            models_topic=self.topics.models,
            registry=self.registry,
            settings=SETTINGS,
            metrics=TrainerMetrics(scrape),
            **keywords,
        )


def test_a_version_that_fails_live_is_taken_back_by_itself_and_never_serves_again(
    real_kafka: LocalKafka, tmp_path: Path
) -> None:
    site, scrape = Site(make_topics(real_kafka), tmp_path), CollectorRegistry()
    # What comes once the worker has swapped for the first, second, third and fourth time.
    then = [(LIE, 300), (HABIT, 150), (HABIT, 300), (HABIT, 150)]

    async def main() -> list[Any]:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def swapped(count: int) -> None:
            if count <= len(then):
                steps, sessions = then[count - 1]
                site.click(steps, sessions=sessions)

        site.click(HABIT, sessions=500)
        worker = site.hot_swap()
        with on_events(version_swapped=swapped, version_kept=lambda _: loop.call_soon_threadsafe(stop.set)) as events:
            await worker.start()
            await site.trainer(scrape, stop=stop)
            await worker.stop()
        return events

    events = asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
    swaps = [event["version"] for event in events if event["event"] == "version swapped"]
    (taken_back,) = [event for event in events if event["event"] == "version rolled back"]
    habit, lie, again, child = swaps[:4]
    assert (taken_back["version"], taken_back["to"], taken_back["cause"]) == (lie, habit, "worse")
    assert taken_back["recall@20_difference_upper"] < -SETTINGS.rollback_margin
    assert again == habit
    assert site.registry.manifest(lie).parent == site.registry.manifest(child).parent == habit
    assert lie not in swaps[2:]
    assert site.registry.manifest(lie).metrics["recall@20_difference_lower"] > 0, "it was better at the gate"
    assert scrape.get_sample_value("nextclick_trainer_rollbacks_total", {"cause": "worse"}) == 1

    async def started_anew() -> tuple[Any, str]:
        result = await site.trainer(CollectorRegistry(), once=True)
        worker = site.hot_swap()
        await worker.start()
        assert worker.recommender is not None
        serving = worker.recommender.version
        await worker.stop()
        return result, serving

    site.click(HABIT, sessions=300)
    result, serving = asyncio.run(asyncio.wait_for(started_anew(), DEADLINE_S))
    assert isinstance(result, Published)
    assert serving == result.announcement.version != lie
    assert asyncio.run(site.announcer.announced()).rejected == {lie}
