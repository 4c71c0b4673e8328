"""Fitted baselines on disk or in an object store, in the format of versions: written once, verified when read."""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import safetensors.torch

from model.baselines.contract import Baseline, settings_to_dict
from model.baselines.kinds import baseline_from_tensors
from model.errors import DamagedVersionError
from model.manifest import (
    MANIFEST_FILE,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    FileEntry,
    checked_file,
    decode_manifest,
    is_version_name,
    manifest_bytes,
    manifest_json,
    read_tensors,
)
from model.version_folders import VersionFolders
from model.vocabulary import Vocabulary

SCHEMA = 1


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    schema: int
    version: str
    kind: str
    settings: dict[str, Any]
    train_s: float
    files: dict[str, FileEntry]


@dataclass(frozen=True)
class KeptBaseline:
    """A baseline and what belongs to it.

    Attributes:
        baseline: On the CPU where it was loaded.
        vocabulary: Its items in row order.
        train_s: Seconds that fitting it took.
    """

    baseline: Baseline
    vocabulary: Vocabulary
    train_s: float


class Shelf:
    """The baselines under a URL that fsspec understands; not that of a registry of versions.

    One is a folder `<url>/<name>/` with weights.safetensors, vocabulary.json and manifest.json.
    """

    def __init__(self, url: str) -> None:
        self._folders = VersionFolders(url, MANIFEST_FILE)

    def names(self) -> list[str]:
        """Return the names of all whole folders, sorted."""
        return self._folders.names()

    def write(self, name: str, kept: KeptBaseline) -> None:
        """Write a baseline; after an error or a crash at any point there is none of this name.

        Raises:
            ValueError: The name is none, or the vocabulary is not of the baseline's items.
            FileExistsError: There is one of this name already.
            RegistryUnavailableError: It cannot be written now.
        """
        if not is_version_name(name):
            raise ValueError(f"{name!r} is no name (letters, digits, '.', '_' and '-')")
        baseline = kept.baseline
        if len(kept.vocabulary) != baseline.item_count:
            raise ValueError(f"the baseline has {baseline.item_count} items and the vocabulary {len(kept.vocabulary)}")
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in baseline.to_tensors().items()}
        files = {WEIGHTS_FILE: safetensors.torch.save(tensors), VOCABULARY_FILE: kept.vocabulary.to_bytes()}
        manifest = _Manifest(
            schema=SCHEMA,
            version=name,
            kind=baseline.kind,
            settings=settings_to_dict(baseline.settings),
            train_s=kept.train_s,
            files={file: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for file, data in files.items()},
        )
        self._folders.write(name, files | {MANIFEST_FILE: manifest_json(manifest)})

    def load(self, name: str) -> KeptBaseline:
        """Read a baseline and verify all that is read.

        Raises:
            UnknownVersionError: There is none of this name.
            DamagedVersionError: Something about it is wrong; `reason` says what.
            RegistryUnavailableError: It cannot be read now.
        """
        manifest = decode_manifest(name, manifest_bytes(self._folders, name), _Manifest, SCHEMA)
        tensors = read_tensors(manifest, WEIGHTS_FILE, checked_file(self._folders, manifest, WEIGHTS_FILE))
        try:
            baseline = baseline_from_tensors(manifest.kind, manifest.settings, tensors)
        except ValueError as error:
            raise DamagedVersionError(name, "shape", str(error)) from error
        try:
            vocabulary = Vocabulary.from_bytes(checked_file(self._folders, manifest, VOCABULARY_FILE))
        except ValueError as error:
            raise DamagedVersionError(name, "vocabulary", str(error)) from error
        if len(vocabulary) != baseline.item_count:
            message = f"{VOCABULARY_FILE} has {len(vocabulary)} items, expected {baseline.item_count}"
            raise DamagedVersionError(name, "vocabulary", message)
        return KeptBaseline(baseline, vocabulary, manifest.train_s)
