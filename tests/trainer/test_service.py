import asyncio
import errno
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import REFRESH_KEY, RefreshAnnouncement
from model.errors import DamagedVersionError, RegistryUnavailableError
from model.refreshes import Refreshes
from model.registry import Registry
from tests.brokers import read_records
from tests.trainer.broker_topics import BrokerTopics, make_topics, on_events, run_within_deadline
from tests.trainer.click_builders import MINUTE_MS, SMALL, cyclic_clicks
from trainer.announcer import KafkaAnnouncer
from trainer.candidate import Candidate
from trainer.errors import DeviceUnavailableError, KafkaUnavailableError
from trainer.metrics import TrainerMetrics
from trainer.round import Published, RoundResult, Skipped
from trainer.service import MEND_AFTER, run
from trainer.settings import TrainerSettings

ITEMS = [f"item-{number}" for number in range(24)]
QUICK = SMALL.model_copy(
    update={
        "poll_s": 0.02,
        "retry_first_s": 0.02,
        "retry_longest_s": 0.05,
        "round_clicks": 400,
        "kafka_timeout_s": 5.0,
        "lease_s": 1.2,  # the embedded broker takes a second less than this over every change of a group
    }
)


class StopsAt(TrainerMetrics):
    """Stops the trainer once the window holds that many clicks."""

    def __init__(self, registry: CollectorRegistry, clicks: int, stop: asyncio.Event) -> None:
        super().__init__(registry)
        self._clicks = clicks
        self._stop = stop

    def turned(self) -> None:
        super().turned()
        if self.window_clicks._value.get() >= self._clicks:
            self._stop.set()


class Trainer:
    """A trainer process without the process."""

    def __init__(self, topics: BrokerTopics, folder: Path, settings: TrainerSettings = QUICK) -> None:
        self.registry = Registry(str(folder / "registry"))
        self.use_metrics(TrainerMetrics)
        self._topics = topics
        self._settings = settings

    def use_metrics(self, make: Callable[[CollectorRegistry], TrainerMetrics]) -> None:
        self.metrics_registry = CollectorRegistry()
        self.metrics = make(self.metrics_registry)

    async def run(self, *, once: bool = False, stop: asyncio.Event | None = None) -> RoundResult | None:
        return await run(
            kafka_options=self._topics.aiokafka,
            clicks_topic=self._topics.clicks,
            models_topic=self._topics.models,
            registry=self.registry,
            settings=self._settings,
            metrics=self.metrics,
            once=once,
            stop=stop,
        )

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics_registry.get_sample_value(f"nextclick_trainer_{name}", labels)

    def serving(self) -> str | None:
        announcer = KafkaAnnouncer(self._topics.aiokafka, self._topics.models, timeout_s=5)
        announcement = run_within_deadline(announcer.serving())
        return None if announcement is None else str(announcement.version)


def run_until(trainer: Trainer, **reactions: Callable[[int], bool]) -> list[Any]:
    """Run the trainer until a reaction to one of its events says so; returns all events."""

    async def main() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def stopping(reaction: Callable[[int], bool]) -> Callable[[int], object]:
            return lambda count: loop.call_soon_threadsafe(stop.set) if reaction(count) else None

        with on_events(**{name: stopping(reaction) for name, reaction in reactions.items()}) as events:
            await trainer.run(stop=stop)
            seen.extend(events)

    seen: list[Any] = []
    run_within_deadline(main())
    return seen


def names(events: list[Any]) -> list[str]:
    return [event["event"] for event in events]


def test_once_holds_one_round_over_the_whole_topic_and_publishes(topics: BrokerTopics, tmp_path: Path) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path)
    result = run_within_deadline(trainer.run(once=True))
    assert isinstance(result, Published)
    assert trainer.serving() == result.announcement.version == trainer.registry.versions()[0]
    assert trainer.value("rounds_total", result="published") == 1
    assert trainer.value("window_clicks") == 1600
    assert trainer.metrics.readiness()[0]


