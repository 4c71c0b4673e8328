"""What a round goes on from: the version that serves, or where that is damaged the newest whole one before it."""

from collections.abc import Collection, Iterator

import structlog

from model.announcements import Announcement
from model.errors import DamagedVersionError, UnknownVersionError
from model.registry import ModelVersion, Registry

_log = structlog.get_logger(__name__)


def load_incumbent(
    registry: Registry, serving: Announcement, *, mend: bool, rejected: Collection[str] = ()
) -> ModelVersion | None:
    """Load the version that serves, with all that training needs.

    Args:
        registry: Where it lies.
        serving: Its announcement.
        mend: Where it is damaged or gone, return the newest whole version among its ancestors instead, or among all
            others where these cannot be told; None where there is none, and then training starts from scratch.
        rejected: Versions that are not gone on from instead.

    Raises:
        DamagedVersionError: It is not whole, or not the one that was announced; never with `mend`.
        UnknownVersionError: It is not in the registry; never with `mend`.
        RegistryUnavailableError: The registry cannot be read now.
    """
    try:
        return _load_announced(registry, serving)
    except (DamagedVersionError, UnknownVersionError) as error:
        if not mend:
            raise
        found = _newest_whole_before(registry, serving.version, rejected)
        _log.error(
            "the serving version cannot be fine-tuned; learning goes on without it",
            version=serving.version,
            error=str(error),
            goes_on_from=found.version if found else "scratch",
        )
        return found


def _load_announced(registry: Registry, serving: Announcement) -> ModelVersion:
    if registry.manifest_sha256(serving.version) != serving.sha256:
        raise DamagedVersionError(serving.version, "hash", "its manifest is not the one that was announced")
    return registry.load(serving.version, training=True)


def _newest_whole_before(registry: Registry, version: str, rejected: Collection[str]) -> ModelVersion | None:
    for earlier in (name for name in _before(registry, version) if name not in rejected):
        try:
            return registry.load(earlier, training=True)
        except (DamagedVersionError, UnknownVersionError) as error:
            _log.warning("an earlier version is not whole either", version=earlier, error=str(error))
    return None


def _before(registry: Registry, version: str) -> Iterator[str]:
    """Yield the ancestors, the parent first; where a manifest on the way tells none, all others, newest first."""
    at = version
    try:
        while parent := registry.manifest(at).parent:
            yield parent
            at = parent
    except (DamagedVersionError, UnknownVersionError):
        yield from (other for other in reversed(registry.versions()) if other != version)
