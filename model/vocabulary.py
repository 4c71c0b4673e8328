"""Item id to row and back; rows are appended, never reused, so an old state stays meaningful."""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import msgspec
import numpy as np
from numpy.typing import NDArray

UNKNOWN_ROW = -1


def fingerprint(item_id: str) -> int:
    """Return the 32-bit fingerprint of an item id: CRC-32 of its UTF-8 bytes, the same in every process."""
    return zlib.crc32(item_id.encode())


@dataclass(frozen=True)
class JsonIds:
    """Ids as JSON, one after the other, as compiled code takes them.

    Attributes:
        text: uint8, all of them; row's is text[ends[row] : ends[row + 1]].
        ends: int64 [N + 1].
        longest: Bytes of the longest.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]
    longest: int


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
        added = dict.fromkeys(item_id for item_id in new_ids if item_id not in self._rows)
        return Vocabulary([*self.item_ids, *added])

    def is_extension_of(self, other: "Vocabulary") -> bool:
        """Whether every row of `other` means the same item here."""
        return self.item_ids[: len(other)] == other.item_ids

    @cached_property
    def fingerprints(self) -> NDArray[np.uint32]:
        """The `fingerprint` of every row, uint32 [N], read-only."""
        fingerprints = np.fromiter(map(fingerprint, self.item_ids), np.uint32, len(self.item_ids))
        fingerprints.setflags(write=False)
        return fingerprints

    @cached_property
    def json_ids(self) -> "JsonIds":
        """Every row's id as JSON."""
        encoded = list(map(msgspec.json.encode, self.item_ids))
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return JsonIds(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends, int(np.diff(ends).max(initial=0)))

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
