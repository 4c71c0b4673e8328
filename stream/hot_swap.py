"""Follow the models topic: load announced versions and refreshes off the hot path, then flip.

The worker reads `HotSwap.recommender` once per micro-batch, so one batch has one version. A version that cannot be
used is refused and counted, and what serves goes on serving.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from model.announcements import REFRESH_KEY, SERVING_KEY, Announcement, RefreshAnnouncement
from model.errors import (
    DamagedVersionError,
    InvalidAnnouncementError,
    RecommenderError,
    RegistryUnavailableError,
    UnknownVersionError,
)
from model.recommender import Recommender
from model.registry import Registry
from stream.loading import Loaded, Loader
from stream.metrics import WorkerMetrics

RETRY_S = (1.0, 30.0)

log = structlog.get_logger()


class HotSwap:
    """Holds the version that serves and replaces it when another is announced.

    Args:
        registry: Where versions are read from.
        new_consumer: Makes consumers without a group, for the models topic.
        topic: Name of the models topic.
        metrics: Where swaps and refusals are counted.
        top_k: Items per answer, for the warm-up.
        device: Where micro-batches are scored.
        versions_kept: Versions kept in memory for an instant rollback.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        new_consumer: Callable[[], AIOKafkaConsumer],
        topic: str,
        metrics: WorkerMetrics,
        top_k: int,
        device: str,
        versions_kept: int,
    ) -> None:
        self._loader = Loader(registry, top_k=top_k, device=device)
        self._new_consumer = new_consumer
        self._partition = TopicPartition(topic, 0)
        self._metrics = metrics
        self._versions_kept = versions_kept
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._serving: Loaded | None = None
        self._announced: Announcement | None = None
        self._announced_refresh: RefreshAnnouncement | None = None
        self._refused: Announcement | None = None
        self._earlier: dict[str, Announcement] = {}
        self._wakeup = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.refused: dict[str, str] = {}

    @property
    def recommender(self) -> Recommender | None:
        """The version that serves; None before the first."""
        return self._serving.recommender if self._serving else None

    async def start(self) -> None:
        """Read the models topic to its end, load what serves, then go on following in the background.

        Raises:
            KafkaError: The models topic cannot be read.
        """
        self._consumer = consumer = self._new_consumer()
        await consumer.start()
        consumer.assign([self._partition])
        await consumer.seek_to_beginning(self._partition)
        end = (await consumer.end_offsets([self._partition]))[self._partition]
        while await consumer.position(self._partition) < end:
            self._hear(await consumer.getmany(timeout_ms=1_000))
        if self._announced:
            # With the registry away, popularity answers until the background task gets through.
            with contextlib.suppress(RegistryUnavailableError):
                if not await self._apply(self._announced):
                    await self._serve_an_earlier_version()
                await self._refresh()
                self._wakeup.clear()
        self._tasks = [asyncio.create_task(self._listen(consumer)), asyncio.create_task(self._apply_announced())]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # `failed` tells what went wrong
        if self._consumer:
            await self._consumer.stop()

    async def failed(self) -> None:
        """Return never; raise what ended the following, if something unforeseen did."""
        await asyncio.gather(*self._tasks)

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            try:
                self._hear(await consumer.getmany(timeout_ms=1_000))
            except KafkaError as error:
                log.warning("models topic unavailable", error=repr(error))
                await asyncio.sleep(RETRY_S[0])

    def _hear(self, fetched: Mapping[TopicPartition, Any]) -> None:
        for record in (record for records in fetched.values() for record in records):
            if record.value is None and record.key != SERVING_KEY:
                self._earlier.pop((record.key or b"").decode(errors="replace"), None)  # removed from the registry
                continue
            try:
                if record.key == REFRESH_KEY:
                    self._announced_refresh = RefreshAnnouncement.decode(record.value)
                    self._wakeup.set()
                    continue
                announcement = Announcement.decode(record.value or b"")
            except InvalidAnnouncementError as error:
                log.warning("announcement refused", offset=record.offset, error=str(error))
                self._metrics.swaps.labels("invalid-announcement").inc()
                continue
            if announcement.action == "reject":
                self._earlier.pop(announcement.version, None)
                continue
            self._earlier[announcement.version] = announcement
            if record.key == SERVING_KEY:
                self._announced, self._refused = announcement, None
                self._wakeup.set()

    async def _apply_announced(self) -> None:
        """Apply each announcement; while the registry is away, try the newest one again with growing waits."""
        wait_s = RETRY_S[0]
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            if self._announced is None:
                continue
            try:
                await self._apply(self._announced)
                await self._refresh()
                wait_s = RETRY_S[0]
            except RegistryUnavailableError as error:
                log.warning("registry unavailable", version=self._announced.version, error=str(error), retry_s=wait_s)
                self._metrics.swaps.labels("registry-unavailable").inc()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wakeup.wait(), wait_s * random.uniform(0.8, 1.2))  # noqa: S311
                self._wakeup.set()
                wait_s = min(2 * wait_s, RETRY_S[1])

    async def _apply(self, announcement: Announcement) -> bool:
        """Make the announced version serve; False when it was refused and what served still does."""
        version = announcement.version
        if self.recommender and self.recommender.version == version:
            return True
        if announcement == self._refused:
            return False
        loaded = self._loaded.get(version)
        if loaded is None:
            try:
                loaded = await asyncio.to_thread(self._loader.load, announcement, self.recommender)
            except (DamagedVersionError, UnknownVersionError) as error:
                reason = error.reason if isinstance(error, DamagedVersionError) else "unknown-version"
                self._refused = announcement
                self.refused[version] = str(error)
                self._metrics.swaps.labels(reason).inc()
                log.warning("version refused", version=version, reason=reason, error=str(error))
                return False
        self._flip(loaded)
        return True

    def _flip(self, loaded: Loaded) -> None:
        """Serve `loaded` from the next micro-batch on; one assignment."""
        previous, self._serving = self._serving, loaded
        version = loaded.recommender.version
        self._loaded[version] = loaded
        self._loaded.move_to_end(version)
        self.refused.pop(version, None)
        while len(self._loaded) > self._versions_kept:
            self._loaded.popitem(last=False)
        if previous:
            self._metrics.version_info.remove(previous.recommender.version)
        self._metrics.version_info.labels(version).set(1)
        self._metrics.version_created.set(loaded.version.created_at_ms / 1000)
        self._metrics.refreshed.set(loaded.refreshed_at_ms / 1000)
        self._metrics.swaps.labels("swapped").inc()
        log.info("version swapped", version=version, previous=previous.recommender.version if previous else None)

    async def _refresh(self) -> None:
        """Let the announced refresh change what serves, where it is one of that version and not in it yet."""
        announced, serving = self._announced_refresh, self._serving
        if not announced or not serving or announced.base != serving.version.version:
            return
        if announced.refresh == serving.refresh:
            return
        try:
            refreshed = await asyncio.to_thread(self._loader.refresh, announced, serving)
        except UnknownVersionError:
            # A newer one has taken its place, and is announced.
            self._metrics.refreshes.labels("replaced").inc()
            return
        except DamagedVersionError as error:
            self._metrics.refreshes.labels(error.reason).inc()
            log.warning("refresh refused", refresh=announced.refresh, reason=error.reason, error=str(error))
            return
        self._serving = self._loaded[announced.base] = refreshed
        self._metrics.refreshed.set(refreshed.refreshed_at_ms / 1000)
        self._metrics.refreshes.labels("applied").inc()

    async def _serve_an_earlier_version(self) -> None:
        """At the start, when the version that should serve is refused: take the newest other one that is whole."""
        others = sorted(self._earlier.values(), key=lambda announcement: -announcement.announced_at_ms)
        for announcement in others:
            with contextlib.suppress(RecommenderError):
                if announcement != self._announced and await self._apply(announcement):
                    return