def test_once_with_too_few_clicks_skips_and_says_so(topics: BrokerTopics, tmp_path: Path) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=2))
    result = run_within_deadline(Trainer(topics, tmp_path).run(once=True))
    assert isinstance(result, Skipped)
    assert result.reason == "too-few-clicks"


def test_clicks_that_arrive_later_lead_to_a_child_of_the_first_version(topics: BrokerTopics, tmp_path: Path) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path)

    def more_clicks_then_stop(published: int) -> bool:
        if published == 1:
            topics.produce_clicks(cyclic_clicks([*ITEMS, "new"], sessions=200, start_ms=1000 * MINUTE_MS))
        return published == 2

    events = run_until(trainer, round_published=more_clicks_then_stop)
    first, second = trainer.registry.versions()
    assert trainer.serving() == second
    assert trainer.registry.manifest(second).parent == first
    assert trainer.registry.load(second).vocabulary.item_ids[-1] == "new"
    assert names(events)[-1] == "trainer stopped"


def test_a_restarted_trainer_goes_on_where_the_serving_version_ends(topics: BrokerTopics, tmp_path: Path) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    first = run_within_deadline(Trainer(topics, tmp_path).run(once=True))
    later = cyclic_clicks(ITEMS, sessions=100, start_ms=1000 * MINUTE_MS)
    topics.produce_clicks(later)
    second = run_within_deadline(Trainer(topics, tmp_path).run(once=True))
    assert isinstance(first, Published)
    assert isinstance(second, Published)
    assert second.selection.new_clicks == pytest.approx(len(later) * 0.8, abs=8)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_training_ends_the_trainer_without_a_trace(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, number: signal.Signals
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    a_week_of_epochs = QUICK.model_copy(update={"epochs_first": 10**7})
    trainer = Trainer(topics, tmp_path, a_week_of_epochs)
    with on_events(round_started=lambda _: signal.raise_signal(number)) as events:
        assert run_within_deadline(trainer.run()) is None
    assert names(events)[-2:] == ["round stopped", "trainer stopped"]
    assert trainer.value("rounds_total", result="stopped") == 1
    assert trainer.registry.versions() == []
    assert trainer.serving() is None


def test_clicks_are_read_on_while_a_round_trains(embedded_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    later = cyclic_clicks(ITEMS, sessions=100, start_ms=1000 * MINUTE_MS)
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"epochs_first": 10**7}))

    async def main() -> None:
        stop = asyncio.Event()
        trainer.use_metrics(lambda registry: StopsAt(registry, 2400, stop))
        with on_events(round_started=lambda _: topics.produce_clicks(later)):
            await trainer.run(stop=stop)

    run_within_deadline(main())
    assert trainer.value("window_clicks") == 2400
    assert trainer.value("rounds_total", result="stopped") == 1


def test_between_rounds_workers_hear_of_new_items(topics: BrokerTopics, tmp_path: Path) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"refresh_interval_s": 0.02}))

    def a_few_clicks(_: int) -> bool:
        topics.produce_clicks(cyclic_clicks(["item-3", "new"], sessions=1, clicks=2, start_ms=1000 * MINUTE_MS))
        return False

    events = run_until(trainer, round_published=a_few_clicks, refreshed=lambda _: True)
    refreshed = next(event for event in events if event["event"] == "refreshed")
    assert refreshed["base"] == trainer.serving()
    assert refreshed["new_items"] == 1
    assert trainer.value("refreshes_total", result="announced") == 1
    said = read_records(topics.bootstrap, topics.models, 3)[-1]
    assert said.key() == REFRESH_KEY
    assert RefreshAnnouncement.decode(said.value()).refresh == refreshed["refresh"]
    assert names(events).count("round started") == 1


