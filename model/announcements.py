"""What the models topic says: which version serves, how it was refreshed, what was last said about each version.

The topic is compacted and has one partition. Under `SERVING_KEY` stands the announcement of the version that
serves, under `REFRESH_KEY` that of the newest refresh, under a version's name the last announcement about that version.
"""

from typing import Literal, TypeVar

import msgspec

from model.errors import InvalidAnnouncementError

SERVING_KEY = b"serving"
REFRESH_KEY = b"refresh"
Action = Literal["promote", "rollback", "pin", "reject"]


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of the models topic.

    Attributes:
        version: The version that serves from now on; of `reject`, the one that must not.
        uri: Where it lies, for people; a worker reads it from the registry that it was given.
        sha256: Hex SHA-256 of its manifest.json, which in turn holds those of all other files.
        action: `promote` a new version, `rollback` to an older one, or `pin` one so that no promotion replaces it;
            `reject` one that failed on live clicks. A rejection stands under the version's name alone, until something
            else is said about that version.
        metrics: What the gate measured, by name; of `reject`, what live clicks showed.
        announced_at_ms: When, milliseconds since the Unix epoch, UTC.
        by_operator: Whether a person chose the version; what a person chose is not rolled back by itself.
    """

    version: str
    uri: str
    sha256: str
    action: Action
    metrics: dict[str, float]
    announced_at_ms: int
    by_operator: bool = False

    def encode(self) -> bytes:
        """Return the record's value, JSON."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> "Announcement":
        """Read a record's value; unknown fields are ignored.

        Raises:
            InvalidAnnouncementError: The bytes are not an announcement.
        """
        return _decoded(_decoder, data)


class RefreshAnnouncement(msgspec.Struct, frozen=True):
    """What stands under `REFRESH_KEY`.

    Attributes:
        refresh: Name of the refresh.
        base: The version that it changes; while another one serves it means nothing.
        sha256: Hex SHA-256 of its manifest.json.
        announced_at_ms: When, milliseconds since the Unix epoch, UTC.
    """

    refresh: str
    base: str
    sha256: str
    announced_at_ms: int

    def encode(self) -> bytes:
        """Return the record's value, JSON."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> "RefreshAnnouncement":
        """Read a record's value; unknown fields are ignored.

        Raises:
            InvalidAnnouncementError: The bytes are not such an announcement.
        """
        return _decoded(_refresh_decoder, data)


_T = TypeVar("_T")


def _decoded(decoder: msgspec.json.Decoder[_T], data: bytes) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidAnnouncementError(f"the value is not an announcement: {error}") from error


_decoder = msgspec.json.Decoder(Announcement)
_refresh_decoder = msgspec.json.Decoder(RefreshAnnouncement)
