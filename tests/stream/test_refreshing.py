"""A hot swap that hears of refreshes."""

import numpy as np
import torch
from msgspec.structs import replace

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import REFRESH_KEY, RefreshAnnouncement
from model.gru4rec import EMBEDDING
from model.refresh import Refresh
from model.refreshes import Refreshes
from model.registry import Registry
from model.transitions import Neighbours
from tests.stream.announcing import Announcer, Following, following
from tests.stream.builders import ITEMS, NOW_MS, SHAPE, announcement, encoded, write_version
from tests.stream.event_loop import eventually, on_a_loop


def write_refresh(registry: Registry, name: str, *new_items: str, base: str = "v1") -> RefreshAnnouncement:
    """Write a refresh that appends items, and return its announcement."""
    items = len(ITEMS) + len(new_items)
    refresh = Refresh(
        name=name,
        base=base,
        item_ids=list(new_items),
        vectors={EMBEDDING: torch.ones(len(new_items), SHAPE.embedding_size)},
        rows=np.arange(len(ITEMS), items),
        neighbours=Neighbours.none(items),
        read_until={0: 9},
        created_at_ms=NOW_MS + 1_000,
    )
    vocabulary = registry.load(base).vocabulary.extended(new_items)
    return RefreshAnnouncement(name, base, Refreshes(registry.url).write(refresh, vocabulary), NOW_MS)


def items(worker: Following) -> list[str]:
    assert worker.swap.recommender is not None
    return worker.swap.recommender.vocabulary.item_ids


async def counts(worker: Following, result: str) -> None:
    """Wait until a refresh had this result."""
    name = "nextclick_refreshes_total"
    await eventually(lambda: worker.scrape.get_sample_value(name, {"result": result}) == 1, f"a refresh {result}")


@on_a_loop
async def test_a_refresh_changes_the_version_that_serves_and_not_its_name(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    async with following(embedded_kafka, registry) as worker:
        before = worker.swap.recommender
        announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "new").encode())
        await counts(worker, "applied")
        assert items(worker) == [*ITEMS, "new"]
        assert worker.serving == "v1"
        np.testing.assert_allclose(encoded(worker.swap.recommender, ITEMS[:3]), encoded(before, ITEMS[:3]), atol=1e-6)
        refreshed_s = worker.scrape.get_sample_value("nextclick_refreshed_timestamp_seconds")
        assert refreshed_s == (NOW_MS + 1_000) / 1000
        announcer.write(REFRESH_KEY, write_refresh(registry, "r2", "other", "new").encode())
        await eventually(lambda: items(worker) == [*ITEMS, "other", "new"], "the second refresh")


@on_a_loop
async def test_the_newest_refresh_is_there_from_the_start(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "new").encode())
    async with following(embedded_kafka, registry) as worker:
        assert items(worker) == [*ITEMS, "new"]


@on_a_loop
async def test_a_refresh_waits_for_its_version_and_is_kept_for_a_rollback(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    next_version = write_version(registry, "v2", parent="v1", with_companion=True)
    async with following(embedded_kafka, registry) as worker:
        announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "early").encode())
        await counts(worker, "applied")
        announcer.write(REFRESH_KEY, write_refresh(registry, "r2", "late", base="v2").encode())
        announcer.announce(next_version)
        await eventually(lambda: items(worker) == [*ITEMS, "late"], "v2 with its refresh")
        assert worker.serving == "v2"
        announcer.announce(announcement(registry, "v1", "rollback"))
        await worker.serves("v1")
        assert items(worker) == [*ITEMS, "early"]


@on_a_loop
async def test_a_version_that_was_refreshed_may_be_followed_by_one_with_other_items(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    async with following(embedded_kafka, registry) as worker:
        announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "new").encode())
        await counts(worker, "applied")
        announcer.announce(write_version(registry, "v2", [*ITEMS, "another", "new"], parent="v1"))
        await worker.serves("v2")


@on_a_loop
async def test_a_damaged_refresh_and_one_that_is_gone_leave_what_serves(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    async with following(embedded_kafka, registry) as worker:
        written = write_refresh(registry, "r1", "new")
        announcer.write(REFRESH_KEY, RefreshAnnouncement("r1", "v1", "00", NOW_MS).encode())
        await counts(worker, "hash")
        announcer.write(REFRESH_KEY, RefreshAnnouncement("gone", "v1", "00", NOW_MS).encode())
        await counts(worker, "replaced")
        announcer.write(REFRESH_KEY, b"junk")
        await worker.counts("invalid-announcement")
        assert items(worker) == ITEMS
        announcer.write(REFRESH_KEY, written.encode())
        await counts(worker, "applied")


@on_a_loop
async def test_a_version_without_companion_refuses_refreshes(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "new").encode())
        await counts(worker, "shape")
        assert items(worker) == ITEMS


@on_a_loop
async def test_refreshes_do_not_make_a_refused_version_be_tried_again(
    embedded_kafka: EmbeddedKafka, registry: Registry
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1", with_companion=True))
    async with following(embedded_kafka, registry) as worker:
        damaged = replace(write_version(registry, "v2", with_companion=True), sha256="00")
        announcer.announce(damaged)
        await worker.counts("hash")
        announcer.write(REFRESH_KEY, write_refresh(registry, "r1", "new").encode())
        await counts(worker, "applied")
        assert worker.count("hash") == 1
        announcer.announce(replace(damaged, announced_at_ms=NOW_MS))
        await worker.counts("hash", 2)
