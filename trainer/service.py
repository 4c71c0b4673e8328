"""The trainer's process: follows the clicks, holds rounds beside that, stops when told."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import structlog

from model.errors import DamagedVersionError, RecommenderError, RegistryFullError, UnknownVersionError
from model.registry import Registry
from trainer.announcer import KafkaAnnouncer
from trainer.errors import AnotherTrainerError
from trainer.failures import in_thread, what_to_do
from trainer.follower import ClickFollower
from trainer.lease import Lease
from trainer.leased_announcer import LeasedAnnouncer
from trainer.metrics import TrainerMetrics
from trainer.refresh import Refresher
from trainer.retention import Announced, Pruned, prune, superfluous
from trainer.rollback import Watch
from trainer.round import Published, Refused, Round, RoundResult, Skipped
from trainer.schedule import Schedule
from trainer.settings import TrainerSettings
from trainer.window import Window

MEND_AFTER = 8
"""Rounds in a row, about three minutes, that fail at a damaged serving version before learning goes on without it."""

REFRESH_REST = 10
"""A refresh is followed by a rest of this many times what it took: a vast catalogue must not keep a core busy."""

_log = structlog.get_logger(__name__)


async def run(
    *,
    kafka_options: Mapping[str, Any],
    clicks_topic: str,
    models_topic: str,
    registry: Registry,
    settings: TrainerSettings,
    metrics: TrainerMetrics,
    once: bool = False,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    stop: asyncio.Event | None = None,
) -> RoundResult | None:
    """Follow the clicks and hold rounds until told to stop.

    Told to stop, a round in progress ends between two mini-batches and leaves nothing behind; one whose candidate is
    trained is finished first, which takes seconds.

    Of several trainers on one models topic one holds rounds; the others read on and take over when it ends.

    Args:
        kafka_options: Keyword arguments of aiokafka's clients, `bootstrap_servers` and security among them.
        clicks_topic: Where clicks come from.
        models_topic: Where versions are announced.
        registry: Where versions are written.
        settings: Everything else.
        metrics: What Prometheus sees, and the health probes.
        once: Hold one round as soon as the window is read back, and return its result.
        clock: Wall clock, seconds since the Unix epoch, for names and timestamps.
        monotonic: Seconds that only go forward, for waits.
        stop: Set it to stop; by default SIGTERM and SIGINT do.

    Returns:
        With `once` the result of the round, None where it was told to stop before one began. Without, None.

    Raises:
        AnotherTrainerError: With `once`, another trainer is at work.
        DeviceUnavailableError: The settings ask for a device that is not there.
        RecommenderError: With `once`, whatever kept the round from being held. Without, the round is tried again.
    """
    _log.info("trainer started", once=once, device=str(settings.torch_device()))
    service = _Service(
        KafkaAnnouncer(kafka_options, models_topic, timeout_s=settings.kafka_timeout_s),
        Lease(kafka_options, models_topic, settings=settings, metrics=metrics),
        registry,
        settings,
        metrics,
        clock_ms=lambda: int(clock() * 1000),
        monotonic=monotonic,
    )
    follower = ClickFollower(
        kafka_options, clicks_topic, service.window, settings=settings, metrics=metrics, clock=monotonic
    )
    result = await service.run(follower, once=once, stop=_set_by_signals() if stop is None else stop)
    _log.info("trainer stopped")
    return result


class _Service:
    """Rounds in one thread, while clicks are read on the event loop."""

    def __init__(
        self,
        announcer: KafkaAnnouncer,
        lease: Lease,
        registry: Registry,
        settings: TrainerSettings,
        metrics: TrainerMetrics,
        *,
        clock_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.window = Window(settings.window_clicks)
        self._announcer = announcer
        self._lease = lease
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._schedule = Schedule(
            round_clicks=settings.round_clicks,
            round_interval_s=settings.round_interval_s,
            first_round_clicks=settings.first_round_clicks,
            retry_wait_s=settings.retry_wait_s,
            clock=monotonic,
        )
        self._stopping = threading.Event()
        self._refresher: Refresher | None = None
        self._refresh_due_s = monotonic()
        self._look_not_before_s = 0.0
        self._damaged = 0  # rounds in a row that failed at the version that serves

    async def run(self, follower: ClickFollower, *, once: bool, stop: asyncio.Event) -> RoundResult | None:
        """Read and hold rounds until told to stop, or until one of the two ends; see `run`."""
        with ThreadPoolExecutor(1, "round", self._settings.prepare_torch) as executor:
            reading = asyncio.create_task(follower.run(give_up=once))
            rounds = asyncio.create_task(self._rounds(follower, executor, once=once))
            told = asyncio.create_task(stop.wait())
            leasing = asyncio.create_task(self._lease.run(give_up=once))
            ended: set[asyncio.Task[Any]] = set()
            try:
                ended, _ = await asyncio.wait({reading, rounds, told, leasing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stopping.set()
                if not follower.has_read_back.is_set():
                    rounds.cancel()  # no round has begun
                for task in (told, reading):
                    task.cancel()  # does nothing to one that has ended
                await asyncio.gather(told, reading, rounds, return_exceptions=True)
                leasing.cancel()  # last: a round that is finished first still needs it
                await asyncio.gather(leasing, return_exceptions=True)
        for task in ended & {reading, leasing}:
            task.result()
        return None if rounds.cancelled() else rounds.result()

    async def _rounds(self, follower: ClickFollower, executor: ThreadPoolExecutor, *, once: bool) -> RoundResult | None:
        await follower.has_read_back.wait()
        watch = Watch(self._settings, self._registry, self._leased_announcer(), self._clock_ms)
        if once:
            if not await self._leads_soon():
                return None
            await self._look(watch, executor)
            return await self._round(executor)
        led = False
        while not self._stopping.is_set():
            self._metrics.new_clicks.set(self._schedule.waiting(self.window.clicks_added))
            if self._lease.held:
                if not led:
                    watch.hurry()  # another trainer may have left a rollback half done
                await self._turn(watch, executor)
            led = self._lease.held
            await asyncio.sleep(self._settings.poll_s)
        return None

    async def _turn(self, watch: Watch, executor: ThreadPoolExecutor) -> None:
        """Do what is due: a look at live clicks, then a round or a refresh."""
        await self._look(watch, executor)
        if self._schedule.is_due(self.window.clicks_added):
            try:
                if isinstance(await self._round(executor), Published):
                    watch.hurry()
            except RecommenderError as error:
                self._failed(error)
                if isinstance(error, RegistryFullError):
                    await self._make_room(executor)
        elif self._settings.refresh_interval_s is not None and self._monotonic() >= self._refresh_due_s:
            await self._refresh(executor, self._settings.refresh_interval_s)

    async def _leads_soon(self) -> bool:
        """Wait for the lease as long as a killed trainer keeps it; False where told to stop before."""
        until_s = self._monotonic() + 2 * self._settings.lease_s
        while not (self._lease.held or self._stopping.is_set()):
            if self._monotonic() > until_s:
                raise AnotherTrainerError(
                    f"another trainer is at work (consumer group {self._lease.group}): "
                    "leave the rounds to it, or stop it first"
                )
            await asyncio.sleep(self._settings.poll_s)
        return self._lease.held

    def _leased_announcer(self) -> LeasedAnnouncer:
        return LeasedAnnouncer(self._announcer, self._lease, asyncio.get_running_loop())

    def _should_stop(self) -> bool:
        return self._stopping.is_set() or not self._lease.held

    async def _look(self, watch: Watch, executor: ThreadPoolExecutor) -> None:
        """Roll back the version that serves where live clicks ask for it."""
        clicks = self.window.clicks_added
        if self._monotonic() < self._look_not_before_s or not watch.is_due(clicks):
            return
        try:
            found = await in_thread(executor, partial(watch.look, self.window.snapshot(), clicks))
        except RecommenderError as error:
            _log.error("look at live clicks failed", error=str(error), kind=type(error).__name__)
            watch.hurry()
            self._look_not_before_s = self._monotonic() + self._settings.retry_longest_s
            return
        if found is not None:
            self._metrics.looked(found)

    async def _round(self, executor: ThreadPoolExecutor) -> RoundResult:
        window = self.window.snapshot()
        _log.info(
            "round started", window_clicks=len(window), new_clicks=self._schedule.waiting(self.window.clicks_added)
        )
        self._schedule.started(self.window.clicks_added)
        started_s = self._monotonic()
        turn = Round(self._settings, self._registry, self._leased_announcer(), self._clock_ms)
        mend = self._damaged >= MEND_AFTER
        result = await in_thread(executor, partial(turn.run, window, mend=mend, should_stop=self._should_stop))
        if not mend or isinstance(result, Published):
            self._damaged = 0
        seconds = self._monotonic() - started_s
        self._schedule.ended()
        self._metrics.round_ended(result, seconds)
        _log_result(result, seconds)
        if isinstance(result, Published):
            self._refresh_due_s = self._monotonic()  # clicks came during the round
            await self._make_room(executor)
        return result

    async def _refresh(self, executor: ThreadPoolExecutor, interval_s: float) -> None:
        """Let workers have what came since the last round; where that fails, the next refresh has it."""
        started_s = self._monotonic()
        if self._refresher is None:
            self._refresher = Refresher(self._settings, self._registry, self._leased_announcer(), self._clock_ms)
        try:
            refresh = await in_thread(executor, partial(self._refresher.run, self.window.snapshot()))
        except RecommenderError as error:
            self._metrics.refreshes.labels("failed").inc()
            _log.warning("refresh failed", error=str(error), kind=type(error).__name__)
        else:
            self._metrics.refresh_ended(refresh, self._monotonic() - started_s)
            if refresh is not None:
                _log.debug("refreshed", base=refresh.base, refresh=refresh.name, new_items=len(refresh.item_ids))
        took_s = self._monotonic() - started_s
        self._refresh_due_s = self._monotonic() + max(interval_s, REFRESH_REST * took_s)

    async def _make_room(self, executor: ThreadPoolExecutor) -> None:
        """Remove the versions that nothing needs any more; where that fails, the next round tries again.

        What was said about a version that could be removed and not forgotten stays in the topic.
        """
        try:
            announced = await self._announcer.announced()
            pruned = await asyncio.get_running_loop().run_in_executor(executor, self._prune, announced)
            await self._announcer.forget(pruned.gone)
        except RecommenderError as error:
            _log.warning("old versions not removed", error=str(error), kind=type(error).__name__)
            return
        for failure in pruned.failures:
            _log.warning("old version not removed", error=failure)
        if pruned.gone:
            _log.info("old versions removed", versions=pruned.gone)

    def _prune(self, announced: Announced) -> Pruned:
        now_ms = self._clock_ms()
        found = superfluous(self._registry, announced, keep=self._settings.versions_kept, now_ms=now_ms)
        return prune(self._registry, found, now_ms=now_ms)

    def _failed(self, error: RecommenderError) -> None:
        wait_s = self._schedule.failed()
        self._metrics.round_failed(self._schedule.failures, f"{type(error).__name__}: {error}")
        # What another kind of failure says about the version is nothing: the count starts anew.
        self._damaged = self._damaged + 1 if isinstance(error, DamagedVersionError | UnknownVersionError) else 0
        _log.error(
            "round failed",
            error=str(error),
            to_do=what_to_do(error),
            kind=type(error).__name__,
            consecutive=self._schedule.failures,
            retry_in_s=wait_s,
        )


def _set_by_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _log_result(result: RoundResult, seconds: float) -> None:
    fields: dict[str, Any] = {"seconds": round(seconds, 3)}
    match result:
        case Published(announcement=announcement, report=report, selection=selection):
            _log.info(
                "round published",
                version=announcement.version,
                new_clicks=selection.new_clicks,
                replayed_clicks=selection.replayed_clicks,
                clicks_per_second=round(report.clicks_per_second),
                **{name: round(value, 4) for name, value in announcement.metrics.items()},
                **fields,
            )
        case Refused(reason=reason, detail=detail):
            _log.warning("round refused", reason=reason, detail=detail, **fields)
        case Skipped(reason=reason, detail=detail):
            _log.info("round skipped", reason=reason, detail=detail, **fields)
        case _:
            _log.info("round stopped", **fields)
