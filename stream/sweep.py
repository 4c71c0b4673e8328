"""Session expiry: records whose session has ended are deleted, a slice at a time, between micro-batches."""

from dataclasses import dataclass, field

from stream.intake import Intake
from stream.session import last_click
from stream.state_table import StateTable

SLICE_RECORDS = 1_000


@dataclass(frozen=True)
class SweptSlice:
    """Records of one partition that may go.

    Attributes:
        partition: Their partition.
        keys: Their session ids.
        finished: Sessions that stay, when this slice ended a whole sweep of all partitions; else None.
    """

    partition: int
    keys: list[bytes]
    finished: int | None


@dataclass
class Sweep:
    """Walks the records of the assigned partitions in small slices.

    A session has ended when the clicks of its partition are more than `idle_ms` ahead of it in event time. A record is
    kept while its click is not committed: a crash would bring that click again, and the fence is in the record.

    Args:
        table: Where the records are.
        intake: Says which partitions are assigned and what is committed.
        idle_ms: Event time after which a session has ended.
    """

    table: StateTable
    intake: Intake
    idle_ms: int
    _event_ms: dict[int, int] = field(default_factory=dict)
    _pending: list[int] = field(default_factory=list)
    _assignment: int = 0
    _after: bytes = b""
    _kept: int = 0

    def heard(self, partition: int, event_ms: int, now_ms: int) -> None:
        """Take note of a click's event time; one from the future counts as of `now_ms`."""
        self._event_ms[partition] = max(self._event_ms.get(partition, 0), min(event_ms, now_ms))

    def begin(self) -> None:
        """Start a sweep of all assigned partitions; one that is under way goes on instead."""
        if not self.under_way:
            self._pending = list(self.intake.partitions)
            self._assignment = self.intake.assignment
            self._after = b""
            self._kept = 0

    @property
    def under_way(self) -> bool:
        """Whether `next_slice` has work; the end of an assignment ends its sweep."""
        return bool(self._pending) and self._assignment == self.intake.assignment

    def next_slice(self) -> SweptSlice:
        """Read one slice of records and say which of them may be deleted; deletes nothing itself."""
        partition = self._pending[0]
        committed = self.intake.committed(partition)
        oldest_ms = self._event_ms.get(partition, 0) - self.idle_ms
        ended, seen = [], 0
        for key, record in self.table.scan(partition, self._after, SLICE_RECORDS):
            seen += 1
            self._after = key
            offset, event_ms = last_click(record)
            if event_ms < oldest_ms and offset < committed:
                ended.append(key)
        self._kept += seen - len(ended)
        finished = None
        if seen < SLICE_RECORDS - 1:  # one place of a slice may be Faust's own record
            self._pending.pop(0)
            self._after = b""
            finished = None if self._pending else self._kept
        return SweptSlice(partition, ended, finished)
