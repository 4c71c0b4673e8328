"""Processes of ours that a command starts and ends: their settings, their logs, their health."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from deploy.errors import ChildError
from deploy.guard import Guard
from deploy.settings import PREFIX

POLL_S = 0.05
STOP_DEADLINE_S = 30.0
LOG_LINES = 15


class Process:
    """A process of ours.

    Args:
        name: What to call it.
        command: The program and its arguments.
        environment: All its variables.
        log_path: Where its output goes.
        shares_stderr: Whether its standard error is ours, instead of going to the log too.
        cores: Processors it may use; all by default.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: Path,
        *,
        shares_stderr: bool = False,
        cores: Sequence[int] | None = None,
    ) -> None:
        self._name = name
        self._shares_stderr = shares_stderr
        self._command = command
        self._environment = environment
        self._log_path = log_path
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    def start(self) -> Self:
        """Start the process, in a session of its own so that Ctrl-C reaches only the command that started it."""
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - what our own code asks for
                self._command,
                env=self._environment,
                stdout=log,
                stderr=None if self._shares_stderr else log,
                start_new_session=True,
            )
        self._guard = Guard(self._process.pid)
        if self._cores is not None:
            os.sched_setaffinity(self._process.pid, self._cores)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None  # started
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return the exit status; None while it runs."""
        assert self._process is not None  # started
        return self._process.poll()

    def check(self) -> None:
        """Raise when the process has ended.

        Raises:
            ChildError: With the end of its log.
        """
        status = self.exit_status()
        if status is not None:
            raise ChildError(f"`{self._name}` ended with status {status}: {self.last_words()}")

    def wait_until_ready(self, address: str, deadline_s: float) -> None:
        """Wait until `/readyz` at `address` answers 200.

        Raises:
            ChildError: It ended, or is not ready in time.
        """
        deadline = time.monotonic() + deadline_s
        while not _is_ready(address):
            self.check()
            if time.monotonic() > deadline:
                raise ChildError(
                    f"`{self._name}` is not ready after {deadline_s:g} s; it said last: {self.last_words()}"
                )
            time.sleep(POLL_S)

    def ask_to_end(self) -> None:
        """Send SIGTERM, without waiting; does nothing to one that has ended."""
        assert self._process is not None  # started
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to end, kill it when it does not, and return its exit status."""
        self.ask_to_end()
        assert self._process is not None  # started
        try:
            status = self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            return self.kill()
        except BaseException:
            self.kill()  # Ctrl-C again: whoever asks twice is in a hurry
            raise
        self._end_guard()
        return status

    def kill(self) -> int:
        """Kill it at once (SIGKILL) and return its exit status."""
        assert self._process is not None  # started
        self._process.kill()
        status = self._process.wait()
        self._end_guard()
        return status

    def _end_guard(self) -> None:
        if self._guard is not None:
            self._guard.end()
            self._guard = None

    def log_tail(self) -> str:
        """Return the last lines of its output."""
        lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])

    def last_words(self) -> str:
        """Return what the last line of its log says, the error where the line has one."""
        line = self.log_tail().rpartition("\n")[2]
        try:
            return str(json.loads(line)["error"])
        except (ValueError, TypeError, KeyError):
            return line or ("see its log above" if self._shares_stderr else "none")

    def cpu_s(self) -> float:
        """Return the processor time that it and its running children have used, user and system, in seconds."""
        return cpu_s_of(self.pid)


def cpu_s_of(pid: int) -> float:
    """Return the processor time that a process and its running children have used, user and system, in seconds."""
    return sum(_ticks(one) for one in _with_children(pid)) / os.sysconf("SC_CLK_TCK")


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended since
            for child in (task / "children").read_text().split():
                yield from _with_children(int(child))


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class Child(Process):
    """One `nextclick` process.

    Args:
        arguments: What follows `nextclick`.
        settings: Environment variables of ours, without the prefix; nothing else of ours is inherited.
        log_path: Where its output goes.
        cores: Processors it may use; all by default.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        settings: Mapping[str, str],
        log_path: Path,
        *,
        cores: Sequence[int] | None = None,
    ) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        super().__init__(
            f"nextclick {arguments[0]}",
            [sys.executable, "-m", "deploy", *arguments],
            inherited | {PREFIX + name: value for name, value in settings.items()},
            log_path,
            cores=cores,
        )


def _is_ready(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=1.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()
