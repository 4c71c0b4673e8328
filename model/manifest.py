"""What a version says about itself: the manifest, and the checks that make its files worth trusting."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor

from model.companion import Companion, Mixing
from model.errors import DamagedVersionError, UnknownVersionError
from model.gru4rec import GRU4Rec, GRU4RecSettings
from model.tensor_files import read_safetensors
from model.transitions import Neighbours, Transitions
from model.version_folders import VersionFolders
from model.vocabulary import Vocabulary

SCHEMA = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
VOCABULARY_FILE = "vocabulary.json"
TRAINING_FILE = "training.safetensors"
TRANSITIONS_FILE = "transitions.safetensors"
COUNTS_FILE = "counts.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a version: hex SHA-256 and size."""

    sha256: str
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything about a version but its numbers; written last, so that a version with a manifest is whole.

    Attributes:
        schema: Always `SCHEMA`; any other is refused.
        version: The version's name.
        parent: The version it was fine-tuned from, if any.
        parent_items: How many items the parent had.
        parent_vocabulary_sha256: `Vocabulary.sha256` of the parent, which the first `parent_items` ids must match.
        files: Every other file of the version by name.
        model: `GRU4RecSettings.to_dict`.
        training: The settings that it was trained with.
        shapes: Shape of every parameter by name.
        items: How many items it has.
        trained_until: For each partition of the clicks topic, the first offset that it has not seen.
        metrics: What the gate measured, by name.
        created_at_ms: Milliseconds since the Unix epoch, UTC.
        mixing: `Mixing.to_dict` of its companion; none, and then no files of one, where the network answers alone.
    """

    schema: int
    version: str
    parent: str | None
    parent_items: int
    parent_vocabulary_sha256: str | None
    files: dict[str, FileEntry]
    model: dict[str, Any]
    training: dict[str, Any]
    shapes: dict[str, list[int]]
    items: int
    trained_until: dict[int, int]
    metrics: dict[str, float]
    created_at_ms: int
    mixing: dict[str, float] | None = None

    def encode(self) -> bytes:
        """Return the content of manifest.json."""
        return manifest_json(self)

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of `encode()`, which announcements carry."""
        return hashlib.sha256(self.encode()).hexdigest()


class _SchemaOnly(msgspec.Struct):
    schema: int


def manifest_json(manifest: msgspec.Struct) -> bytes:
    """Return the content of a manifest.json: indented JSON in the order of the fields."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def read_manifest(version: str, data: bytes) -> Manifest:
    """Read a version's manifest.json; errors as in `decode_manifest`."""
    return decode_manifest(version, data, Manifest, SCHEMA)


class Described(Protocol):
    """Something whose files a manifest lists."""

    @property
    def version(self) -> str:
        """Its name."""

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Every file but the manifest by name."""


D = TypeVar("D", bound=Described)


def decode_manifest(name: str, data: bytes, kind: type[D], expected_schema: int) -> D:
    """Read a manifest.json.

    Args:
        name: Of what it describes.
        data: Its content.
        kind: What it is read as.
        expected_schema: The only one that `kind` is of.

    Raises:
        DamagedVersionError: "schema" where another schema is named, "manifest" where it cannot be read as one.
    """
    try:
        schema = msgspec.json.decode(data, type=_SchemaOnly).schema
        if schema != expected_schema:
            raise DamagedVersionError(name, "schema", f"expected schema {expected_schema}, got {schema}")
        manifest = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DamagedVersionError(name, "manifest", f"{MANIFEST_FILE} cannot be read: {error}") from error
    if manifest.version != name:
        raise DamagedVersionError(name, "manifest", f"{MANIFEST_FILE} is that of version {manifest.version}")
    return manifest


def is_version_name(name: str) -> bool:
    """Whether a version may have this name, which is also its folder's."""
    return _NAME.fullmatch(name) is not None


def known_name(name: str) -> str:
    """Return the name, having checked that something may have it.

    Raises:
        UnknownVersionError: Nothing can.
    """
    if not is_version_name(name):
        raise UnknownVersionError(f"{name!r} is not a version's name (letters, digits, '.', '_' and '-')")
    return name


def manifest_bytes(folders: VersionFolders, name: str) -> bytes:
    """Return the content of a manifest.json.

    Raises:
        UnknownVersionError: There is nothing of this name.
        DamagedVersionError: "missing-file".
        RegistryUnavailableError: It cannot be read now.
    """
    try:
        return folders.read(known_name(name), MANIFEST_FILE)
    except FileNotFoundError as error:
        if folders.exists(name):
            raise DamagedVersionError(name, "missing-file", f"it has no {MANIFEST_FILE}") from error
        raise UnknownVersionError(f"there is no version {name} at {folders.location(name)}") from error


