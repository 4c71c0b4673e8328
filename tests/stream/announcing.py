"""A hot swap that follows an embedded broker, and what may befall a version in its registry."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors.torch
import torch
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer
from prometheus_client import CollectorRegistry

from deploy.embedded_kafka import EmbeddedKafka
from model.announcements import SERVING_KEY, Announcement
from model.registry import Registry
from stream.hot_swap import HotSwap
from stream.metrics import WorkerMetrics
from tests.stream.event_loop import eventually

TOPIC = "models"


class Announcer:
    """Writes to the models topic, as the trainer and the command line do."""

    def __init__(self, broker: EmbeddedKafka) -> None:
        broker.create_topic(TOPIC, 1)
        self._producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})

    def announce(self, *announcements: Announcement) -> None:
        """Announce versions to serve, the last of them for good: under their own names, then as the serving one."""
        for announcement in announcements:
            self.write(announcement.version.encode(), announcement.encode())
            self.write(SERVING_KEY, announcement.encode())

    def write(self, key: bytes, value: bytes | None) -> None:
        self._producer.produce(TOPIC, value, key)
        self._producer.flush()


@dataclass
class Following:
    """A started hot swap.

    Attributes:
        swap: What is tested.
        scrape: Its metrics.
    """

    swap: HotSwap
    scrape: CollectorRegistry

    @property
    def serving(self) -> str | None:
        return self.swap.recommender.version if self.swap.recommender else None

    def count(self, result: str) -> float:
        """Return how many announcements had this result."""
        return self.scrape.get_sample_value("nextclick_swaps_total", {"result": result}) or 0

    async def serves(self, version: str) -> None:
        """Wait until a version serves."""
        await eventually(lambda: self.serving == version, f"{version} serves")

    async def counts(self, result: str, times: int = 1) -> None:
        """Wait until that many announcements had this result."""
        await eventually(lambda: self.count(result) >= times, f"{times} x {result}")


@asynccontextmanager
async def following(
    broker: EmbeddedKafka,
    registry: Registry,
    *,
    versions_kept: int = 3,
    consumer: type[AIOKafkaConsumer] = AIOKafkaConsumer,
) -> AsyncIterator[Following]:
    """Start a hot swap on the models topic of `broker`, and stop it at the end."""
    scrape = CollectorRegistry()
    swap = HotSwap(
        registry=registry,
        new_consumer=lambda: consumer(
            bootstrap_servers=broker.bootstrap, enable_auto_commit=False, fetch_max_wait_ms=10
        ),
        topic=TOPIC,
        metrics=WorkerMetrics(scrape),
        top_k=5,
        device="cpu",
        versions_kept=versions_kept,
    )
    await swap.start()
    try:
        yield Following(swap, scrape)
    finally:
        await swap.stop()


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace one file of a version and its entry in the manifest, as a faulty writer would."""
    (folder / name).write_bytes(data)
    edit_manifest(
        folder,
        lambda manifest: manifest["files"].update(
            {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
        ),
    )


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a version in place."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a version, keeping its manifest in step but for the shapes."""
    tensors = safetensors.torch.load_file(folder / "weights.safetensors")
    edit(tensors)
    replace_file(folder, "weights.safetensors", safetensors.torch.save(tensors))


def flip_byte(path: Path) -> None:
    """Flip one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def announced_as_it_lies(announcement: Announcement, folder: Path) -> Announcement:
    """Return the announcement with the hash of the manifest as it is now, as if it had been written so."""
    sha256 = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    return msgspec.structs.replace(announcement, sha256=sha256)
