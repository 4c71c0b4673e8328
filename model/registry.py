"""Where versions live: written once and atomically, verified whenever they are read."""

import contextlib
import datetime as dt
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
from torch import Tensor

from model.companion import Companion
from model.errors import DamagedVersionError, UnknownVersionError
from model.gru4rec import GRU4Rec
from model.manifest import (
    COUNTS_FILE,
    MANIFEST_FILE,
    SCHEMA,
    TRAINING_FILE,
    TRANSITIONS_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    checked_file,
    is_version_name,
    known_name,
    manifest_bytes,
    read_companion,
    read_counts,
    read_manifest,
    read_network,
    read_tensors,
    read_vocabulary,
    require_finite,
)
from model.transitions import Transitions
from model.version_folders import VersionFolders
from model.vocabulary import Vocabulary

__all__ = ["FileEntry", "Manifest", "ModelVersion", "Registry", "new_version_name"]

_MADE_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+")
SWEPT_AFTER_S = 24 * 3600.0
"""How long what is half written may still be in the making: no write takes that long."""


@dataclass(frozen=True)
class ModelVersion:
    """One version in memory.

    Attributes:
        version: Its name, see `new_version_name`.
        parent: The version it was fine-tuned from, if any; its items come first in `vocabulary`.
        network: The weights.
        vocabulary: Items in row order.
        optimizer_state: What the next round goes on from; empty where it was not loaded.
        training_settings: Plain JSON values.
        trained_until: For each partition of the clicks topic, the first offset that the weights have not seen.
        metrics: What the gate measured, by name.
        created_at_ms: Milliseconds since the Unix epoch, UTC.
        companion: What is mixed with the network's answers; None for the network alone.
        transitions: The pair counts behind the companion, which the next round adds to; None where not loaded. One is
            written with the other only.
    """

    version: str
    parent: str | None
    network: GRU4Rec
    vocabulary: Vocabulary
    optimizer_state: dict[str, Tensor] = field(default_factory=dict)
    training_settings: dict[str, Any] = field(default_factory=dict)
    trained_until: dict[int, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    created_at_ms: int = 0
    companion: Companion | None = None
    transitions: Transitions | None = None


def new_version_name(now_ms: int, random_hex: str) -> str:
    """Return a name that sorts by time, such as 20261123T211530Z-1a2b3c.

    Args:
        now_ms: Milliseconds since the Unix epoch, UTC.
        random_hex: Tells versions of one second apart.
    """
    now = dt.datetime.fromtimestamp(now_ms / 1000, tz=dt.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{random_hex}"


def is_made_name(name: str) -> bool:
    """Whether `new_version_name` may have returned this name."""
    return _MADE_NAME.fullmatch(name) is not None


class Registry:
    """The versions under a URL that fsspec understands: a local folder, `s3://...` and the like.

    A version is a folder `<url>/<version>/` with weights.safetensors, vocabulary.json, training.safetensors and
    manifest.json; with a companion, also transitions.safetensors and, to go on from, counts.safetensors. Which version
    serves is not said here but by the models topic.

    Attributes:
        url: Where they are.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._folders = VersionFolders(url, MANIFEST_FILE)

    def location(self, version: str) -> str:
        """Return the URL of a version's folder."""
        return self._folders.location(version)

    def versions(self) -> list[str]:
        """Return the names of all versions, oldest first; one whose manifest is damaged counts as the oldest.

        Raises:
            RegistryUnavailableError: The registry cannot be read now.
        """
        created_at_ms: dict[str, int] = {}
        for version in self._folders.names():
            with contextlib.suppress(UnknownVersionError):  # removed since it was listed
                created_at_ms[version] = self._created_at_ms(version)
        return sorted(created_at_ms, key=lambda version: (created_at_ms[version], version))

    def _created_at_ms(self, version: str) -> int:
        try:
            return self.manifest(version).created_at_ms
        except DamagedVersionError:
            return 0

    def manifest(self, version: str) -> Manifest:
        """Return a version's manifest.

        Raises:
            UnknownVersionError: There is no such version.
            DamagedVersionError: Its manifest is missing, unreadable or of an unknown schema.
            RegistryUnavailableError: The registry cannot be read now.
        """
        return read_manifest(version, manifest_bytes(self._folders, version))

    def manifest_sha256(self, version: str) -> str:
        """Return the hex SHA-256 of a version's manifest.json as it lies in the registry; errors as in `manifest`."""
        return hashlib.sha256(manifest_bytes(self._folders, version)).hexdigest()

    def write(self, model_version: ModelVersion) -> Manifest:
        """Write a version; after an error or a crash at any point there is no such version.

        Raises:
            ValueError: The name is no version name, the vocabulary does not fit the network or does not extend the
                parent's, or the companion or its counts are of other items.
            DamagedVersionError: A value is not finite, or the parent's manifest is damaged.
            UnknownVersionError: The parent is not in the registry.
            FileExistsError: There is such a version already.
            RegistryUnavailableError: The registry cannot be written now.
        """
        if not is_version_name(model_version.version):
            raise ValueError(f"{model_version.version!r} is not a version's name (letters, digits, '.', '_' and '-')")
        network, vocabulary = model_version.network, model_version.vocabulary
        if network.item_count != len(vocabulary):
            raise ValueError(f"the network has {network.item_count} items and the vocabulary {len(vocabulary)}")
        tensors = {
            WEIGHTS_FILE: network.parameters,
            TRAINING_FILE: model_version.optimizer_state,
            **_companion_tensors(model_version),
        }
        for name, named in tensors.items():
            require_finite(model_version.version, name, named)
        files = {name: _tensor_bytes(named) for name, named in tensors.items()}
        files[VOCABULARY_FILE] = vocabulary.to_bytes()
        manifest = self._describe(model_version, files)
        self._folders.write(model_version.version, files | {MANIFEST_FILE: manifest.encode()})
        return manifest

    def _describe(self, model_version: ModelVersion, files: dict[str, bytes]) -> Manifest:
        parent_items, parent_sha256 = 0, None
        if model_version.parent is not None:
            parent = self.manifest(model_version.parent)
            parent_items, parent_sha256 = parent.items, parent.files[VOCABULARY_FILE].sha256
            if model_version.vocabulary.sha256(parent_items) != parent_sha256:
                raise ValueError(f"the vocabulary does not extend that of its parent {model_version.parent}")
        return Manifest(
            schema=SCHEMA,
            version=model_version.version,
            parent=model_version.parent,
            parent_items=parent_items,
            parent_vocabulary_sha256=parent_sha256,
            files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
            model=model_version.network.settings.to_dict(),
            training=model_version.training_settings,
            shapes={name: list(tensor.shape) for name, tensor in model_version.network.parameters.items()},
            items=len(model_version.vocabulary),
            trained_until=model_version.trained_until,
            metrics=model_version.metrics,
            created_at_ms=model_version.created_at_ms,
            mixing=model_version.companion.mixing.to_dict() if model_version.companion else None,
        )

    def load(self, version: str, *, training: bool = False) -> ModelVersion:
        """Read a version and verify all that is read.

        Args:
            version: Its name.
            training: Whether to read (and verify) what only training needs too: optimizer state and counts.

        Raises:
            UnknownVersionError: There is no such version.
            DamagedVersionError: Something about it is wrong; `reason` says what.
            RegistryUnavailableError: The registry cannot be read now.
        """
        manifest = self.manifest(version)
        vocabulary = read_vocabulary(manifest, checked_file(self._folders, manifest, VOCABULARY_FILE))
        network = read_network(manifest, checked_file(self._folders, manifest, WEIGHTS_FILE))
        companion, transitions, optimizer_state = None, None, {}
        if manifest.mixing is not None:
            companion = read_companion(manifest, checked_file(self._folders, manifest, TRANSITIONS_FILE))
        if training:
            optimizer_state = read_tensors(
                manifest, TRAINING_FILE, checked_file(self._folders, manifest, TRAINING_FILE)
            )
        if training and companion:
            transitions = read_counts(manifest, checked_file(self._folders, manifest, COUNTS_FILE))
        return ModelVersion(
            version=version,
            parent=manifest.parent,
            network=network,
            vocabulary=vocabulary,
            optimizer_state=optimizer_state,
            training_settings=manifest.training,
            trained_until=manifest.trained_until,
            metrics=manifest.metrics,
            created_at_ms=manifest.created_at_ms,
            companion=companion,
            transitions=transitions,
        )

    def remove(self, version: str) -> None:
        """Delete a version; after an error or a crash at any point it is whole or absent.

        Raises:
            UnknownVersionError: There is no such version.
            RegistryUnavailableError: The registry cannot be written now.
        """
        try:
            self._folders.remove(known_name(version))
        except FileNotFoundError as error:
            raise UnknownVersionError(f"there is no version {version} at {self.location(version)}") from error

    def sweep(self, now_ms: int) -> None:
        """Delete what processes that were killed over a day ago left half written or half removed.

        Raises:
            RegistryUnavailableError: The registry cannot be read or written now.
        """
        self._folders.sweep(now_ms / 1000 - SWEPT_AFTER_S, is_made_name)


def _companion_tensors(model_version: ModelVersion) -> dict[str, dict[str, Tensor]]:
    """Return the companion's files, none where there is no companion."""
    companion, transitions = model_version.companion, model_version.transitions
    if companion is None or transitions is None:
        if companion is not None or transitions is not None:
            raise ValueError(
                "a companion is written with the counts that it came from, and counts with their companion"
            )
        return {}
    items = len(model_version.vocabulary)
    if not companion.neighbours.item_count == transitions.item_count == items:
        raise ValueError(
            f"{items} items, but neighbours of {companion.neighbours.item_count} and counts of {transitions.item_count}"
        )
    return {TRANSITIONS_FILE: companion.neighbours.to_tensors(), COUNTS_FILE: transitions.to_tensors()}


def _tensor_bytes(tensors: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
