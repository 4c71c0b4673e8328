"""The models topic as rounds, looks and refreshes see it: from their thread, and spoken to under the lease alone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from model.announcements import Announcement, RefreshAnnouncement
from trainer.announcer import KafkaAnnouncer
from trainer.errors import AnotherTrainerError
from trainer.lease import Lease
from trainer.retention import Announced

T = TypeVar("T")


class LeasedAnnouncer:
    """Asks Kafka on the event loop while the calling thread waits.

    Before anything is said, Kafka is asked whether this trainer still has the lease.

    Args:
        announcer: What speaks to Kafka.
        lease: This trainer's.
        loop: Where both live; not the caller's.
    """

    def __init__(self, announcer: KafkaAnnouncer, lease: Lease, loop: asyncio.AbstractEventLoop) -> None:
        self._announcer = announcer
        self._lease = lease
        self._loop = loop

    def serving(self) -> Announcement | None:
        """See `trainer.round.Announcer`."""
        return self._wait_for(self._announcer.serving())

    def announced(self) -> Announced:
        """See `trainer.round.Announcer`."""
        return self._wait_for(self._announcer.announced())

    def replace(self, serving: Announcement | None, announcement: Announcement) -> bool:
        """See `trainer.round.Announcer`."""

        async def replaced() -> bool:
            return await self._lease.confirmed() and await self._announcer.replace(serving, announcement)

        return self._wait_for(replaced())

    def announce(self, announcement: Announcement) -> None:
        """See `trainer.rollback.RejectionAnnouncer`.

        Raises:
            AnotherTrainerError: The lease is another trainer's.
        """
        self._say(self._announcer.announce(announcement))

    def announce_refresh(self, announcement: RefreshAnnouncement) -> None:
        """See `trainer.refresh.RefreshAnnouncer`.

        Raises:
            AnotherTrainerError: The lease is another trainer's.
        """
        self._say(self._announcer.announce_refresh(announcement))

    def _say(self, announcing: Coroutine[Any, Any, None]) -> None:
        if self._wait_for(self._lease.confirmed()):
            self._wait_for(announcing)
        else:
            announcing.close()
            raise AnotherTrainerError("another trainer took over meanwhile; it goes on from here")

    def _wait_for(self, answer: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(answer, self._loop).result()
