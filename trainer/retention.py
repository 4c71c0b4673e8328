"""Which versions are kept, and deleting the others."""

import contextlib
from dataclasses import dataclass

from model.announcements import Announcement
from model.errors import DamagedVersionError, RegistryUnavailableError, UnknownVersionError
from model.refreshes import Refreshes
from model.registry import Manifest, Registry

FRESH_MS = 3_600_000
"""How long a version counts as about to be announced: a round announces what it wrote within seconds."""


@dataclass(frozen=True)
class Announced:
    """What the models topic says.

    Attributes:
        serving: The announcement of the version that serves; None where none does.
        versions: About which something was said under their own name.
        held: Those of them whose last announcement is a pin, or cannot be read and so may be one.
        rejected: Those of them whose last announcement is a rejection.
    """

    serving: Announcement | None = None
    versions: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()


def superfluous(registry: Registry, announced: Announced, *, keep: int, now_ms: int) -> list[str]:
    """Return the versions that nothing needs, oldest first.

    Kept are the newest `keep`, the one that serves and its parent, those that are held, and those younger than
    `FRESH_MS` that were not announced, as another trainer may be about to. One whose manifest cannot be read is kept
    as well: it may be of a newer release. A rejected one counts like any other; what was said about it goes with it.

    Args:
        registry: Where the versions are.
        announced: What the models topic says now.
        keep: At least 1.
        now_ms: Wall clock, milliseconds since the Unix epoch.

    Raises:
        RegistryUnavailableError: The registry cannot be read now.
    """
    manifests = [manifest for name in registry.versions() if (manifest := _manifest(registry, name))]
    needed = {*announced.held, *(manifest.version for manifest in manifests[-keep:])}
    if announced.serving is not None:
        serving = announced.serving.version
        needed |= {serving} | {manifest.parent or "" for manifest in manifests if manifest.version == serving}
    return [
        manifest.version
        for manifest in manifests
        if manifest.version not in needed
        and (manifest.version in announced.versions or now_ms - manifest.created_at_ms >= FRESH_MS)
    ]


def _manifest(registry: Registry, version: str) -> Manifest | None:
    try:
        return registry.manifest(version)
    except (DamagedVersionError, UnknownVersionError):  # the second: another process has just removed it
        return None


@dataclass(frozen=True)
class Pruned:
    """What came of deleting versions.

    Attributes:
        gone: Those that are no longer there.
        failures: What went wrong, in words; the others were deleted all the same.
    """

    gone: list[str]
    failures: list[str]


def prune(registry: Registry, versions: list[str], *, now_ms: int) -> Pruned:
    """Delete versions, and what killed processes left behind; one that cannot be deleted does not keep the others.

    Args:
        registry: Where the versions are.
        versions: See `superfluous`.
        now_ms: Wall clock, milliseconds since the Unix epoch.
    """
    pruned = Pruned([], [])
    for version in versions:
        try:
            with contextlib.suppress(UnknownVersionError):  # another process has just removed it
                registry.remove(version)
            pruned.gone.append(version)
        except RegistryUnavailableError as error:
            pruned.failures.append(f"version {version} was not removed: {error}")
    try:
        registry.sweep(now_ms)
        Refreshes(registry.url).sweep(now_ms)
    except RegistryUnavailableError as error:
        pruned.failures.append(f"what killed processes left behind was not removed: {error}")
    return pruned
