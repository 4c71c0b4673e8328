"""Follow the models topic: verify, load and warm announced versions off the hot path, then flip.

The worker reads `HotSwap.recommender` once per micro-batch, so one batch has one version. A version that cannot be
used is refused and counted, and what serves goes on serving.
"""

import asyncio
import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from model.announcements import SERVING_KEY, Announcement
from model.errors import (
    DamagedVersionError,
    InvalidAnnouncementError,
    RecommenderError,
    RegistryUnavailableError,
    UnknownVersionError,
)
from model.recommender import Played, Recommender
from model.registry import Registry
from stream.json_arrays import items_as_json, scores_as_json
from stream.metrics import WorkerMetrics

RETRY_S = (1.0, 30.0)
# The shapes that serving meets: a lone click, a few sessions, a full batch.
WARM_UP_CLICKS = (1, 8, 64, 256)

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """A version in memory, verified and warm."""

    recommender: Recommender
    created_at_ms: int


def load_version(
    registry: Registry, announcement: Announcement, serving: Recommender | None, *, top_k: int, device: str
) -> Loaded:
    """Read, verify, build and warm the announced version.

    Raises:
        DamagedVersionError: The version, or its manifest against the announcement, is not what was announced; it does
            not extend the vocabulary of its parent that serves now; or its answers are not finite.
        UnknownVersionError: The registry has no such version.
        RegistryUnavailableError: The registry cannot be read now.
    """
    version = announcement.version
    sha256 = registry.manifest_sha256(version)
    if sha256 != announcement.sha256:
        raise DamagedVersionError(
            version, "hash", f"the announced manifest has sha256 {announcement.sha256}, the registry's {sha256}"
        )
    loaded = registry.load(version)
    parent = serving if serving and serving.version == loaded.parent else None
    if parent and not loaded.vocabulary.is_extension_of(parent.vocabulary):
        raise DamagedVersionError(version, "vocabulary", f"it does not extend that of its parent {loaded.parent}")
    try:
        recommender = Recommender(loaded.network, loaded.vocabulary, version, device=device, companion=loaded.companion)
    except ValueError as error:
        raise DamagedVersionError(version, "vocabulary", str(error)) from error
    _warm_up(recommender, top_k)
    return Loaded(recommender, loaded.created_at_ms)


def _warm_up(recommender: Recommender, top_k: int) -> None:
    """Answer made-up clicks of every shape that serving meets, and check that the answers are finite."""
    generator = np.random.default_rng(0)
    for clicks in WARM_UP_CLICKS:
        states = np.zeros((clicks, recommender.state_width), np.float32)
        rows = generator.integers(len(recommender.vocabulary), size=clicks)
        nothing_before, played = np.full(clicks, -1), Played.anew(clicks)
        forward = recommender.forward(states, nothing_before, np.arange(clicks), rows, top_k, played=played)
        if not (np.isfinite(forward.scores).all() and np.isfinite(forward.states).all()):
            raise DamagedVersionError(recommender.version, "non-finite", "its answers to a warm-up are not finite")
        # What answers are written from is worked out when it is first asked for: here, and not under the first click.
        vocabulary = recommender.vocabulary
        _ = items_as_json(forward.top_rows, vocabulary.json_ids), scores_as_json(forward.scores)
        _ = vocabulary.fingerprints


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
        self._registry = registry
        self._new_consumer = new_consumer
        self._partition = TopicPartition(topic, 0)
        self._metrics = metrics
        self._top_k = top_k
        self._device = device
        self._versions_kept = versions_kept
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._serving: Loaded | None = None
        self._announced: Announcement | None = None
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
                announcement = Announcement.decode(record.value or b"")
            except InvalidAnnouncementError as error:
                log.warning("announcement refused", offset=record.offset, error=str(error))
                self._metrics.swaps.labels("invalid-announcement").inc()
                continue
            self._earlier[announcement.version] = announcement
            if record.key == SERVING_KEY:
                self._announced = announcement
                self._wakeup.set()

    async def _apply_announced(self) -> None:
        """Apply each announcement; while the registry is away, try the newest one again with growing waits."""
        wait_s = RETRY_S[0]
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            assert self._announced is not None  # set before the event
            try:
                await self._apply(self._announced)
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
        loaded = self._loaded.get(version)
        if loaded is None:
            try:
                loaded = await asyncio.to_thread(
                    load_version,
                    self._registry,
                    announcement,
                    self.recommender,
                    top_k=self._top_k,
                    device=self._device,
                )
            except (DamagedVersionError, UnknownVersionError) as error:
                reason = error.reason if isinstance(error, DamagedVersionError) else "unknown-version"
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
        self._metrics.version_created.set(loaded.created_at_ms / 1000)
        self._metrics.swaps.labels("swapped").inc()
        log.info("version swapped", version=version, previous=previous.recommender.version if previous else None)

    async def _serve_an_earlier_version(self) -> None:
        """At the start, when the version that should serve is refused: take the newest other one that is whole."""
        others = sorted(self._earlier.values(), key=lambda announcement: -announcement.announced_at_ms)
        for announcement in others:
            with contextlib.suppress(RecommenderError):
                if announcement != self._announced and await self._apply(announcement):
                    return