def test_a_refresh_that_fails_is_made_up_for_by_the_next(
    topics: BrokerTopics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"refresh_interval_s": 0.02}))

    def a_few_clicks(_: int) -> bool:
        topics.produce_clicks(cyclic_clicks(["item-3", "new"], sessions=1, clicks=2, start_ms=1000 * MINUTE_MS))
        return False

    def away(*_: object) -> str:
        monkeypatch.undo()
        raise RegistryUnavailableError("gone fishing")

    monkeypatch.setattr(Refreshes, "write", away)
    events = run_until(trainer, round_published=a_few_clicks, refreshed=lambda _: True)
    assert names(events)[-3:] == ["refresh failed", "refreshed", "trainer stopped"]
    assert trainer.value("refreshes_total", result="failed") == 1


def test_kafka_away_at_the_start_is_waited_for_with_growing_waits(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    trainer = Trainer(topics, tmp_path)
    embedded_kafka.set_down()

    def bring_up_at_the_third(failures: int) -> bool:
        assert not trainer.metrics.readiness()[0]
        assert trainer.metrics.liveness()[0]
        if failures == 3:
            embedded_kafka.set_up()
        return False

    events = run_until(trainer, kafka_unavailable=bring_up_at_the_third, window_read_back=lambda _: True)
    waits_s = [event["retry_in_s"] for event in events if event["event"] == "kafka unavailable"]
    assert waits_s[:3] == [0.02, 0.04, 0.05]
    assert trainer.value("kafka_failures_total") == len(waits_s)
    assert trainer.metrics.readiness()[0]


def test_kafka_lost_later_makes_the_trainer_unready_until_it_is_back_and_no_click_is_read_twice(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=5))
    settings = QUICK.model_copy(update={"lag_interval_s": 0.05, "kafka_timeout_s": 1.0})
    trainer = Trainer(topics, tmp_path, settings)
    ready_when_lost: list[bool] = []

    def lose_it(_count: int) -> bool:
        embedded_kafka.set_down()
        return False

    def bring_back(count: int) -> bool:
        ready_when_lost.append(trainer.metrics.readiness()[0])
        if count == 1:
            embedded_kafka.set_up()
            topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=1000 * MINUTE_MS))
        return False

    events = run_until(
        trainer,
        window_read_back=lose_it,
        kafka_unavailable=bring_back,
        round_published=lambda _: True,
        round_refused=lambda _: True,
    )
    assert ready_when_lost
    assert not any(ready_when_lost)
    assert trainer.value("window_clicks") == 840
    assert names(events).count("window read back") == 1


def test_once_without_kafka_fails_instead_of_waiting(embedded_kafka: EmbeddedKafka, tmp_path: Path) -> None:
    topics = make_topics(embedded_kafka)
    embedded_kafka.set_down()
    with pytest.raises(KafkaUnavailableError):
        run_within_deadline(Trainer(topics, tmp_path).run(once=True))


def test_a_registry_that_is_away_fails_rounds_which_are_tried_again_with_growing_waits(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path)
    in_the_way = tmp_path / "registry"
    in_the_way.write_text("a file where the folder should be")

    def clear_the_way_at_the_second(failures: int) -> bool:
        assert trainer.value("rounds_total", result="failed") == failures
        assert trainer.value("consecutive_failed_rounds") == failures
        assert trainer.metrics.readiness()[0], "clicks are still read"
        if failures == 2:
            in_the_way.unlink()
        return False

    events = run_until(trainer, round_failed=clear_the_way_at_the_second, round_published=lambda _: True)
    failed = [event for event in events if event["event"] == "round failed"]
    assert [event["retry_in_s"] for event in failed] == [0.02, 0.04]
    assert {event["kind"] for event in failed} == {"RegistryUnavailableError"}
    assert trainer.value("consecutive_failed_rounds") == 0
    assert trainer.serving() == trainer.registry.versions()[0]


