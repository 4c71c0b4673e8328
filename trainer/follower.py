"""Follows the clicks topic into a window, through failures of Kafka."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from trainer.click_log import ClickBatch, KafkaClickLog, start_offsets
from trainer.errors import KafkaUnavailableError
from trainer.metrics import TrainerMetrics
from trainer.settings import TrainerSettings
from trainer.window import Window

_log = structlog.get_logger(__name__)


class ClickFollower:
    """Reads far enough back to fill a window, then whatever arrives.

    Args:
        kafka_options: Keyword arguments of aiokafka's clients, `bootstrap_servers` and security among them.
        topic: The clicks topic.
        window: Filled here; to be read on the same event loop.
        settings: Waits and sizes.
        metrics: What Prometheus sees.
        clock: Seconds that only go forward.

    Attributes:
        has_read_back: Set once all that the topic held at the start is in the window.
    """

    def __init__(
        self,
        kafka_options: Mapping[str, Any],
        topic: str,
        window: Window,
        *,
        settings: TrainerSettings,
        metrics: TrainerMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.has_read_back = asyncio.Event()
        self._kafka_options = kafka_options
        self._topic = topic
        self._window = window
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._offsets: dict[int, int] = {}

    async def run(self, *, give_up: bool = False) -> None:
        """Read until cancelled.

        Args:
            give_up: Raise where Kafka does not answer, instead of trying again after growing waits.

        Raises:
            KafkaUnavailableError: With `give_up`.
        """
        failures = 0
        while True:
            try:
                async with KafkaClickLog(
                    self._kafka_options, self._topic, timeout_s=self._settings.kafka_timeout_s
                ) as log:
                    await self._begin(log)
                    failures = 0
                    await self._follow(log)
            except KafkaUnavailableError as error:
                self._metrics.kafka_failed()
                if give_up:
                    raise
                wait_s = self._settings.retry_wait_s(failures)
                failures += 1
                _log.warning("kafka unavailable", error=str(error), retry_in_s=wait_s)
                await self._pause(wait_s)

    async def _begin(self, log: KafkaClickLog) -> None:
        """Read on from where the window ends, or from far enough back to fill it."""
        oldest, newest = await log.range()
        if not self._offsets:
            self._offsets = start_offsets(oldest, newest, self._settings.window_clicks)
        # An added partition is read from its beginning, as is one that is shorter now: the topic was made anew.
        reached = {number: self._offsets.get(number, oldest[number]) for number in newest}
        self._offsets = {number: at if at <= newest[number] else oldest[number] for number, at in reached.items()}
        log.read_from(self._offsets)
        self._metrics.kafka_reached()
        while any(at < newest[number] for number, at in (await log.positions()).items()):
            await self._read(log)
        if not self.has_read_back.is_set():
            self.has_read_back.set()
            self._metrics.window_read_back()
            _log.info("window read back", clicks=len(self._window), partitions=len(newest))

    async def _follow(self, log: KafkaClickLog) -> None:
        looked_s = self._clock()
        while True:
            await self._read(log)
            if self._clock() - looked_s >= self._settings.lag_interval_s:
                looked_s = self._clock()
                await self._look_ahead(log)

    async def _look_ahead(self, log: KafkaClickLog) -> None:
        """Measure the lag, and start on partitions that were added; fails where Kafka is away."""
        oldest, newest = await log.range()
        positions = await log.positions()
        self._metrics.lag_clicks.set(sum(max(0, newest[number] - at) for number, at in positions.items()))
        if added := newest.keys() - positions.keys():
            _log.info("partitions added", partitions=sorted(added))
            log.read_from(positions | {number: oldest[number] for number in added})

    async def _read(self, log: KafkaClickLog) -> None:
        for batch in await log.read(self._settings.poll_s):
            self._take(batch)
        self._metrics.window_clicks.set(len(self._window))
        self._metrics.turned()

    def _take(self, batch: ClickBatch) -> None:
        self._window.extend(batch.partition, batch.offsets, batch.clicks, batch.next_offset)
        self._offsets[batch.partition] = batch.next_offset
        for reason, count in batch.invalid.items():
            self._metrics.invalid_clicks.labels(reason).inc(count)

    async def _pause(self, seconds: float) -> None:
        until_s = self._clock() + seconds
        while self._clock() < until_s:
            self._metrics.turned()
            await asyncio.sleep(min(self._settings.poll_s, seconds))
