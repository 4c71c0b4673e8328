"""One click and its form on the wire."""

import msgspec

from model.errors import InvalidClickError

MAX_ID_BYTES = 512
DAY_MS = 24 * 60 * 60 * 1000
MAX_TIMESTAMP_MS = 253_402_300_799_999  # the last millisecond of the year 9999
_SHORT_ID_CHARACTERS = MAX_ID_BYTES // 4  # UTF-8 takes at most four bytes a character


class Click(msgspec.Struct, frozen=True, gc=False):
    """One session looked at one item.

    Attributes:
        session_id: Whose click; also the record's key in Kafka.
        item_id: The item's outside id.
        timestamp_ms: Event time, milliseconds since the Unix epoch, UTC.
    """

    session_id: str
    item_id: str
    timestamp_ms: int


class _WireClick(msgspec.Struct, gc=False):
    """The JSON form; a missing timestamp means the record's own."""

    session_id: str | int
    item_id: str | int
    timestamp: int | None = None


_decoder = msgspec.json.Decoder(_WireClick)
_encoder = msgspec.json.Encoder()


def decode_click(key: bytes | None, value: bytes | None, record_timestamp_ms: int) -> Click:
    """Read one Kafka record as a click; whatever the bytes are, only `InvalidClickError` is raised.

    Args:
        key: The record's key, which must be the session id in UTF-8.
        value: JSON `{"session_id", "item_id", "timestamp"}`; other fields are ignored, integer ids are read as strings.
        record_timestamp_ms: The record's own time; negative where the record has none.

    Raises:
        InvalidClickError: Its `reason` says which rule the record breaks.
    """
    if not value:
        raise InvalidClickError("empty", "the record has no value; expected a JSON object")
    try:
        wire = _decoder.decode(value)
        session_id = wire.session_id if type(wire.session_id) is str else str(wire.session_id)
        item_id = wire.item_id if type(wire.item_id) is str else str(wire.item_id)
        session_key = session_id.encode()
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _explain(value, error) from error
    if not 0 < len(session_key) <= MAX_ID_BYTES or not _is_valid_id(item_id):
        message = f"session_id and item_id must have 1 to {MAX_ID_BYTES} bytes of UTF-8"
        raise InvalidClickError("invalid-id", message)
    if key != session_key:
        raise InvalidClickError("key-mismatch", f"the key {key!r:.80} is not the session_id {session_id!r:.80}")
    timestamp_ms = record_timestamp_ms if wire.timestamp is None else wire.timestamp
    latest_ms = record_timestamp_ms + DAY_MS if record_timestamp_ms >= 0 else MAX_TIMESTAMP_MS
    if not 0 <= timestamp_ms <= latest_ms:
        message = f"timestamp {timestamp_ms} is not between 0 and a day after the record's {record_timestamp_ms} ms"
        raise InvalidClickError("timestamp-out-of-range", message)
    return Click(session_id, item_id, timestamp_ms)


def _is_valid_id(text: str) -> bool:
    return 0 < len(text) <= _SHORT_ID_CHARACTERS or (
        _SHORT_ID_CHARACTERS < len(text) <= MAX_ID_BYTES and len(text.encode()) <= MAX_ID_BYTES
    )


def _explain(value: bytes, error: Exception) -> InvalidClickError:
    """Tell a missing field from everything else that does not decode."""
    try:
        fields = msgspec.json.decode(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return InvalidClickError("malformed", f"the value is not JSON: {error}")
    if isinstance(fields, dict):
        missing = [name for name in ("session_id", "item_id") if name not in fields]
        if missing:
            return InvalidClickError("missing-field", f"the click has no {' and no '.join(missing)}")
    return InvalidClickError("malformed", f"the value is not a click: {error}")


def encode_click(click: Click) -> bytes:
    """Return the click's JSON form, which `decode_click` reads back."""
    return _encoder.encode(_WireClick(click.session_id, click.item_id, click.timestamp_ms))
