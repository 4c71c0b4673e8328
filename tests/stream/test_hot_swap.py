import shutil
from pathlib import Path
from typing import Never

import numpy as np
import pytest
from aiokafka import AIOKafkaConsumer
from msgspec.structs import replace

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import SERVING_KEY
from model.registry import Registry
from tests.stream.announcing import (
    Announcer,
    flip_byte,
    following,
)
from tests.stream.builders import ITEMS, NOW_MS, SEEDS, announcement, encoded, recommender, write_version
from tests.stream.event_loop import on_a_loop


@on_a_loop
async def test_nothing_serves_before_the_first_announcement(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    Announcer(embedded_kafka)
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving is None


@on_a_loop
async def test_what_is_announced_before_the_start_serves_from_the_start(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    Announcer(embedded_kafka).announce(write_version(registry, "v1"), write_version(registry, "v2"))
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving == "v2"
        assert worker.count("swapped") == 1


@on_a_loop
async def test_an_announced_version_is_swapped_in_with_its_own_weights_and_items(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(write_version(registry, "v2", [*ITEMS, "new"], parent="v1"))
        await worker.serves("v2")
        assert worker.swap.recommender is not None
        assert worker.swap.recommender.vocabulary.item_ids == [*ITEMS, "new"]
        expected = encoded(recommender("v2", [*ITEMS, "new"]), ["new"])
        np.testing.assert_allclose(encoded(worker.swap.recommender, ["new"]), expected)


@on_a_loop
async def test_what_answers_are_written_from_is_there_before_the_first_click(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    Announcer(embedded_kafka).announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        assert worker.swap.recommender is not None
        assert {"json_ids", "fingerprints"} <= vars(worker.swap.recommender.vocabulary).keys()


@on_a_loop
async def test_metrics_name_the_serving_version_alone_and_its_age(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(write_version(registry, "v2"))
        await worker.serves("v2")
        assert worker.scrape.get_sample_value("nextclick_version_info", {"model_version": "v2"}) == 1
        assert worker.scrape.get_sample_value("nextclick_version_info", {"model_version": "v1"}) is None
        created_s = worker.scrape.get_sample_value("nextclick_version_created_timestamp_seconds")
        assert created_s == (NOW_MS + SEEDS["v2"]) / 1000
        assert worker.count("swapped") == 2


@on_a_loop
async def test_an_announcement_under_a_version_s_own_name_does_not_swap(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    announcer.write(b"v2", write_version(registry, "v2").encode())
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving == "v1"
        announcer.write(b"v2", announcement(registry, "v2").encode())
        announcer.announce(write_version(registry, "v3"))
        await worker.serves("v3")
        assert worker.count("swapped") == 2


@on_a_loop
async def test_a_kept_version_is_rolled_back_to_without_the_registry(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    rollback = announcement(registry, "v1", "rollback")
    async with following(embedded_kafka, registry) as worker:
        first = worker.swap.recommender
        announcer.announce(write_version(registry, "v2"))
        await worker.serves("v2")
        shutil.rmtree(folder)
        announcer.announce(rollback)
        await worker.serves("v1")
        assert worker.swap.recommender is first


@on_a_loop
async def test_no_more_versions_are_kept_than_told(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    rollbacks = [announcement(registry, "v1", "rollback")]
    async with following(embedded_kafka, registry, versions_kept=2) as worker:
        for version in ("v2", "v3"):
            announcer.announce(write_version(registry, version))
            await worker.serves(version)
            rollbacks.append(announcement(registry, version, "rollback"))
        shutil.rmtree(folder)
        announcer.announce(rollbacks[0])
        await worker.counts("unknown-version")
        assert worker.serving == "v3"
        announcer.announce(rollbacks[1])
        await worker.serves("v2")


@on_a_loop
async def test_the_version_that_served_longest_ago_is_let_go_first(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcements = [write_version(registry, version) for version in ("v1", "v2", "v3")]
    announcer.announce(announcements[0])
    async with following(embedded_kafka, registry, versions_kept=2) as worker:
        for turn in (1, 0, 2):
            announcer.announce(announcements[turn])
            await worker.serves(announcements[turn].version)
        shutil.rmtree(folder)
        announcer.announce(announcements[0])
        await worker.serves("v1")


@on_a_loop
async def test_a_refused_version_serves_once_it_is_whole_and_announced_again(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    promotion = write_version(registry, "v2")
    flip_byte(folder / "v2" / "weights.safetensors")
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(promotion)
        await worker.counts("hash")
        flip_byte(folder / "v2" / "weights.safetensors")
        announcer.announce(promotion)
        await worker.serves("v2")
        assert worker.swap.refused == {}


@on_a_loop
async def test_bytes_that_are_no_announcement_are_counted_and_passed_over(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.write(SERVING_KEY, b"junk")
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        announcer.write(SERVING_KEY, b"\xff\x00")
        announcer.write(SERVING_KEY, b"")
        await worker.counts("invalid-announcement", 3)
        assert worker.serving == "v1"


@on_a_loop
async def test_a_version_that_was_removed_from_the_registry_is_no_bad_announcement(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"), write_version(registry, "v2"))
    announcer.write(b"v1", None)
    async with following(embedded_kafka, registry) as worker:
        announcer.write(SERVING_KEY, b"junk")
        await worker.counts("invalid-announcement", 1)
        assert worker.serving == "v2"
        assert list(worker.swap._earlier) == ["v2"]


@on_a_loop
async def test_with_a_damaged_serving_version_the_newest_earlier_whole_one_serves_from_the_start(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcements = [write_version(registry, version) for version in ("v1", "v2", "v3")]
    Announcer(embedded_kafka).announce(*announcements)
    flip_byte(folder / "v3" / "weights.safetensors")
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving == "v2"
        assert list(worker.swap.refused) == ["v3"]


@on_a_loop
async def test_a_rejected_version_is_no_earlier_version_to_serve_until_it_is_announced_again(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    first, second, third = (write_version(registry, version) for version in ("v1", "v2", "v3"))
    announcer = Announcer(embedded_kafka)
    announcer.announce(first, second)
    announcer.write(b"v2", replace(second, action="reject").encode())
    announcer.announce(third)
    flip_byte(folder / "v3" / "weights.safetensors")
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving == "v1"
    announcer.announce(second, third)
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving == "v2"


@on_a_loop
async def test_a_rejection_alone_changes_nothing_that_serves(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    announcer, announcement = Announcer(embedded_kafka), write_version(registry, "v1")
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(announcement)
        await worker.serves("v1")
        announcer.write(b"v1", replace(announcement, action="reject").encode())
        announcer.write(SERVING_KEY, b"junk")
        await worker.counts("invalid-announcement", 1)
        assert worker.serving == "v1"


@on_a_loop
async def test_a_version_refused_at_the_start_is_counted_once(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"), write_version(registry, "v2"))
    flip_byte(folder / "v2" / "weights.safetensors")
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(write_version(registry, "v3"))
        await worker.serves("v3")
        assert worker.count("hash") == 1


@on_a_loop
async def test_with_every_version_damaged_the_worker_starts_with_popularity(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    Announcer(embedded_kafka).announce(write_version(registry, "v1"), write_version(registry, "v2"))
    for version in ("v1", "v2"):
        flip_byte(folder / version / "weights.safetensors")
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving is None
        assert sorted(worker.swap.refused) == ["v1", "v2"]


def take_away(folder: Path) -> None:
    """Make the registry unreadable without making it empty."""
    folder.rename(folder.with_suffix(".away"))
    folder.write_bytes(b"in the way")


def bring_back(folder: Path) -> None:
    folder.unlink()
    folder.with_suffix(".away").rename(folder)


@on_a_loop
async def test_a_version_announced_while_the_registry_is_away_serves_once_it_is_back(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    promotion = write_version(registry, "v2")
    async with following(embedded_kafka, registry) as worker:
        take_away(folder)
        announcer.announce(promotion)
        await worker.counts("registry-unavailable")
        assert (worker.serving, worker.swap.refused) == ("v1", {})
        bring_back(folder)
        await worker.serves("v2")


@on_a_loop
async def test_a_worker_starts_while_the_registry_is_away(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    Announcer(embedded_kafka).announce(write_version(registry, "v1"))
    take_away(folder)
    async with following(embedded_kafka, registry) as worker:
        assert worker.serving is None
        await worker.counts("registry-unavailable")
        bring_back(folder)
        await worker.serves("v1")


@on_a_loop
async def test_an_announcement_is_heard_after_the_broker_was_down(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        embedded_kafka.set_down()
        embedded_kafka.set_up()
        announcer.announce(write_version(registry, "v2"))
        await worker.serves("v2")


class BrokenConsumer(AIOKafkaConsumer):
    """Fails in a way that nobody foresaw once the topic has been read to its end."""

    async def getmany(self, *_: object, **__: object) -> Never:
        raise RuntimeError("unforeseen")


@on_a_loop
async def test_what_ends_the_following_is_raised(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    Announcer(embedded_kafka)
    async with following(embedded_kafka, registry, consumer=BrokenConsumer) as worker:
        with pytest.raises(RuntimeError, match="unforeseen"):
            await worker.swap.failed()
