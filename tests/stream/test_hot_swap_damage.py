"""Whatever is wrong with an announced version, it is refused by name and what served goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deploy.embedded_kafka import EmbeddedKafka
from model.registry import Registry
from tests.stream.announcing import (
    Announcer,
    announced_as_it_lies,
    edit_manifest,
    edit_weights,
    flip_byte,
    following,
    replace_file,
)
from tests.stream.builders import ITEMS, write_version
from tests.stream.event_loop import on_a_loop

Damage = Callable[[Path], object]
# Of a version on the disk, after it was announced: what happened to it, and why it is refused.
DAMAGE: dict[str, tuple[str, Damage]] = {
    "flipped bit in the weights": ("hash", lambda folder: flip_byte(folder / "weights.safetensors")),
    "flipped bit in the vocabulary": ("hash", lambda folder: flip_byte(folder / "vocabulary.json")),
    "flipped bit in the manifest": ("hash", lambda folder: flip_byte(folder / "manifest.json")),
    "truncated weights": (
        "size",
        lambda folder: (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-8]),
    ),
    "no weights": ("missing-file", lambda folder: (folder / "weights.safetensors").unlink()),
    "no vocabulary": ("missing-file", lambda folder: (folder / "vocabulary.json").unlink()),
    "no manifest": ("missing-file", lambda folder: (folder / "manifest.json").unlink()),
    "nothing at all": ("unknown-version", shutil.rmtree),
    "another manifest": ("hash", lambda folder: edit_manifest(folder, lambda found: found["metrics"].update(x=1.0))),
}
# Of a version that was written wrong, so that its announcement carries the hash of what lies there.
WRITTEN_WRONG: dict[str, tuple[str, Damage]] = {
    "wrong shape": (
        "shape",
        lambda folder: edit_weights(folder, lambda found: found.update({"gru.0.bias": torch.zeros(3)})),
    ),
    "missing tensor": ("shape", lambda folder: edit_weights(folder, lambda found: found.pop("gru.0.bias"))),
    "wrong type": (
        "shape",
        lambda folder: edit_weights(folder, lambda found: found.update(item_bias=found["item_bias"].double())),
    ),
    "no tensors": ("shape", lambda folder: replace_file(folder, "weights.safetensors", b"not tensors")),
    "not a number": (
        "non-finite",
        lambda folder: edit_weights(folder, lambda found: found["embedding"][3].fill_(float("nan"))),
    ),
    "numbers that overflow": (
        "non-finite",
        lambda folder: edit_weights(folder, lambda found: [tensor.fill_(1e30) for tensor in found.values()]),
    ),
    "shrunk vocabulary": ("vocabulary", lambda folder: replace_file(folder, "vocabulary.json", b'["item-0"]')),
    "repeated item": (
        "vocabulary",
        lambda folder: replace_file(
            folder, "vocabulary.json", (folder / "vocabulary.json").read_bytes().replace(b"item-1", b"item-2", 1)
        ),
    ),
    "unknown schema": ("schema", lambda folder: edit_manifest(folder, lambda found: found.update(schema=2))),
    "manifest that is none": ("manifest", lambda folder: (folder / "manifest.json").write_text('{"schema": 1}')),
    "manifest of another version": (
        "manifest",
        lambda folder: edit_manifest(folder, lambda found: found.update(version="v1")),
    ),
    "items of another order than its parent's": (
        "vocabulary",
        lambda folder: replace_file(
            folder, "vocabulary.json", b'["item-1","item-0"' + (folder / "vocabulary.json").read_bytes()[18:]
        ),
    ),
}


@pytest.mark.parametrize(
    ("reason", "damage", "is_announced_after"),
    [
        *[pytest.param(*DAMAGE[what], False, id=what) for what in DAMAGE],
        *[pytest.param(*WRITTEN_WRONG[what], True, id=what) for what in WRITTEN_WRONG],
    ],
)
@on_a_loop
async def test_a_damaged_version_is_refused_and_counted_and_what_served_goes_on(
    embedded_kafka: EmbeddedKafka,
    folder: Path,
    reason: str,
    damage: Damage,
    is_announced_after: bool,  # noqa: FBT001
) -> None:
    registry = Registry(str(folder))
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        serving = worker.swap.recommender
        promotion = write_version(registry, "v2", parent="v1")
        damage(folder / "v2")
        announcer.announce(announced_as_it_lies(promotion, folder / "v2") if is_announced_after else promotion)
        await worker.counts(reason)
        assert worker.swap.recommender is serving
        assert list(worker.swap.refused) == ["v2"]
        assert "v2" in worker.swap.refused["v2"]
        announcer.announce(write_version(registry, "v3", parent="v1"))
        await worker.serves("v3")
        assert (worker.count("swapped"), worker.count(reason)) == (2, 1)


@on_a_loop
async def test_a_child_that_does_not_extend_the_serving_parent_is_refused(
    embedded_kafka: EmbeddedKafka, registry: Registry, folder: Path
) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        promotion = write_version(registry, "v2", ITEMS[::-1])
        # Its manifest claims a parent, but nothing of the parent's items: only the serving version can tell.
        nothing = registry.load("v2").vocabulary.sha256(0)
        edit_manifest(folder / "v2", lambda found: found.update(parent="v1", parent_vocabulary_sha256=nothing))
        announcer.announce(announced_as_it_lies(promotion, folder / "v2"))
        await worker.counts("vocabulary")
        assert worker.serving == "v1"


@on_a_loop
async def test_a_version_without_items_is_refused(embedded_kafka: EmbeddedKafka, registry: Registry) -> None:
    announcer = Announcer(embedded_kafka)
    announcer.announce(write_version(registry, "v1"))
    async with following(embedded_kafka, registry) as worker:
        announcer.announce(write_version(registry, "v2", []))
        await worker.counts("vocabulary")
        assert worker.serving == "v1"
