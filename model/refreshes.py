"""Where refreshes live: beside the versions, written once and atomically, verified when they are read."""

import contextlib
import hashlib

import msgspec
import safetensors.torch

from model.errors import DamagedVersionError
from model.manifest import (
    MANIFEST_FILE,
    FileEntry,
    checked_file,
    decode_manifest,
    manifest_bytes,
    manifest_json,
    read_tensors,
    require_finite,
)
from model.refresh import Refresh
from model.registry import SWEPT_AFTER_S, is_made_name
from model.version_folders import VersionFolders
from model.vocabulary import Vocabulary

FOLDER = "refreshes"
SCHEMA = 1
ITEMS_FILE = "items.json"
CHANGES_FILE = "changes.safetensors"


class RefreshManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a refresh but its numbers; written last, so that a refresh with a manifest is whole.

    Attributes:
        schema: Always `SCHEMA`; any other is refused.
        version: The refresh's own name.
        base: The version that it changes.
        items: How many items there are with it.
        vocabulary_sha256: `Vocabulary.sha256` of all of them.
        files: Every other file by name.
        read_until: For each partition of the clicks topic, the first offset that it has not counted.
        created_at_ms: Milliseconds since the Unix epoch, UTC.
    """

    schema: int
    version: str
    base: str
    items: int
    vocabulary_sha256: str
    files: dict[str, FileEntry]
    read_until: dict[int, int]
    created_at_ms: int

    def encode(self) -> bytes:
        """Return the content of manifest.json."""
        return manifest_json(self)


class Refreshes:
    """The refreshes beside the versions under a URL, each a folder `<url>/refreshes/<name>/`."""

    def __init__(self, url: str) -> None:
        self._folders = VersionFolders(f"{url.rstrip('/')}/{FOLDER}", MANIFEST_FILE)

    def names(self) -> list[str]:
        """Return the names of all refreshes, oldest first.

        Raises:
            RegistryUnavailableError: They cannot be read now.
        """
        return self._folders.names()

    def write(self, refresh: Refresh, vocabulary: Vocabulary) -> str:
        """Write a refresh; after an error or a crash at any point there is no such refresh.

        Args:
            refresh: What to write.
            vocabulary: All items that there are with it.

        Returns:
            The hex SHA-256 of its manifest.json.

        Raises:
            DamagedVersionError: A value is not finite.
            FileExistsError: There is one of this name already.
            RegistryUnavailableError: The registry cannot be written now.
        """
        tensors = refresh.to_tensors()
        require_finite(refresh.name, CHANGES_FILE, tensors)
        files = {
            ITEMS_FILE: msgspec.json.encode(refresh.item_ids),
            CHANGES_FILE: safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}),
        }
        manifest = RefreshManifest(
            schema=SCHEMA,
            version=refresh.name,
            base=refresh.base,
            items=len(vocabulary),
            vocabulary_sha256=vocabulary.sha256(),
            files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
            read_until=refresh.read_until,
            created_at_ms=refresh.created_at_ms,
        ).encode()
        self._folders.write(refresh.name, files | {MANIFEST_FILE: manifest})
        return hashlib.sha256(manifest).hexdigest()

    def load(self, name: str, sha256: str, vocabulary: Vocabulary) -> Refresh:
        """Read a refresh and verify it.

        Args:
            name: Its name.
            sha256: Hex SHA-256 that its manifest must have.
            vocabulary: Items of the version that it changes.

        Raises:
            UnknownVersionError: There is no such refresh; a newer one may have taken its place.
            DamagedVersionError: Something about it is wrong; `reason` says what.
            RegistryUnavailableError: The registry cannot be read now.
        """
        data = manifest_bytes(self._folders, name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedVersionError(name, "hash", "its manifest is not the one that was announced")
        manifest = decode_manifest(name, data, RefreshManifest, SCHEMA)
        files = {file: checked_file(self._folders, manifest, file) for file in (ITEMS_FILE, CHANGES_FILE)}
        try:
            item_ids = msgspec.json.decode(files[ITEMS_FILE], type=list[str])
            extended = vocabulary.extended(item_ids)
        except (msgspec.MsgspecError, ValueError) as error:
            raise DamagedVersionError(name, "vocabulary", f"{ITEMS_FILE}: {error}") from error
        if len(extended) != manifest.items or extended.sha256() != manifest.vocabulary_sha256:
            raise DamagedVersionError(name, "vocabulary", f"it does not go on from the items of {manifest.base}")
        try:
            return Refresh.from_tensors(
                read_tensors(manifest, CHANGES_FILE, files[CHANGES_FILE]),
                item_count=manifest.items,
                name=name,
                base=manifest.base,
                item_ids=item_ids,
                read_until=manifest.read_until,
                created_at_ms=manifest.created_at_ms,
            )
        except ValueError as error:
            raise DamagedVersionError(name, "shape", f"{CHANGES_FILE}: {error}") from error

    def make_room(self, *, keep: int, announced: str) -> None:
        """Delete old refreshes: each takes the place of the one before.

        Args:
            keep: Of the newest so many stay, by their names, which are as right as the clocks of those who wrote them.
            announced: Stays whatever its name.

        Raises:
            RegistryUnavailableError: The registry cannot be written now.
        """
        for name in self.names()[:-keep]:
            if name != announced:
                with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                    self._folders.remove(name)

    def sweep(self, now_ms: int) -> None:
        """Delete what processes that were killed over a day ago left half written or half removed.

        Raises:
            RegistryUnavailableError: The registry cannot be read or written now.
        """
        self._folders.sweep(now_ms / 1000 - SWEPT_AFTER_S, is_made_name)