def checked_file(folders: VersionFolders, manifest: Described, name: str) -> bytes:
    """Return a file's content, having compared it with its entry.

    Raises:
        DamagedVersionError: "missing-file", "manifest" where there is no entry, "size" or "hash" where the bytes differ
            from it.
        RegistryUnavailableError: It cannot be read now.
    """
    try:
        data = folders.read(manifest.version, name)
    except FileNotFoundError as error:
        raise DamagedVersionError(manifest.version, "missing-file", f"it has no {name}") from error
    entry = manifest.files.get(name)
    if entry is None:
        raise DamagedVersionError(manifest.version, "manifest", f"{MANIFEST_FILE} has no entry for {name}")
    if len(data) != entry.bytes:
        message = f"{name} has {len(data)} bytes, expected {entry.bytes}"
        raise DamagedVersionError(manifest.version, "size", message)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise DamagedVersionError(manifest.version, "hash", f"{name} is not the file that was written")
    return data


def read_vocabulary(manifest: Manifest, data: bytes) -> Vocabulary:
    """Read vocabulary.json and check that it has the manifest's items and extends the parent's.

    Raises:
        DamagedVersionError: "vocabulary".
    """
    try:
        vocabulary = Vocabulary.from_bytes(data)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "vocabulary", str(error)) from error
    if len(vocabulary) != manifest.items:
        message = f"{VOCABULARY_FILE} has {len(vocabulary)} items, expected {manifest.items}"
        raise DamagedVersionError(manifest.version, "vocabulary", message)
    if manifest.parent is not None:
        message = f"the first {manifest.parent_items} items are not those of its parent {manifest.parent}"
        if vocabulary.sha256(manifest.parent_items) != manifest.parent_vocabulary_sha256:
            raise DamagedVersionError(manifest.version, "vocabulary", message)
    return vocabulary


def read_network(manifest: Manifest, data: bytes) -> GRU4Rec:
    """Read weights.safetensors and check every tensor.

    Raises:
        DamagedVersionError: "manifest" for settings of no network, "shape" for missing, unexpected or misshapen
            tensors and those of another type, "non-finite" for values that are not finite.
    """
    try:
        settings = GRU4RecSettings.from_dict(manifest.model)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "manifest", str(error)) from error
    tensors = read_tensors(manifest, WEIGHTS_FILE, data)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    expected = {name: list(shape) for name, shape in settings.shapes(manifest.items).items()}
    if not shapes == manifest.shapes == expected:
        message = f"{WEIGHTS_FILE} has {shapes}, {MANIFEST_FILE} says {manifest.shapes}, expected {expected}"
        raise DamagedVersionError(manifest.version, "shape", message)
    try:
        return GRU4Rec(settings, tensors)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "shape", str(error)) from error


def read_companion(manifest: Manifest, data: bytes) -> Companion:
    """Read transitions.safetensors and the weights that go with it.

    Raises:
        DamagedVersionError: "manifest" for weights that are none, "shape" for tensors that are no neighbours of the
            version's items, "non-finite" for values that are not finite.
    """
    tensors = read_tensors(manifest, TRANSITIONS_FILE, data)
    try:
        mixing = Mixing.of(manifest.mixing or {})
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "manifest", str(error)) from error
    try:
        neighbours = Neighbours.from_tensors(tensors)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "shape", f"{TRANSITIONS_FILE}: {error}") from error
    _require_items(manifest, TRANSITIONS_FILE, neighbours.item_count)
    return Companion(neighbours, mixing)


def read_counts(manifest: Manifest, data: bytes) -> Transitions:
    """Read counts.safetensors.

    Raises:
        DamagedVersionError: "shape" for tensors that are no counts of the version's items, "non-finite" for values
            that are not finite.
    """
    tensors = read_tensors(manifest, COUNTS_FILE, data)
    try:
        transitions = Transitions.from_tensors(tensors)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "shape", f"{COUNTS_FILE}: {error}") from error
    _require_items(manifest, COUNTS_FILE, transitions.item_count)
    return transitions


def _require_items(manifest: Manifest, name: str, item_count: int) -> None:
    if item_count != manifest.items:
        raise DamagedVersionError(
            manifest.version, "shape", f"{name} is of {item_count} items, expected {manifest.items}"
        )


def read_tensors(manifest: Described, name: str, data: bytes) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        DamagedVersionError: "shape" where it is not one, "non-finite" for values that are not finite.
    """
    try:
        tensors = read_safetensors(data)
    except ValueError as error:
        raise DamagedVersionError(manifest.version, "shape", f"{name} is not a safetensors file: {error}") from error
    require_finite(manifest.version, name, tensors)
    return tensors


def require_finite(version: str, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Check that every value is finite.

    Raises:
        DamagedVersionError: "non-finite".
    """
    for tensor_name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise DamagedVersionError(
                version, "non-finite", f"{tensor_name} in {name} holds values that are not finite"
            )
