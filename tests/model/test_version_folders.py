import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from model.errors import RegistryFullError, RegistryUnavailableError
from model.version_folders import VersionFolders

FILES = {"done": b"3", "first": b"1" * 5000, "second": b""}
COMPLETING = "done"


class FlakyFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """An object store that goes away after so many writes, and comes back when told."""

    protocol = "flaky"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    writes_left: ClassVar[int | None] = None
    removals_left: ClassVar[int | None] = None

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("flaky://", "memory://")))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise LookupError("a driver's own kind of error")
            type(self).writes_left = self.writes_left - 1
        super().pipe_file(path, value, mode, **options)

    def rm_file(self, path: str) -> None:
        if self.removals_left is not None:
            if self.removals_left == 0:
                raise LookupError("a driver's own kind of error")
            type(self).removals_left = self.removals_left - 1
        super().rm_file(path)

    def rm(self, path: str, **options: Any) -> None:
        for found in self.expand_path(path, **options):
            if self.isfile(found):
                self.rm_file(found)


@pytest.fixture
def flaky() -> Iterator[type[FlakyFileSystem]]:
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    yield FlakyFileSystem
    FlakyFileSystem.writes_left = FlakyFileSystem.removals_left = None
    FlakyFileSystem.store.clear()
    FlakyFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=["local", "object store"])
def url(request: pytest.FixtureRequest, tmp_path: Path, flaky: type[FlakyFileSystem]) -> str:
    return str(tmp_path / "not there yet") if request.param == "local" else f"{flaky.protocol}://bucket/folders"


