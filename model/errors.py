"""What can go wrong in the recommender, split by what the caller can do about it.

Wait and try again: `RegistryUnavailableError`, having made room where it is a `RegistryFullError`. Set the record
aside: `InvalidClickError`, `InvalidAnnouncementError`. Keep what serves now: `DamagedVersionError`,
`UnknownVersionError`. Tell the user: `InvalidFileError`.
"""

from typing import Literal

ClickFault = Literal["empty", "malformed", "missing-field", "invalid-id", "key-mismatch", "timestamp-out-of-range"]
VersionFault = Literal["manifest", "missing-file", "size", "hash", "shape", "non-finite", "vocabulary", "schema"]


class RecommenderError(Exception):
    """The root of every error that this project raises on purpose."""


class InvalidClickError(RecommenderError):
    """A record that is not a click; the same bytes will never become one."""

    def __init__(self, reason: ClickFault, message: str) -> None:
        super().__init__(message)
        self.reason: ClickFault = reason


class InvalidAnnouncementError(RecommenderError):
    """A record of the models topic that is not an announcement."""


class InvalidFileError(RecommenderError):
    """A click file that cannot be read as asked; the message says what to change."""


class DamagedVersionError(RecommenderError):
    """A version in the registry that must not be used, and why."""

    def __init__(self, version: str, reason: VersionFault, message: str) -> None:
        super().__init__(f"version {version} is damaged ({reason}): {message}")
        self.version = version
        self.reason: VersionFault = reason


class UnknownVersionError(RecommenderError):
    """The registry has no such version."""


class RegistryUnavailableError(RecommenderError):
    """The registry cannot be reached now; trying again later may work."""


class RegistryFullError(RegistryUnavailableError):
    """There is no room in the registry; what was to be written is absent."""
