"""Versions: what there is, what serves, and choosing another."""

import asyncio
import time
from datetime import UTC, datetime

import click
import msgspec

from deploy.commands.kafka import table_of
from deploy.commands.options import broker_option, json_option, output, registry_option, settings_with, show_json
from deploy.settings import Settings
from model.announcements import Action, Announcement
from model.errors import UnknownVersionError
from model.registry import Registry
from trainer.announcer import KafkaAnnouncer

SHOWN_METRICS = ("candidate_recall@20", "candidate_mrr@20")


@click.group()
def models() -> None:
    """List versions and say which one serves."""


def _announcer(settings: Settings) -> KafkaAnnouncer:
    return KafkaAnnouncer(
        settings.kafka.aiokafka_options(), settings.topics.models, timeout_s=settings.trainer.kafka_timeout_s
    )


def _serving(settings: Settings) -> str | None:
    announcement = asyncio.run(_announcer(settings).serving())
    return announcement.version if announcement else None


@models.command(name="list", epilog="Example: nextclick models list --registry s3://bucket/nextclick")
@broker_option
@registry_option
@json_option
def list_versions(broker: str | None, registry: str | None, *, as_json: bool) -> None:
    """List the versions in the registry, oldest first, and mark the one that serves."""
    settings = settings_with(broker=broker, registry=registry)
    versions = Registry(settings.registry)
    serving = _serving(settings)
    manifests = [versions.manifest(version) for version in versions.versions()]
    if as_json:
        show_json({"serving": serving, "versions": [msgspec.to_builtins(manifest) for manifest in manifests]})
        return
    table = table_of(f"versions in {settings.registry}", "serves", "version", "parent", "items", "made", "metrics")
    for manifest in manifests:
        table.add_row(
            "●" if manifest.version == serving else "",
            manifest.version,
            manifest.parent or "",
            f"{manifest.items:,}",
            f"{datetime.fromtimestamp(manifest.created_at_ms / 1000, tz=UTC):%Y-%m-%d %H:%M:%S}",
            "  ".join(f"{name} {value:.4g}" for name, value in manifest.metrics.items()),
        )
    output.print(table)


@models.command(epilog="Example: nextclick models show 20261123T211530Z-1a2b3c")
@click.argument("version")
@registry_option
def show(version: str, registry: str | None) -> None:
    """Print a version's manifest as JSON, after verifying every file of it."""
    versions = Registry(settings_with(registry=registry).registry)
    versions.load(version, training=True)
    click.echo(msgspec.json.format(msgspec.json.encode(versions.manifest(version)), indent=2))


@models.command(epilog="Example: nextclick models promote 20261123T211530Z-1a2b3c")
@click.argument("version")
@broker_option
@registry_option
def promote(version: str, broker: str | None, registry: str | None) -> None:
    """Make VERSION serve."""
    _announce(version, "promote", broker, registry)


@models.command(epilog="Example: nextclick models rollback")
@click.argument("version", required=False)
@broker_option
@registry_option
def rollback(version: str | None, broker: str | None, registry: str | None) -> None:
    """Make an earlier version serve again: VERSION, or the parent of the one that serves."""
    _announce(version, "rollback", broker, registry)


def _announce(version: str | None, action: Action, broker: str | None, registry: str | None) -> None:
    settings = settings_with(broker=broker, registry=registry)
    versions = Registry(settings.registry)
    if version is None:
        serving = _serving(settings)
        version = versions.manifest(serving).parent if serving else None
        if version is None:
            raise UnknownVersionError("there is no version to roll back to; name one of `nextclick models list`")
    loaded = versions.load(version)
    announcement = Announcement(
        version=version,
        uri=versions.location(version),
        sha256=versions.manifest_sha256(version),
        action=action,
        metrics=loaded.metrics,
        announced_at_ms=time.time_ns() // 1_000_000,
    )
    asyncio.run(_announcer(settings).announce(announcement))
    output.print(f"{version} serves from now on")
