"""The wire: what the worker writes to `recommendations` and to `clicks-dead-letters`."""

import msgspec

from model.click_wire import Click
from model.errors import InvalidClickError

DEAD_LETTER_PREFIX = "nextclick.error."
MOST_DEAD_BYTES = 1 << 20  # of a dead letter's value: with key and headers less than its topic takes in one record
POPULARITY = "popularity"
"""The version of an answer that no network gave."""


class SourceRecord(msgspec.Struct, frozen=True, gc=False):
    """One record of the clicks topic, as fetched.

    Attributes:
        partition: Partition of the clicks topic.
        offset: Offset in that partition.
        timestamp_ms: The record's own timestamp, ms since the Unix epoch.
        key: Key bytes, the session id in UTF-8 when the record is valid.
        value: Value bytes, the click in JSON when the record is valid.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class AnsweredClick(msgspec.Struct, frozen=True, gc=False):
    """The click that a recommendation answers; (`partition`, `offset`) is the key to drop a copy by."""

    partition: int
    offset: int
    item_id: str
    timestamp: int


class Recommendation(msgspec.Struct, frozen=True, gc=False):
    """The answer to one click.

    Attributes:
        session_id: The session that clicked, also the record's key.
        items: Item ids, best first.
        scores: One score per item, falling; comparable within one answer only.
        model_version: The version that answered, or `POPULARITY`.
        click: The click that is answered.
        generated_at: When the answer was made, ms since the Unix epoch.
    """

    session_id: str
    items: list[str]
    scores: list[float]
    model_version: str
    click: AnsweredClick
    generated_at: int


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A record that is not a click, with its original bytes and what was wrong with it."""

    record: SourceRecord
    reason: str
    message: str

    @classmethod
    def of(cls, record: SourceRecord, error: InvalidClickError) -> "DeadLetter":
        """Return the dead letter for `record`, refused with `error`."""
        return cls(record=record, reason=error.reason, message=str(error))

    def headers(self, topic: str) -> list[tuple[str, bytes]]:
        """Return the headers `nextclick.error.{reason,message,topic,partition,offset}`, and `bytes` where it was cut.

        Args:
            topic: Topic that the record was read from.
        """
        facts = {
            "reason": self.reason,
            "message": self.message,
            "topic": topic,
            "partition": str(self.record.partition),
            "offset": str(self.record.offset),
        }
        if self.record.value and len(self.record.value) > MOST_DEAD_BYTES:
            facts["bytes"] = str(len(self.record.value))
        return [(DEAD_LETTER_PREFIX + name, text.encode()) for name, text in facts.items()]

    @property
    def value(self) -> bytes | None:
        """The record's bytes, the first `MOST_DEAD_BYTES` of them."""
        return self.record.value and self.record.value[:MOST_DEAD_BYTES]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to one record, as it is sent.

    Attributes:
        record: The record that is answered.
        version: The version that answered, or `POPULARITY`.
        value: A recommendation's JSON.
    """

    record: SourceRecord
    version: str
    value: bytes

    @property
    def recommendation(self) -> Recommendation:
        """What subscribers read."""
        return decode_recommendation(self.value)


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Recommendation)


def encode_recommendation(
    record: SourceRecord, click: Click, items: list[str], scores: list[float], *, version: str, generated_at: int
) -> bytes:
    """Return the JSON of the `Recommendation` that answers `record`, which holds `click`."""
    answered = AnsweredClick(record.partition, record.offset, click.item_id, click.timestamp_ms)
    return _ENCODER.encode(Recommendation(click.session_id, items, scores, version, answered, generated_at))


def decode_recommendation(value: bytes) -> Recommendation:
    """Read a recommendation back; unknown fields are ignored.

    Raises:
        msgspec.DecodeError: The bytes are not a recommendation.
    """
    return _DECODER.decode(value)
