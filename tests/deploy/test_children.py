import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.children import Child, Process
from deploy.errors import ChildError
from tests.deploy.command_line import DEADLINE_S, PREFIX

NOBODY = "127.0.0.1:1"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ended(arguments: list[str], log_path: Path, settings: dict[str, str] | None = None) -> Child:
    """Return a child that has ended by itself."""
    child = Child(arguments, settings or {}, log_path).start()
    wait_until(lambda: child.exit_status() is not None)
    return child


def test_a_child_has_the_settings_that_it_is_given_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}REPLICATION_FACTOR", "3")
    child = ended(["settings", "--json"], tmp_path / "log", {"PARTITIONS": "5"})
    found = json.loads(child.log_tail())

    assert child.stop() == 0
    assert found["NEXTCLICK_PARTITIONS"]["value"] == 5
    assert found["NEXTCLICK_REPLICATION_FACTOR"]["value"] == 1


def test_a_child_that_ended_is_an_error_with_its_status_and_last_words(tmp_path: Path) -> None:
    child = ended(["nonsense"], tmp_path / "log")

    with pytest.raises(ChildError, match=r"^`nextclick nonsense` ended with status 2: Error: No such command"):
        child.check()
    with pytest.raises(ChildError, match="ended with status 2"):
        child.wait_until_ready(NOBODY, deadline_s=5)
    assert child.stop() == 2


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ('{"event": "starts"}\n{"error": "no answer from Kafka", "event": "failed"}\n', "no answer from Kafka"),
        ('{"event": "starts"}\n', '{"event": "starts"}'),
        ("Error: no Java\n", "Error: no Java"),
        ("", "none"),
        ("[1]\n", "[1]"),
    ],
)
def test_last_words_are_the_error_of_the_last_line_or_the_line(log: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(log)

    assert Child(["worker"], {}, tmp_path / "log").last_words() == said


def test_a_child_is_stopped_with_sigterm_and_one_that_is_not_ready_in_time_is_an_error(
    tmp_path: Path, stack: ExitStack
) -> None:
    child = Child(["broker"], {}, tmp_path / "log").start()
    stack.callback(child.kill)
    with pytest.raises(ChildError, match=r"`nextclick broker` is not ready after 0 s; it said last: none"):
        child.wait_until_ready(NOBODY, deadline_s=0)
    wait_until(lambda: "Ctrl-C ends it" in child.log_tail())

    child.check()
    assert child.cpu_s() > 0
    assert child.stop() == 0
    assert child.exit_status() == 0


def test_a_killed_child_says_by_which_signal(tmp_path: Path) -> None:
    child = Child(["settings"], {}, tmp_path / "log").start()

    assert child.kill() == -signal.SIGKILL
    assert child.stop() == -signal.SIGKILL


def test_processor_time_is_that_of_its_children_too(stack: ExitStack, tmp_path: Path) -> None:
    # Busy until its parent is gone.
    busy = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    parent = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {busy!r}])"
    process = stack.enter_context(Process("parent", [sys.executable, "-c", parent], {}, tmp_path / "log"))
    wait_until(lambda: process.cpu_s() > 0.5)  # the parent alone uses a tenth of that