def test_written_folder_is_read_back(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    folders.write("a", FILES)
    assert {name: folders.read("a", name) for name in FILES} == FILES
    assert folders.names() == ["a"]
    assert folders.exists("a")
    assert folders.location("a") == f"{url}/a"


def test_nothing_is_found_where_nothing_was_written(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    assert folders.names() == []
    assert not folders.exists("a")
    with pytest.raises(FileNotFoundError):
        folders.read("a", "first")


def test_folder_is_written_once(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    folders.write("a", FILES)
    with pytest.raises(FileExistsError, match="written once"):
        folders.write("a", {COMPLETING: b"other"})
    assert folders.read("a", COMPLETING) == FILES[COMPLETING]


def test_folder_written_by_another_process_is_found(url: str) -> None:
    reader = VersionFolders(url, COMPLETING)
    assert reader.names() == []
    VersionFolders(url, COMPLETING).write("a", FILES)
    assert reader.names() == ["a"]


def test_folder_without_its_completing_file_does_not_count(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    folders.write("a", {"first": b"1"})
    assert folders.names() == []


def test_characters_that_mean_something_in_patterns_may_stand_in_a_path(tmp_path: Path) -> None:
    folders = VersionFolders(str(tmp_path / "[x]*"), COMPLETING)
    folders.write("a", FILES)
    assert folders.names() == ["a"]


def crash_at(event_number: int, action: Callable[[], None]) -> bool:
    """Run an action in a process that dies at its n-th call to the file system; False if it finished before."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    calls = 0

    def die(event: str, _: object) -> None:
        nonlocal calls
        if event in {"open", "shutil.rmtree"} or event.startswith("os."):
            calls += 1
            if calls > event_number:
                os._exit(9)

    sys.addaudithook(die)
    action()
    os._exit(0)


def test_process_killed_at_any_call_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    outcomes = []
    for event_number in range(100):
        folders = VersionFolders(str(tmp_path / str(event_number)), COMPLETING)
        crashed = crash_at(event_number, partial(folders.write, "a", FILES))
        outcomes.append(folders.names())
        if folders.names():
            assert {name: folders.read("a", name) for name in FILES} == FILES
        else:
            folders.write("a", FILES)
            assert folders.names() == ["a"]
        if not crashed:
            break
    assert outcomes[-1] == ["a"]
    assert outcomes.count([]) >= 6  # a directory or two, three files, and the rename at the least
    assert outcomes == sorted(outcomes)


def test_process_killed_at_any_call_of_a_removal_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    outcomes = []
    for event_number in range(100):
        root = tmp_path / str(event_number)
        folders = VersionFolders(str(root), COMPLETING)
        folders.write("a", FILES)
        crashed = crash_at(event_number, partial(folders.remove, "a"))
        outcomes.append(folders.names())
        if folders.names():
            assert {name: folders.read("a", name) for name in FILES} == FILES
        folders.sweep(time.time() + 60, lambda _: True)
        assert [entry.name for entry in root.iterdir()] == folders.names()
        if not crashed:
            break
    assert outcomes[0] == ["a"]
    assert outcomes.count([]) >= 5  # three files, their folder, and the end at the least
    assert outcomes == sorted(outcomes, reverse=True)


def test_removed_folder_is_gone_and_may_be_written_again(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    folders.write("a", FILES)
    folders.write("b", FILES)
    folders.remove("a")
    assert folders.names() == ["b"]
    assert not folders.exists("a")
    folders.write("a", FILES)
    assert folders.names() == ["a", "b"]


def test_what_is_not_there_cannot_be_removed(url: str) -> None:
    with pytest.raises(FileNotFoundError):
        VersionFolders(url, COMPLETING).remove("a")


def test_what_killed_writers_left_is_swept_once_it_is_old(url: str) -> None:
    folders = VersionFolders(url, COMPLETING)
    folders.write("whole", FILES)
    leave_unfinished(url, folders)
    before = everything_under(url)
    folders.sweep(time.time() - 60, lambda _: True)
    assert everything_under(url) == before, "it may still be in the making"
    folders.sweep(time.time() + 60, lambda _: True)
    assert everything_under(url) == {f"whole/{name}" for name in FILES}


def leave_unfinished(url: str, folders: VersionFolders) -> None:
    if "://" in url:
        folders.write("killed", {"first": b"1"})
    else:
        assert crash_at(5, partial(folders.write, "killed", FILES))


def everything_under(url: str) -> set[str]:
    filesystem, root = fsspec.core.url_to_fs(url)
    return {path.removeprefix(f"{root}/") for path in filesystem.find(root, withdirs=True)} - {"whole", root}


@pytest.mark.usefixtures("flaky")
def test_somebody_elses_folder_in_an_object_store_is_not_swept() -> None:
    folders = VersionFolders("flaky://bucket", COMPLETING)
    folders.write("photos", {"first": b"1"})
    folders.write("ours", {"first": b"1"})
    folders.sweep(time.time() + 60, lambda name: name == "ours")
    assert not folders.exists("ours")
    assert folders.read("photos", "first") == b"1"


def test_object_store_that_goes_away_in_a_removal_leaves_no_folder(flaky: type[FlakyFileSystem]) -> None:
    folders = VersionFolders("flaky://bucket", COMPLETING)
    folders.write("a", FILES)
    flaky.removals_left = 1
    with pytest.raises(RegistryUnavailableError):
        folders.remove("a")
    assert folders.names() == []
    assert folders.exists("a")


def test_object_store_that_goes_away_at_any_write_leaves_no_folder(flaky: type[FlakyFileSystem]) -> None:
    for writes in range(len(FILES)):
        folders = VersionFolders(f"flaky://bucket/{writes}", COMPLETING)
        flaky.writes_left = writes
        with pytest.raises(RegistryUnavailableError, match="LookupError: a driver's own kind of error"):
            folders.write("a", FILES)
        assert folders.names() == []


def test_disk_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = VersionFolders(str(tmp_path), COMPLETING)
    with pytest.raises(RegistryUnavailableError):
        folders.write("a", FILES | {"no such folder/file": b""})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_apart_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync, room = os.fsync, iter([True, True])

    def fill_up(descriptor: int) -> None:
        if not next(room, False):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(RegistryFullError, match=os.strerror(number)):
        VersionFolders(str(tmp_path), COMPLETING).write("a", FILES)
    assert list(tmp_path.iterdir()) == []


def test_root_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryUnavailableError, match="file"):
        VersionFolders(str(tmp_path / "file"), COMPLETING).write("a", FILES)
