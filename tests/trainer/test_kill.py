"""SIGKILL at places drawn from all steps of a round: mini-batches, files, announcements, removals."""

import asyncio
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaProducer

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import Announcement
from model.registry import Registry
from tests.trainer.broker_topics import BrokerTopics, make_topics
from tests.trainer.click_builders import MINUTE_MS, SMALL, add_clicks, cyclic_clicks, window_of
from trainer.announcer import KafkaAnnouncer
from trainer.retention import Announced, prune, superfluous
from trainer.round import Published, Round
from trainer.window import WindowClicks

ITEMS = [f"item-{number}" for number in range(24)]
PLACES, SEED = 20, 5
QUICK = SMALL.model_copy(update={"epochs_round": 1, "batch_size": 64})
DAY_MS = 24 * 3600 * 1000


class Site:
    """A registry and a models topic, and rounds on them that end by being killed or not."""

    def __init__(self, folder: Path, topics: BrokerTopics) -> None:
        self.folder = folder
        self.registry = Registry(str(folder))
        self._kafka = KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=10)

    def serving(self) -> Announcement | None:
        return asyncio.run(self._kafka.serving())

    def announced(self) -> Announced:
        return asyncio.run(self._kafka.announced())

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        return asyncio.run(self._kafka.replace(serving, announcement))

    def hold(self, window: WindowClicks, number: int, should_stop: Callable[[], bool] = lambda: False) -> str:
        """Hold a round, then remove what nothing needs, as the service does; returns the new version."""
        result = Round(QUICK, self.registry, self, lambda: number * 1000, lambda: f"{number:04x}").run(
            window, should_stop=should_stop
        )
        assert isinstance(result, Published)
        found = superfluous(self.registry, self.announced(), keep=1, now_ms=number * 1000)
        pruned = prune(self.registry, found, now_ms=number * 1000)
        assert not pruned.failures
        asyncio.run(self._kafka.forget(pruned.gone))
        return result.announcement.version

    def serves_a_whole_version(self) -> str:
        """Check that all that counts as a version is whole and what serves is among them; returns what serves."""
        serving = self.serving()
        assert serving is not None
        assert self.registry.manifest_sha256(serving.version) == serving.sha256
        versions = self.registry.versions()
        assert serving.version in versions
        for version in versions:
            self.registry.load(version, training=True)
        return serving.version


class Killer:
    """Counts the steps of this process from now on, and kills it at one of them; never where that is None."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.steps = 0
        self._folder = str(folder)
        self._kill_at = kill_at
        sys.addaudithook(self._audit)
        for owner, name in ((os, "fsync"), (AIOKafkaProducer, "send_and_wait")):
            setattr(owner, name, self._counted(getattr(owner, name)))

    def step(self) -> None:
        if self.steps == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def mini_batch(self) -> bool:
        self.step()
        return False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        touches_files = event in {"open", "shutil.rmtree"} or event.startswith("os.")
        if touches_files and any(str(argument).startswith(self._folder) for argument in arguments):
            self.step()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.step()
            return function(*arguments, **keywords)

        return counted


def held_in_a_process(site: Site, window: WindowClicks, number: int, kill_at: int | None = None) -> int | None:
    """Hold a round in a process of its own; returns how many steps it took, or None where it was killed."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            killer = Killer(site.folder, kill_at)
            site.hold(window, number, killer.mini_batch)
            os.write(write_end, str(killer.steps).encode())
            status = 0
        except BaseException:  # noqa: BLE001 - nothing of the test's own process may go on in this one
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as steps:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status == (0 if kill_at is None else -signal.SIGKILL)
        return int(steps.read()) if status == 0 else None


def test_a_trainer_killed_anywhere_leaves_whole_versions_and_the_next_round_succeeds(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    window = window_of(cyclic_clicks(ITEMS, sessions=100))
    begun = Site(tmp_path / "begun", make_topics(embedded_kafka))
    begun.hold(window.snapshot(), 1)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=1000 * MINUTE_MS))
    old = begun.hold(window.snapshot(), 2)
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=2000 * MINUTE_MS))
    killed_in = window.snapshot()
    add_clicks(window, cyclic_clicks(ITEMS, sessions=100, start_ms=3000 * MINUTE_MS))
    next_one = window.snapshot()

    def begun_anew(name: str) -> Site:
        shutil.copytree(tmp_path / "begun", tmp_path / name)
        site = Site(tmp_path / name, make_topics(embedded_kafka))
        for version in begun.registry.versions():
            said = Announcement(version, "", begun.registry.manifest_sha256(version), "promote", {}, 0)
            assert site.replace(site.serving(), said)
        return site

    steps = held_in_a_process(begun_anew("counted"), killed_in, 3)
    assert steps is not None
    places = np.random.default_rng(SEED).choice(steps, PLACES, replace=False)
    served = []
    for place in sorted(places.tolist()):
        site = begun_anew(str(place))
        held_in_a_process(site, killed_in, 3, kill_at=place)
        served.append(site.serves_a_whole_version())
        held_in_a_process(site, next_one, 4)
        newest = site.serves_a_whole_version()
        assert newest == site.registry.versions()[-1]
        assert site.registry.manifest(newest).parent == served[-1]
        site.registry.sweep(time.time_ns() // 1_000_000 + 2 * DAY_MS)
        assert {entry.name for entry in site.folder.iterdir()} == set(site.registry.versions())
    changed = served.index(next(version for version in served if version != old))
    assert 0 < changed < PLACES, "killed before and after the announcement"
    assert set(served[:changed]) == {old}
    assert len(set(served[changed:])) == 1
