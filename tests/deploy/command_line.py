"""`nextclick` as people call it: in this process, or as a process of its own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from deploy.cli import main
from model.clicks import Click
from tests.conftest import REPOSITORY

PREFIX = "NEXTCLICK_"
DEADLINE_S = 90.0


def nextclick(*arguments: str | Path, **settings: str | Path) -> Result:
    """Run a command here. Settings are our variables without their prefix; none comes from the environment."""
    unset = {name: None for name in os.environ if name.startswith(PREFIX)}
    given = {PREFIX + name: str(value) for name, value in settings.items()}
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=unset | given)


def last_json(text: str) -> dict[str, Any]:
    """Read the last line as the JSON object that it must be."""
    found = json.loads(text.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def write_csv(path: Path, clicks: Iterable[Click]) -> Path:
    """Write a click file with the default columns and return its path."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["session_id", "item_id", "timestamp"])
        writer.writerows([click.session_id, click.item_id, click.timestamp_ms] for click in clicks)
    return path


@dataclass(frozen=True)
class Running:
    """A `nextclick` process and what it has written."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition while the process runs."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert self.process.poll() is None, f"it ended before: {what}\n{self.stderr}"
            assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}\n{self.stderr}"
            time.sleep(0.05)

    def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, if any, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def running(folder: Path, *arguments: str | Path, **settings: str | Path) -> Iterator[Running]:
    """Start a process that writes to `folder`, its temporary folder included; kill it at the end if it still runs."""
    folder.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    environment |= {PREFIX + name: str(value) for name, value in settings.items()}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy", *map(str, arguments)],
            cwd=REPOSITORY,
            env=environment | {"TMPDIR": str(folder)},
            stdout=out,
            stderr=err,
        )
    try:
        yield Running(process, folder)
    finally:
        process.kill()
        process.wait()


def processes_of(folder: Path) -> list[int]:
    """Return the processes that were started by `running` on this folder, and their children."""
    marker = f"TMPDIR={folder}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                is_ours = marker in (entry / "environ").read_bytes()
            except OSError:  # it has ended, or is another user's
                continue
            if is_ours:
                found.append(int(entry.name))
    return found
