"""Takes back a version that fails on live clicks: a look whenever enough have come, and what follows from it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from msgspec.structs import replace

from model.announcements import Announcement
from model.registry import Registry
from trainer.round import Announcer
from trainer.settings import TrainerSettings
from trainer.watch import Look, cases_of, live_cases, look, newest_look
from trainer.window import WindowClicks

_ASK_AGAIN_CLICKS = 10_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Watched:
    """What came of comparing the serving version with its parent.

    Attributes:
        version: What serves, or served until now.
        parent: What it was compared with; after a rollback it serves.
        outcome: `kept`; or rolled back as `worse` on live clicks, or as an `unfinished` rollback: it was rejected, and
            a crash kept its parent from serving.
        look: What live clicks showed; None where that was known.
    """

    version: str
    parent: str
    outcome: Literal["kept", "worse", "unfinished"]
    look: Look | None


class RejectionAnnouncer(Announcer, Protocol):
    """Says, too, that a version must not serve."""

    def announce(self, announcement: Announcement) -> None:
        """Say this about a version; returns when that is certain."""


class Watch:
    """Compares the serving version with its parent as live clicks come; `trainer.watch` has the statistics.

    Only a version that a round promoted is watched: one that a person chose, that is pinned or that was gone back to
    stays.

    Args:
        settings: When it looks, and what it asks.
        registry: Where versions live.
        announcer: Which of them serves.
        clock_ms: Wall clock, milliseconds since the Unix epoch.
    """

    def __init__(
        self, settings: TrainerSettings, registry: Registry, announcer: RejectionAnnouncer, clock_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._announcer = announcer
        self._clock_ms = clock_ms
        self._due_at_clicks = 0
        self._last: tuple[str, int] = ("", -1)  # which version was looked at last, and the look's number

    def is_due(self, clicks_added: int) -> bool:
        """Whether a look may find something, with `clicks_added` clicks ever read."""
        return self._settings.auto_rollback and clicks_added >= self._due_at_clicks

    def hurry(self) -> None:
        """Be due at once: another version serves."""
        self._due_at_clicks = 0

    def look(self, window: WindowClicks, clicks_added: int) -> Watched | None:
        """Look at what has come, and roll back where that is called for; None where there is nothing to see yet.

        Args:
            window: The newest clicks.
            clicks_added: How many were ever read, which says when the next look is due.

        Raises:
            RegistryUnavailableError: The registry cannot be read now.
            DamagedVersionError: One of the two versions is not whole.
            UnknownVersionError: One of the two is not in the registry.
            Exception: What the announcer raises.
        """
        self._due_at_clicks = clicks_added + _ASK_AGAIN_CLICKS
        announced = self._announcer.announced()
        serving = announced.serving
        if serving is None or serving.action != "promote" or serving.by_operator:
            return None
        parent = self._way_back(serving.version, announced.rejected)
        if parent is None:
            return None
        if serving.version in announced.rejected:
            return self._rolled_back(serving, parent, None)
        return self._compared(serving, parent, window, clicks_added)

    def _way_back(self, version: str, rejected: Collection[str]) -> str | None:
        parent = self._registry.manifest(version).parent
        is_there = parent is not None and parent not in rejected and parent in self._registry.versions()
        return parent if is_there else None

    def _compared(self, serving: Announcement, parent: str, window: WindowClicks, clicks_added: int) -> Watched | None:
        live = live_cases(window, self._registry.manifest(serving.version).trained_until, self._settings)
        if self._plan_next(serving.version, len(live), clicks_added) > 0:
            return None
        number = newest_look(len(live), self._settings)
        found = look(self._registry.load(serving.version), self._registry.load(parent), live, number, self._settings)
        self._last = (serving.version, number)
        self._plan_next(serving.version, len(live), clicks_added)
        if found.is_worse:
            return self._rolled_back(serving, parent, found)
        _log.info("version kept", version=serving.version, parent=parent, **_figures(found))
        return Watched(serving.version, parent, "kept", found)

    def _plan_next(self, version: str, cases: int, clicks_added: int) -> int:
        """Set when the next look at a version is due; returns how many cases it lacks now."""
        last_version, last = self._last
        missing = cases_of(last + 1 if last_version == version else 0, self._settings) - cases
        # Not every click is a case, so that the last few would be asked for again and again.
        patience = max(missing, self._settings.rollback_cases // 4, 1)
        self._due_at_clicks = clicks_added + min(patience, _ASK_AGAIN_CLICKS)
        return missing

    def _rolled_back(self, serving: Announcement, parent: str, found: Look | None) -> Watched | None:
        """Reject the version and make its parent serve, unless another one was made to serve meanwhile.

        The rejection comes first: after a crash between the two, it is known that the second is missing.
        """
        loaded = self._registry.load(parent)
        if self._announcer.serving() != serving:
            return None
        if found is not None:
            rejection = replace(serving, action="reject", metrics=found.metrics, announced_at_ms=self._clock_ms())
            self._announcer.announce(rejection)
        rollback = Announcement(
            version=parent,
            uri=self._registry.location(parent),
            sha256=self._registry.manifest_sha256(parent),
            action="rollback",
            metrics=dict(loaded.metrics),
            announced_at_ms=self._clock_ms(),
        )
        if not self._announcer.replace(serving, rollback):
            return None
        outcome: Literal["worse", "unfinished"] = "unfinished" if found is None else "worse"
        _log.warning("version rolled back", version=serving.version, to=parent, cause=outcome, **_figures(found))
        return Watched(serving.version, parent, outcome, found)


def _figures(found: Look | None) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.metrics.items()} if found else {}
