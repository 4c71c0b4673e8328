"""Clicks between fetch and processing: what is queued, what may enter, and up to where all is done."""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from stream.records import SourceRecord


class Intake:
    """Holds fetched records per partition until the worker takes them, and remembers how far it got.

    Three positions per partition: `next` (the first offset that may still enter), `done` (everything below it is
    processed and delivered) and `committed` (what the group's offsets say). Faust fetches some records twice, around
    recovery and seeks; the gate at `next` lets each in once per assignment.

    Args:
        capacity: Records queued at which fetching waits for room.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._is_open = False
        # Counts every beginning and end of an assignment, so that others notice that theirs is over.
        self.assignment = 0
        self._queue: deque[tuple[int, deque[SourceRecord]]] = deque()
        self._queued = 0
        self._next: dict[int, int] = {}
        self._done: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()

    def assign(self, partitions: Iterable[int]) -> None:
        """Begin an assignment: every position is forgotten, records of these partitions may enter."""
        self.revoke()
        self._next = dict.fromkeys(partitions, 0)
        self._is_open = True

    def revoke(self) -> None:
        """End the assignment: every position is forgotten, nothing may be committed."""
        self.close()
        self._next = {}
        self._done = {}
        self._committed = {}

    def close(self) -> None:
        """Let nothing enter until the next assignment, and drop what is queued: it is fetched again by its new owner.

        What is done may still be committed, until `revoke`.
        """
        self._is_open = False
        self.assignment += 1
        self._queue.clear()
        self._queued = 0
        self._arrived.clear()
        self._room.set()

    @property
    def partitions(self) -> list[int]:
        """Partitions whose records may enter."""
        return sorted(self._next) if self._is_open else []

    def put(self, partition: int, records: Sequence[SourceRecord]) -> None:
        """Queue records of one partition, in offset order; those that entered before, or are not ours, stay out."""
        if not self._is_open or partition not in self._next:
            return
        fresh = deque(record for record in records if record.offset >= self._next[partition])
        if not fresh:
            return
        self._next[partition] = fresh[-1].offset + 1
        self._queue.append((partition, fresh))
        self._queued += len(fresh)
        self._arrived.set()
        if self._queued >= self._capacity:
            self._room.clear()

    async def wait_for_room(self) -> None:
        """Wait until less than the capacity is queued."""
        await self._room.wait()

    async def take(self, most: int, timeout_s: float) -> list[SourceRecord]:
        """Return what has arrived, at most `most` records, as soon as there is something; empty at the timeout.

        Whoever takes must call `finish` or `abandon` before taking again.
        """
        if not self._queue:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        taken: list[SourceRecord] = []
        while self._queue and len(taken) < most:
            partition, records = self._queue.popleft()
            if len(records) <= most - len(taken):
                taken.extend(records)
            else:
                taken.extend(records.popleft() for _ in range(most - len(taken)))
                self._queue.appendleft((partition, records))
        self._queued -= len(taken)
        if self._queued < self._capacity:
            self._room.set()
        if not self._queue:
            self._arrived.clear()
        if taken:
            self._idle.clear()
        return taken

    def hold(self) -> None:
        """Say that work without records is under way, which a rebalance must wait for; it ends as a take does."""
        self._idle.clear()

    def finish(self, records: Sequence[SourceRecord]) -> None:
        """Mark taken records as processed and delivered: their offsets may be committed."""
        for record in records:
            self._done[record.partition] = record.offset + 1
        self._idle.set()

    def abandon(self) -> None:
        """Give up on taken records after a failure; their offsets will not be committed."""
        self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no taken records are being processed and nothing is held."""
        await self._idle.wait()

    def committable(self) -> dict[int, int]:
        """Return the offsets to commit, by partition; only those beyond what is committed."""
        return {
            partition: offset
            for partition, offset in self._done.items()
            if partition in self._next and offset > self._committed.get(partition, -1)
        }

    def mark_committed(self, offsets: Mapping[int, int]) -> None:
        """Remember what the group's offsets say now."""
        self._committed.update(offsets)

    def committed(self, partition: int) -> int:
        """Return the committed offset as far as this assignment knows; 0 before its first commit."""
        return self._committed.get(partition, 0)

    def done(self, partition: int) -> int | None:
        """Return the offset below which all is processed in this assignment; None before the first."""
        return self._done.get(partition)
