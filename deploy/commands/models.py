"""Versions: what there is, what serves, and choosing another."""

import asyncio
import json
import time
from collections.abc import Collection
from pathlib import Path

import click
import msgspec

from deploy import topics, version_report
from deploy.commands.options import (
    broker_option,
    json_option,
    open_registry,
    output,
    registry_option,
    settings_with,
    show_json,
    table_of,
)
from deploy.errors import RejectedVersionError
from deploy.plots import plot_rounds
from deploy.settings import PREFIX, Settings
from model.announcements import Action, Announcement
from model.errors import DamagedVersionError, RegistryUnavailableError, UnknownVersionError
from model.registry import Manifest, Registry
from trainer import retention
from trainer.announcer import KafkaAnnouncer

# What the gate measured of the candidate, and of what it had to match.
SHOWN_METRICS = ("recall@20", "mrr@20")

force_option = click.option("--force", is_flag=True, help="Even one that was rejected on live clicks.")


@click.group(epilog="Example: nextclick models list")
def models() -> None:
    """List versions and say which one serves."""


def _announcer(settings: Settings) -> KafkaAnnouncer:
    """Return what speaks to the models topic, once it is known to be there: aiokafka says less well what is wrong."""
    kafka = settings.kafka
    topics.partitions_of(settings.topics.models, kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    return KafkaAnnouncer(kafka.aiokafka_options(), settings.topics.models, timeout_s=kafka.timeout_s)


def _serving(settings: Settings) -> str | None:
    announcement = asyncio.run(_announcer(settings).serving())
    return announcement.version if announcement else None


@models.command(name="list", epilog="Example: nextclick models list --registry s3://bucket/nextclick")
@broker_option
@registry_option
@json_option
def list_versions(broker: str | None, registry: str | None, *, as_json: bool) -> None:
    """List the versions in the registry, oldest first, and mark the one that serves and those rejected on live clicks.

    Recall@20 and MRR@20 are those of the gate, on clicks that the version had not seen.
    """
    settings = settings_with(broker=broker, registry=registry)
    versions = open_registry(settings)
    announced = asyncio.run(_announcer(settings).announced())
    serving = announced.serving.version if announced.serving else None
    names = versions.versions()
    found = [manifest for name in names if (manifest := _manifest(versions, name))]
    if serving and serving not in names:
        click.echo(f"{serving} serves, and is not in {settings.registry}: is this the workers' registry?", err=True)
    if as_json:
        shown = [manifest if isinstance(manifest, dict) else msgspec.to_builtins(manifest) for manifest in found]
        show_json({"serving": serving, "rejected": sorted(announced.rejected), "versions": shown})
    elif found:
        click.echo(f"versions in {settings.registry}")
        _print_table(found, serving, announced.rejected)
    else:
        click.echo(f"{settings.registry} holds no version yet; the trainer or `nextclick fit` writes the first")


def _manifest(versions: Registry, name: str) -> Manifest | dict[str, str] | None:
    try:
        return versions.manifest(name)
    except UnknownVersionError:  # the trainer has removed it since it was listed
        return None
    except DamagedVersionError as error:
        return {"version": name, "damaged": str(error)}


def _print_table(found: list[Manifest | dict[str, str]], serving: str | None, rejected: Collection[str]) -> None:
    table = table_of("", "version", "parent", "items", *SHOWN_METRICS, "")
    for manifest in found:
        if isinstance(manifest, dict):
            table.add_row("✗", manifest["version"], "damaged")
            continue
        metrics = [f"{manifest.metrics[name]:.4f}" if name in manifest.metrics else "" for name in SHOWN_METRICS]
        # The parent stands in the lines above; the end of its name is enough to find it there.
        parent = f"…{manifest.parent[-8:]}" if manifest.parent else ""
        mark = "●" if manifest.version == serving else ""
        note = "rejected" if manifest.version in rejected else ""
        table.add_row(mark, manifest.version, parent, f"{manifest.items:,}", *metrics, note)
    output.print(table)
    click.echo(f"● serves: {serving}" if serving else "no version serves yet: popularity answers")


@models.command(epilog="Example: nextclick models show 20261123T211530Z-1a2b3c4d")
@click.argument("version")
@registry_option
@json_option
def show(version: str, registry: str | None, *, as_json: bool) -> None:
    """Print a version's manifest, after verifying every file of it."""
    versions = open_registry(settings_with(registry=registry))
    versions.load(version, training=True)
    manifest = msgspec.to_builtins(versions.manifest(version))
    if as_json:
        show_json(manifest)
    else:
        click.echo(json.dumps(manifest, indent=2))


@models.command(epilog="Example: nextclick models promote 20261123T211530Z-1a2b3c4d")
@click.argument("version")
@force_option
@broker_option
@registry_option
@json_option
def promote(version: str, broker: str | None, registry: str | None, *, force: bool, as_json: bool) -> None:
    """Make VERSION serve, after verifying it.

    The trainer does not take back what was promoted by hand, but its next round may follow it: `pin` keeps that off.
    """
    settings = settings_with(broker=broker, registry=registry)
    _announce(version, "promote", settings, force=force, as_json=as_json)


@models.command(epilog="Example: nextclick models rollback")
@click.argument("version", required=False)
@force_option
@broker_option
@registry_option
@json_option
def rollback(version: str | None, broker: str | None, registry: str | None, *, force: bool, as_json: bool) -> None:
    """Make an earlier version serve again: VERSION, or the parent of the one that serves.

    The trainer's next round goes on from there and may follow it, with the same clicks learned: `pin` keeps that off.
    """
    settings = settings_with(broker=broker, registry=registry)
    _announce(version or _parent_of_serving(settings), "rollback", settings, force=force, as_json=as_json)


@models.command(epilog="Example: nextclick models pin")
@click.argument("version", required=False)
@force_option
@broker_option
@registry_option
@json_option
def pin(version: str | None, broker: str | None, registry: str | None, *, force: bool, as_json: bool) -> None:
    """Make VERSION, or the one that serves, serve until `unpin`: the trainer publishes nothing meanwhile."""
    settings = settings_with(broker=broker, registry=registry)
    serving = version or _serving(settings)
    if serving is None:
        raise UnknownVersionError("no version serves yet, so there is none to pin; name a version")
    _announce(serving, "pin", settings, force=force, as_json=as_json)


@models.command(epilog="Example: nextclick models unpin")
@broker_option
@registry_option
@json_option
def unpin(broker: str | None, registry: str | None, *, as_json: bool) -> None:
    """Let the trainer publish again; the version that was pinned serves until then."""
    settings = settings_with(broker=broker, registry=registry)
    announced = asyncio.run(_announcer(settings).serving())
    if announced is None or announced.action != "pin":
        serving = f"{announced.version} serves and is not pinned" if announced else "no version serves yet"
        raise UnknownVersionError(f"{serving}: there is nothing to unpin")
    _announce(announced.version, "promote", settings, force=True, as_json=as_json)


def _parent_of_serving(settings: Settings) -> str:
    serving = _serving(settings)
    if serving is None:
        raise UnknownVersionError("no version serves yet, so there is none to roll back to")
    parent = open_registry(settings).manifest(serving).parent
    if parent is None:
        raise UnknownVersionError(f"{serving} serves and has no parent to roll back to; name a version")
    return parent


def _announce(version: str, action: Action, settings: Settings, *, force: bool, as_json: bool) -> None:
    announcer, versions = _announcer(settings), open_registry(settings)
    loaded = versions.load(version)
    if not force and version in asyncio.run(announcer.announced()).rejected:
        raise RejectedVersionError(f"{version} was worse than its parent on live clicks; --force makes it serve again")
    announcement = Announcement(
        version=version,
        uri=versions.location(version),
        sha256=versions.manifest_sha256(version),
        action=action,
        metrics=loaded.metrics,
        announced_at_ms=time.time_ns() // 1_000_000,
        by_operator=True,
    )
    asyncio.run(announcer.announce(announcement))
    if as_json:
        show_json({"serving": version, "action": action})
    else:
        click.echo(f"{version} serves from now on")


@models.command(epilog="Example: nextclick models report --plot rounds.png")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it as this PNG.")
@registry_option
@json_option
def report(plot: Path | None, registry: str | None, *, as_json: bool) -> None:
    """Show quality by round: each version at its gate beside what it replaced, on clicks that neither had seen."""
    settings = settings_with(registry=registry)
    versions = open_registry(settings)
    found = (_manifest(versions, name) for name in versions.versions())
    rows = version_report.report(manifest for manifest in found if isinstance(manifest, Manifest))
    if plot:
        plot_rounds(rows, plot)
    if as_json:
        show_json({"versions": rows})
        return
    table = table_of(
        f"versions in {settings.registry}",
        "made",
        "version",
        "clicks",
        "items",
        "Recall@20",
        "before",
        "MRR@20",
        "before",
    )
    for row in rows:
        shown = [row[f"{side}{name}"] for name in version_report.GATED for side in ("", "incumbent_")]
        counts = (f"{row[name]:,}" if row[name] is not None else "" for name in ("clicks", "items"))
        metrics = (f"{value:.4f}" if value is not None else "" for value in shown)
        table.add_row(row["created_at"], row["version"], *counts, *metrics)
    output.print(table)


@models.command(epilog="Example: nextclick models prune --keep 5 --dry-run")
@click.option(
    "--keep", type=click.IntRange(min=1), help=f"Newest versions to keep, instead of {PREFIX}TRAINER__VERSIONS_KEPT."
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@broker_option
@registry_option
@json_option
def prune(keep: int | None, broker: str | None, registry: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove old versions from the registry, as the trainer does after every version that it publishes.

    The version that serves, its parent, pinned ones and fresh ones that were not announced yet are kept besides.
    """
    settings = settings_with(broker=broker, registry=registry)
    announcer, versions, now_ms = _announcer(settings), open_registry(settings), time.time_ns() // 1_000_000
    announced = asyncio.run(announcer.announced())
    found = retention.superfluous(versions, announced, keep=keep or settings.trainer.versions_kept, now_ms=now_ms)
    pruned = retention.Pruned(found, []) if dry_run else retention.prune(versions, found, now_ms=now_ms)
    if not dry_run:
        asyncio.run(announcer.forget(pruned.gone))
    if pruned.failures:
        raise RegistryUnavailableError("; ".join(pruned.failures))
    if as_json:
        show_json({"removed": pruned.gone, "dry_run": dry_run})
        return
    for version in pruned.gone:
        click.echo(version)
    click.echo(f"{len(pruned.gone)} versions {'would be removed' if dry_run else 'removed'} from {settings.registry}")