def test_versions_that_nothing_needs_go_after_each_published_round(topics: BrokerTopics, tmp_path: Path) -> None:
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"versions_kept": 1}))
    published = []
    for number in range(3):
        topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=number * 1000 * MINUTE_MS))
        result = run_within_deadline(trainer.run(once=True))
        assert isinstance(result, Published)
        published.append(result.announcement.version)
    assert trainer.registry.versions() == published[1:], "what serves and its parent"
    announcer = KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=5)
    assert run_within_deadline(announcer.announced()).versions == set(published[1:])


def test_a_version_that_cannot_be_removed_fails_no_round(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(embedded_kafka)
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"versions_kept": 1}))

    def read_only(_registry: Registry, _version: str) -> None:
        raise RegistryUnavailableError("read-only")

    monkeypatch.setattr(Registry, "remove", read_only)
    with on_events() as events:
        for number in range(3):
            topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=number * 1000 * MINUTE_MS))
            assert isinstance(run_within_deadline(trainer.run(once=True)), Published)
    assert len(trainer.registry.versions()) == 3
    failures = [event["error"] for event in events if event["event"] == "old version not removed"]
    assert failures == [f"version {trainer.registry.versions()[0]} was not removed: read-only"]


def two_versions(topics: BrokerTopics, folder: Path) -> tuple[str, str]:
    """Publish two versions, the second the child of the first."""
    published = []
    for number in range(2):
        topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=number * 1000 * MINUTE_MS))
        result = run_within_deadline(Trainer(topics, folder).run(once=True))
        assert isinstance(result, Published)
        published.append(result.announcement)
    rejection = replace(published[1], action="reject")
    run_within_deadline(KafkaAnnouncer(topics.aiokafka, topics.models, timeout_s=5).announce(rejection))
    return published[0].version, published[1].version


def test_a_rollback_that_a_crash_left_half_done_is_finished_at_the_start(topics: BrokerTopics, tmp_path: Path) -> None:
    first, second = two_versions(topics, tmp_path)
    trainer = Trainer(topics, tmp_path)
    assert trainer.serving() == second
    with on_events() as events:
        result = run_within_deadline(trainer.run(once=True))
    assert isinstance(result, Skipped), "what the rejected version was made from is not learned again"
    assert result.detail.startswith("0 new clicks")
    (taken_back,) = [event for event in events if event["event"] == "version rolled back"]
    assert (taken_back["version"], taken_back["to"], taken_back["cause"]) == (second, first, "unfinished")
    assert trainer.serving() == first
    assert trainer.value("rollbacks_total", cause="unfinished") == 1


def test_with_automatic_rollback_turned_off_a_rejected_version_serves_on(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    _, second = two_versions(topics, tmp_path)
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"auto_rollback": False}))
    run_within_deadline(trainer.run(once=True))
    assert trainer.serving() == second


def test_a_look_at_live_clicks_that_fails_is_held_again_and_stops_no_round(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    first, _ = two_versions(topics, tmp_path)
    weights = tmp_path / "registry" / first / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"")
    trainer = Trainer(topics, tmp_path)

    def mend_at_the_second(count: int) -> bool:
        if count == 2:
            weights.write_bytes(whole)
        return False

    events = run_until(trainer, look_at_live_clicks_failed=mend_at_the_second, version_rolled_back=lambda _: True)
    failed = [event for event in events if event["event"] == "look at live clicks failed"]
    assert [event["kind"] for event in failed] == ["DamagedVersionError"] * 2
    assert "round skipped" in names(events)
    assert trainer.serving() == first


def failures(events: list[Any]) -> list[Any]:
    return [event for event in events if event["event"] == "round failed"]


