import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.guard import Guard, temporary_folder
from tests.conftest import REPOSITORY
from tests.deploy.command_line import processes_of

DEADLINE_S = 20.0

PARENT = """
import subprocess, sys
from deploy.guard import Guard, temporary_folder

with temporary_folder("guarded-") as folder:
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    guard = Guard(child.pid)
    (folder / "data").write_text("x")
    print(child.pid, folder, flush=True)
    sys.stdin.read()
    child.kill()
    child.wait()
    guard.end()
"""


def parent(folder: Path) -> tuple["subprocess.Popen[str]", int, Path]:
    """Start a process with a guarded child and a guarded folder; return it, the child's id and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    pid, path = process.stdout.readline().split()
    return process, int(pid), Path(path)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def test_a_killed_process_leaves_neither_child_nor_folder(tmp_path: Path) -> None:
    process, pid, folder = parent(tmp_path)
    with process:
        assert runs(pid)
        assert (folder / "data").exists()
        process.send_signal(signal.SIGKILL)

    assert wait_until(lambda: not runs(pid))
    assert wait_until(lambda: not folder.exists())


def test_a_process_that_ends_in_order_leaves_no_guard_behind(tmp_path: Path) -> None:
    process, _, folder = parent(tmp_path)
    process.communicate("")

    assert process.returncode == 0
    assert not folder.exists()
    assert processes_of(tmp_path) == []


def test_an_ended_guard_lets_its_process_be() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        Guard(process.pid).end()
        assert process.poll() is None
        process.kill()


def test_a_temporary_folder_is_gone_after_its_block() -> None:
    with temporary_folder("guarded-") as folder:
        (folder / "data").write_text("x")

    assert not folder.exists()
