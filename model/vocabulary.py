"""Item id to row and back; rows are appended, never reused, so an old state stays meaningful."""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

UNKNOWN_ROW = -1
JSON_PADDING = 16
"""Bytes behind the ids in JSON, so that compiled code may read so many at a time."""


def fingerprint(item_id: str) -> int:
    """Return the 32-bit fingerprint of an item id: CRC-32 of its UTF-8 bytes, the same in every process."""
    return zlib.crc32(item_id.encode())


def _fingerprints(item_ids: Sequence[str]) -> NDArray[np.uint32]:
    return np.fromiter(map(fingerprint, item_ids), np.uint32, len(item_ids))


def _read_only(array: NDArray[np.uint32]) -> NDArray[np.uint32]:
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class JsonIds:
    """Ids as JSON, one after the other, as compiled code takes them.

    Attributes:
        text: uint8, all of them and `JSON_PADDING` zeros; row's is text[ends[row] : ends[row + 1]].
        ends: int64 [N + 1].
        longest: Bytes of the longest.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    longest: int

    @classmethod
    def of(cls, item_ids: Sequence[str]) -> Self:
        """Return these ids as JSON."""
        # A loop of Python's own, which lets other threads in on the way: the worker answers while it loads a version.
        encoded = [msgspec.json.encode(item_id) for item_id in item_ids]
        ends = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=ends[1:])
        text = b"".join([*encoded, bytes(JSON_PADDING)])
        return cls(np.frombuffer(text, dtype=np.uint8), ends, int(np.diff(ends).max(initial=0)))

    def extended(self, item_ids: Sequence[str]) -> Self:
        """Return these ids and more."""
        more = type(self).of(item_ids)
        ends = np.concatenate([self.ends, self.ends[-1] + more.ends[1:]])
        text = np.concatenate([self.text[: self.ends[-1]], more.text])
        return type(self)(text, ends, max(self.longest, more.longest))


class Vocabulary:
    """An immutable list of item ids; an item's row is its place in the list.

    Raises:
        ValueError: An id occurs twice.
    """

    def __init__(self, item_ids: Sequence[str]) -> None:
        self.item_ids = list(item_ids)
        self._rows = {item_id: row for row, item_id in enumerate(self.item_ids)}
        if len(self._rows) != len(self.item_ids):
            repeated = next(item_id for row, item_id in enumerate(self.item_ids) if self._rows[item_id] != row)
            raise ValueError(f"every item has one row, but {repeated!r} occurs more than once")

    def __len__(self) -> int:
        return len(self.item_ids)

    def row(self, item_id: str) -> int:
        """Return the item's row, or `UNKNOWN_ROW`."""
        return self._rows.get(item_id, UNKNOWN_ROW)

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the rows, int64 [n], with `UNKNOWN_ROW` for ids that are not in the vocabulary."""
        return np.fromiter(map(self._rows.get, item_ids, repeat(UNKNOWN_ROW)), np.int64, len(item_ids))

    def extended(self, new_ids: Iterable[str]) -> "Vocabulary":
        """Return a vocabulary with the unknown ones among `new_ids` appended in their order; known ones are skipped."""
        added = list(dict.fromkeys(item_id for item_id in new_ids if item_id not in self._rows))
        if not added:
            return self
        # Nothing of what was worked out for the old rows is worked out again: a catalogue may hold millions.
        extended = Vocabulary([])
        extended.item_ids = self.item_ids + added
        extended._rows = self._rows | {item_id: row for row, item_id in enumerate(added, len(self))}
        if "fingerprints" in vars(self):
            extended.fingerprints = _read_only(np.concatenate([self.fingerprints, _fingerprints(added)]))
        if "json_ids" in vars(self):
            extended.json_ids = self.json_ids.extended(added)
        return extended

    def is_extension_of(self, other: "Vocabulary", first: int | None = None) -> bool:
        """Whether the first `first` rows of `other`, all by default, mean the same items here."""
        wanted = other.item_ids[:first]
        return self.item_ids[: len(wanted)] == wanted

    @cached_property
    def fingerprints(self) -> NDArray[np.uint32]:
        """The `fingerprint` of every row, uint32 [N], read-only."""
        return _read_only(_fingerprints(self.item_ids))

    @cached_property
    def json_ids(self) -> "JsonIds":
        """Every row's id as JSON."""
        return JsonIds.of(self.item_ids)

    def sha256(self, first: int | None = None) -> str:
        """Return the hex SHA-256 of the first `first` ids (all by default), as `to_bytes` would write them."""
        return hashlib.sha256(msgspec.json.encode(self.item_ids[:first])).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the ids in row order as a JSON array of strings."""
        return msgspec.json.encode(self.item_ids)

    @staticmethod
    def from_bytes(data: bytes) -> "Vocabulary":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: The bytes are not a JSON array of distinct strings.
        """
        try:
            return Vocabulary(msgspec.json.decode(data, type=list[str]))
        except msgspec.MsgspecError as error:
            raise ValueError(f"expected a JSON array of item ids: {error}") from error