def test_a_full_disk_fails_rounds_loses_nothing_and_makes_room_for_the_next(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room for as many versions as are kept: only what a removal frees lets the next round write."""
    topics = make_topics(embedded_kafka)
    published = []
    for number in range(3):
        topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=number * 1000 * MINUTE_MS))
        result = run_within_deadline(Trainer(topics, tmp_path).run(once=True))
        assert isinstance(result, Published)
        published.append(result.announcement.version)
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"versions_kept": 2}))
    sync = os.fsync

    def sync_to_a_small_disk(descriptor: int) -> None:
        if len(list((tmp_path / "registry").iterdir())) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_to_a_small_disk)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=10_000 * MINUTE_MS))
    events = run_until(trainer, round_published=lambda _: True)
    (failed,) = failures(events)
    assert failed["kind"] == "RegistryFullError"
    assert "make room" in failed["to_do"]
    assert published[2] in trainer.registry.versions()
    assert trainer.serving() == trainer.registry.versions()[-1]
    assert {entry.name for entry in (tmp_path / "registry").iterdir()} == set(trainer.registry.versions())


def test_memory_that_runs_out_fails_the_round_which_is_tried_again(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path)
    train, tries = Candidate.trained, itertools.count()

    def hungry(candidate: Candidate, *arguments: Any) -> Any:
        if next(tries) < 2:
            torch.empty(2**50)
        return train(candidate, *arguments)

    monkeypatch.setattr(Candidate, "trained", hungry)
    events = run_until(trainer, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["MemoryExhaustedError"] * 2
    assert [event["retry_in_s"] for event in failures(events)] == [0.02, 0.04]
    assert "window_clicks" in failures(events)[0]["to_do"]
    assert trainer.serving() == trainer.registry.versions()[0]


def test_an_error_that_nobody_foresaw_ends_the_trainer(
    embedded_kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))

    def broken(*_arguments: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Candidate, "trained", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run_within_deadline(Trainer(topics, tmp_path).run())


def test_rounds_that_diverge_are_failures_in_a_row_that_readiness_tells(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    topics.produce_clicks(cyclic_clicks(ITEMS, sessions=200))
    trainer = Trainer(topics, tmp_path, QUICK.model_copy(update={"learning_rate": 1e38}))
    events = run_until(trainer, round_failed=lambda count: count == 3)
    ready, details = trainer.metrics.readiness()
    assert ready
    assert details["consecutive_failed_rounds"] == trainer.value("consecutive_failed_rounds") == 3
    assert details["last_failure"].startswith("TrainingDivergedError: ")
    assert [event["retry_in_s"] for event in failures(events)] == [0.02, 0.04, 0.05]
    assert trainer.registry.versions() == []


def test_a_damaged_serving_version_stops_learning_for_a_while_and_not_for_ever(
    embedded_kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    topics = make_topics(embedded_kafka)
    published = []
    for number in range(2):
        topics.produce_clicks(cyclic_clicks(ITEMS, sessions=100, start_ms=number * 1000 * MINUTE_MS))
        result = run_within_deadline(Trainer(topics, tmp_path).run(once=True))
        assert isinstance(result, Published)
        published.append(result.announcement.version)
    (tmp_path / "registry" / published[1] / "weights.safetensors").write_bytes(b"")
    trainer = Trainer(topics, tmp_path)
    with pytest.raises(DamagedVersionError):
        run_within_deadline(trainer.run(once=True))
    events = run_until(trainer, round_published=lambda _: True)
    assert [event["kind"] for event in failures(events)] == ["DamagedVersionError"] * MEND_AFTER
    assert "models rollback" in failures(events)[0]["to_do"]
    (mended,) = [event for event in events if event["event"].startswith("the serving version cannot be")]
    assert (mended["log_level"], mended["goes_on_from"]) == ("error", published[0])
    serving = trainer.serving()
    assert serving is not None
    assert trainer.registry.manifest(serving).parent == published[0]


def test_a_device_that_is_not_there_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    trainer = Trainer(
        BrokerTopics("127.0.0.1:1", "clicks", "models"), tmp_path, QUICK.model_copy(update={"device": "cuda"})
    )
    with pytest.raises(DeviceUnavailableError, match="set device to auto or cpu"):
        run_within_deadline(trainer.run())
