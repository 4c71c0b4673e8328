"""What a trainer needs goes away in the middle of a round and comes back: nothing is lost."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.embedded_kafka import EmbeddedKafka
from tests.trainer.broker_topics import BrokerTopics, make_topics, run_within_deadline
from tests.trainer.click_builders import MINUTE_MS, cyclic_clicks
from tests.trainer.test_service import ITEMS, QUICK, Trainer, failures, run_until
from trainer.candidate import Candidate
from trainer.round import Published

CLICKS_A_TIME = 1600


def click(topics: BrokerTopics, times: int) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200, start_ms=times * 1000 * MINUTE_MS))


def first_version(topics: BrokerTopics, folder: Path) -> str:
    """Publish a version, and let clicks come for a second."""
    click(topics, 0)
    result = run_within_deadline(Trainer(topics, folder).run(once=True))
    assert isinstance(result, Published)
    click(topics, 1)
    return result.announcement.version


def assert_nothing_is_lost(trainer: Trainer, parent: str) -> None:
    """What serves has learned every click once, on top of `parent`, and every version is whole."""
    for version in trainer.registry.versions():
        trainer.registry.load(version, training=True)
    serving = trainer.serving()
    assert serving is not None
    manifest = trainer.registry.manifest(serving)
    assert manifest.parent == parent
    assert sum(manifest.trained_until.values()) == 2 * CLICKS_A_TIME
    assert trainer.value("window_clicks") == 2 * CLICKS_A_TIME


def at(step: str, monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> None:
    """Let something happen once, when the first round has taken a step: `trained` or `taught_rest`."""
    take, happened = getattr(Candidate, step), []

    def taken(candidate: Candidate, *arguments: Any) -> Any:
        result = take(candidate, *arguments)
        if not happened:
            happened.append(True)
            then()
        return result

    monkeypatch.setattr(Candidate, step, taken)


@pytest.mark.parametrize("step", ["trained", "taught_rest"])
def test_kafka_that_goes_away_during_a_round(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    topics = make_topics(embedded_kafka)
    first = first_version(topics, tmp_path)
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"kafka_timeout_s": 1.0}))
    at(step, monkeypatch, embedded_kafka.set_down)

    def bring_back(_count: int) -> bool:
        assert trainer.registry.versions()[0] == first
        embedded_kafka.set_up()
        return False

    events = run_until(trainer, round_failed=bring_back, round_published=lambda _: True)
    assert {event["kind"] for event in failures(events)} == {"KafkaUnavailableError"}
    assert_nothing_is_lost(trainer, parent=first)


@pytest.mark.parametrize("step", ["trained", "taught_rest"])
def test_a_registry_that_goes_away_during_a_round(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    topics = make_topics(embedded_kafka)
    first = first_version(topics, tmp_path)
    trainer = Trainer(topics, tmp_path)
    at(step, monkeypatch, lambda: (tmp_path / "registry").rename(tmp_path / "away"))

    def bring_back(count: int) -> bool:
        if count == 2:
            (tmp_path / "away").rename(tmp_path / "registry")
        return False

    events = run_until(trainer, round_failed=bring_back, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["UnknownVersionError"] * 2, "its parent is not there"
    assert trainer.serving() != first
    assert_nothing_is_lost(trainer, parent=first)


def test_a_disk_that_stays_full_for_a_while(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(embedded_kafka)
    first = first_version(topics, tmp_path)
    trainer = Trainer(topics, tmp_path)
    sync, is_full = os.fsync, [True, True, True]

    def sync_if_there_is_room(descriptor: int) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    def free_some(_count: int) -> bool:
        assert trainer.registry.versions() == [first]
        is_full.pop()
        return False

    monkeypatch.setattr(os, "fsync", sync_if_there_is_room)
    events = run_until(trainer, round_failed=free_some, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["RegistryFullError"] * 3
    assert_nothing_is_lost(trainer, parent=first)
    assert not list((tmp_path / "registry").glob("**/.unfinished-*"))


def test_memory_that_runs_out_when_a_round_has_trained(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(embedded_kafka)
    first = first_version(topics, tmp_path)
    trainer = Trainer(topics, tmp_path)

    def allocate() -> None:
        np.empty(2**50)

    at("taught_rest", monkeypatch, allocate)
    events = run_until(trainer, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["MemoryExhaustedError"]
    assert_nothing_is_lost(trainer, parent=first)


def test_a_serving_version_that_is_damaged_and_restored(embedded_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    topics = make_topics(embedded_kafka)
    first = first_version(topics, tmp_path)
    trainer = Trainer(topics, tmp_path)
    weights = tmp_path / "registry" / first / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])

    def restore(count: int) -> bool:
        if count == 2:
            weights.write_bytes(whole)
        return False

    events = run_until(trainer, round_failed=restore, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["DamagedVersionError"] * 2
    assert_nothing_is_lost(trainer, parent=first)
