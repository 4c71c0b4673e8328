"""Folders of files under a URL, each written once: whole or absent. Knows no model.

On a local disk a folder is written beside, synced and renamed, and renamed away before it is deleted. Elsewhere (object
stores have no rename) the file that completes the folder is written last and deleted first, and a folder without it
does not count.
"""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model.errors import RegistryFullError, RegistryUnavailableError

_UNFINISHED = ".unfinished-"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
T = TypeVar("T")


class VersionFolders:
    """The folders under one URL; `completing_file` is the name of the file that makes a folder count.

    A process that is killed while it writes or removes leaves something behind that nothing reads: a hidden folder
    `.unfinished-*` on a local disk, elsewhere a folder that its completing file is missing from. `sweep` deletes those.
    """

    def __init__(self, url: str, completing_file: str) -> None:
        self._url = url.rstrip("/")
        self._completing_file = completing_file
        # Other processes write here too: a listing that is remembered may be out of date.
        self._filesystem, self._root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)

    def location(self, name: str) -> str:
        """Return the URL of a folder."""
        return f"{self._url}/{name}"

    def names(self) -> list[str]:
        """Return the names of all whole folders, sorted."""
        return sorted(self._guarded(self._whole))

    def _entries(self) -> list[str]:
        try:
            entries = self._filesystem.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return [entry.rstrip("/").rsplit("/", 1)[-1] for entry in entries]

    def _whole(self) -> list[str]:
        return [
            name
            for name in self._entries()
            if not name.startswith(".") and self._filesystem.exists(f"{self._root}/{name}/{self._completing_file}")
        ]

    def exists(self, name: str) -> bool:
        """Whether there is a folder of this name, whole or not."""
        return self._guarded(lambda: bool(self._filesystem.exists(f"{self._root}/{name}")))

    def read(self, name: str, file_name: str) -> bytes:
        """Return one file's content.

        Raises:
            FileNotFoundError: There is no such file.
            RegistryUnavailableError: It cannot be read now.
        """
        path = f"{self._root}/{name}/{file_name}"
        return self._guarded(lambda: bytes(self._filesystem.cat_file(path)), FileNotFoundError)

    def write(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a whole folder; after an error or a crash at any point it is absent.

        Raises:
            FileExistsError: There is such a folder already.
            RegistryUnavailableError: It cannot be written now.
        """
        if self.exists(name):
            raise FileExistsError(f"{self.location(name)} exists, and folders are written once")
        ordered = sorted(files.items(), key=lambda entry: entry[0] == self._completing_file)
        if isinstance(self._filesystem, LocalFileSystem):
            self._guarded(lambda: _write_beside_and_rename(Path(self._root), name, dict(ordered)))
            return
        for file_name, data in ordered:
            self._guarded(partial(self._filesystem.pipe_file, f"{self._root}/{name}/{file_name}", data))

    def remove(self, name: str) -> None:
        """Delete a folder; after an error or a crash at any point it is whole or absent.

        Raises:
            FileNotFoundError: There is no such folder.
            RegistryUnavailableError: It cannot be deleted now; it may be absent all the same.
        """
        if isinstance(self._filesystem, LocalFileSystem):
            self._guarded(lambda: _rename_away_and_delete(Path(self._root), name), FileNotFoundError)
            return
        if not self.exists(name):
            raise FileNotFoundError(self.location(name))
        folder = f"{self._root}/{name}"
        for deletion in (
            partial(self._filesystem.rm_file, f"{folder}/{self._completing_file}"),
            partial(self._filesystem.rm, folder, recursive=True),
        ):
            with contextlib.suppress(FileNotFoundError):  # it was incomplete, or that file was all of it
                self._guarded(deletion, FileNotFoundError)

    def sweep(self, before_s: float, is_ours: Callable[[str], bool]) -> None:
        """Delete what killed processes left behind.

        Args:
            before_s: Seconds since the Unix epoch. What was touched since may still be in the making, and stays.
            is_ours: Whether a folder of this name is one of those written here. Only such an incomplete one is deleted:
                somebody else's folder under the same URL looks incomplete too.

        Raises:
            RegistryUnavailableError: The folders cannot be read or deleted now.
        """
        if isinstance(self._filesystem, LocalFileSystem):
            self._guarded(lambda: _sweep(Path(self._root), before_s))
            return
        whole = set(self.names())
        for name in self._guarded(self._entries):
            if name not in whole and is_ours(name):
                self._guarded(partial(self._delete_untouched, f"{self._root}/{name}", before_s))

    def _delete_untouched(self, folder: str, before_s: float) -> None:
        files = self._filesystem.find(folder)
        if all(self._filesystem.modified(file).timestamp() < before_s for file in files):
            self._filesystem.rm(folder, recursive=True)

    def _guarded(self, action: Callable[[], T], *expected: type[Exception]) -> T:
        try:
            return action()
        except expected:
            raise
        except Exception as error:  # every fsspec driver raises its own client's errors; all mean "not now"
            is_full = isinstance(error, OSError) and error.errno in _NO_ROOM
            raise (RegistryFullError if is_full else RegistryUnavailableError)(
                f"{self._url}: {type(error).__name__}: {error}"
            ) from error


def _write_beside_and_rename(root: Path, name: str, files: Mapping[str, bytes]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{_UNFINISHED}{name}-", dir=root))
    try:
        for file_name, data in files.items():
            with (beside / file_name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        beside.chmod(0o755)
        _sync_directory(beside)
        beside.rename(root / name)
        _sync_directory(root)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _rename_away_and_delete(root: Path, name: str) -> None:
    away = root / f"{_UNFINISHED}{name}-{secrets.token_hex(4)}"
    (root / name).rename(away)
    # On disk before the first file goes: else a power cut could bring the folder back with holes.
    _sync_directory(root)
    _delete(away)


def _sweep(root: Path, before_s: float) -> None:
    for left in root.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # its writer has just finished
            if left.stat().st_mtime < before_s:
                _delete(left)


def _delete(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process sweeps too
        shutil.rmtree(folder)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
