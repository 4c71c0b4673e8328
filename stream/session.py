"""The session record: what the state table keeps for every session, to and from bytes.

Layout, little endian: header, version, history, answer, hidden vector. The header has a fixed size, so the sweep can
read a record's event time without decoding the rest. The history stays packed: a click appends to it and drops
its oldest item without decoding the others. Codec 1 has the hidden vector in float32, codec 2 in float16; both are
always read.
"""

import struct
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.companion import HISTORY
from model.errors import RecommenderError

HISTORY_ITEMS = HISTORY

StateDtype = Literal["float32", "float16"]
_CODECS: dict[StateDtype, int] = {"float32": 1, "float16": 2}
_DTYPES = {codec: np.dtype(name) for name, codec in _CODECS.items()}

# codec, partition, offset, event time, clicks, last row, and the lengths of what follows: version bytes, history
# items, history bytes, answer items, hidden width.
_HEADER = struct.Struct("<BiqqIiBBIBH")
_LENGTH = struct.Struct("<H")
_AGE = struct.Struct("<xxxxxqq")

NO_ANSWER: NDArray[np.uint32] = np.empty(0, np.uint32)
NO_HIDDEN: NDArray[np.float32] = np.empty(0, np.float32)


class DamagedSessionError(RecommenderError):
    """A stored session record cannot be read; the state table must be rebuilt from its changelog."""


@dataclass(slots=True)
class Session:
    """What one session carries from click to click.

    Attributes:
        partition: Partition of its last click.
        offset: Offset of its last click: the fence against replays; -1 before the first.
        event_ms: Largest click timestamp so far, ms since the Unix epoch.
        clicks: Clicks applied since the session began.
        history: Its last `HISTORY_ITEMS` items, packed (see `append_item`).
        history_items: How many items `history` holds.
        version: The version that made `hidden` and `answer`; empty when popularity answered.
        last_row: Row in `version` of its newest known item, which may have left the history; -1 for none, and for an
            item that a refresh appended: in the next refresh the row may be another's, so the state is encoded again.
        answer: Fingerprints of the last answer's items, best first, uint32 [k].
        hidden: Hidden vector of all layers, float32 [W]; empty when `version` is.
    """

    partition: int
    offset: int = -1
    event_ms: int = 0
    clicks: int = 0
    history: bytes = b""
    history_items: int = 0
    version: str = ""
    last_row: int = -1
    answer: NDArray[np.uint32] = field(default_factory=lambda: NO_ANSWER)
    hidden: NDArray[np.float32] = field(default_factory=lambda: NO_HIDDEN)

    def append_item(self, item_id: str) -> None:
        """Add the newest item to the history and drop the oldest beyond `HISTORY_ITEMS`."""
        item = item_id.encode()
        history = self.history
        if self.history_items == HISTORY_ITEMS:
            (oldest,) = _LENGTH.unpack_from(history)
            history = history[_LENGTH.size + oldest :]
        else:
            self.history_items += 1
        self.history = history + _LENGTH.pack(len(item)) + item

    def items(self) -> list[str]:
        """Return the history's item ids, oldest first."""
        items, position = [], 0
        for _ in range(self.history_items):
            (length,) = _LENGTH.unpack_from(self.history, position)
            position += _LENGTH.size
            items.append(self.history[position : position + length].decode())
            position += length
        return items


def encode_session(session: Session, dtype: StateDtype = "float32") -> bytes:
    """Return the record that the table stores for `session`, its hidden vector rounded to `dtype`."""
    version = session.version.encode()
    codec = _CODECS[dtype]
    header = _HEADER.pack(
        codec,
        session.partition,
        session.offset,
        session.event_ms,
        session.clicks,
        session.last_row,
        len(version),
        session.history_items,
        len(session.history),
        len(session.answer),
        len(session.hidden),
    )
    hidden = session.hidden.astype(_DTYPES[codec], copy=False)
    return b"".join((header, version, session.history, session.answer.tobytes(), hidden.tobytes()))


def decode_session(record: bytes) -> Session:
    """Read a stored record back. Arrays that are stored as they are used share memory with it and are read-only.

    Raises:
        DamagedSessionError: Another codec, or a length that does not add up.
    """
    if len(record) < _HEADER.size or record[0] not in _DTYPES:
        raise DamagedSessionError(
            f"expected a session record of codec {' or '.join(map(str, _DTYPES))} (at least {_HEADER.size} bytes), got"
            f" {len(record)} bytes starting with {record[:1].hex() or 'nothing'}; rebuild the state table from its"
            " changelog"
        )
    codec, partition, offset, event_ms, clicks, last_row, *lengths = _HEADER.unpack_from(record)
    version_bytes, history_items, history_bytes, answer_items, width = lengths
    answer_at = _HEADER.size + version_bytes + history_bytes
    hidden_at = answer_at + 4 * answer_items
    dtype = _DTYPES[codec]
    if len(record) != hidden_at + dtype.itemsize * width:
        raise DamagedSessionError(
            f"expected a session record of {hidden_at + dtype.itemsize * width} bytes by its header, got {len(record)};"
            " rebuild the state table from its changelog"
        )
    return Session(
        partition=partition,
        offset=offset,
        event_ms=event_ms,
        clicks=clicks,
        version=record[_HEADER.size : _HEADER.size + version_bytes].decode(),
        last_row=last_row,
        history=record[_HEADER.size + version_bytes : answer_at],
        history_items=history_items,
        answer=np.frombuffer(record, np.uint32, answer_items, answer_at),
        hidden=np.frombuffer(record, dtype, width, hidden_at).astype(np.float32, copy=False),
    )


def last_click(record: bytes) -> tuple[int, int]:
    """Return (offset, event time in ms) of a stored record without decoding it; what the sweep asks."""
    offset, event_ms = _AGE.unpack_from(record)
    return offset, event_ms
