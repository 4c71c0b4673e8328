"""Nothing of ours must outlive us, not even when we are killed with SIGKILL and can do nothing about it."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Guard:
    """A shell that waits for the end of a pipe and then kills `pid`; the pipe's other end closes when we are gone.

    Args:
        pid: The process to end with us.
    """

    def __init__(self, pid: int) -> None:
        self._shell = _shell_at_our_end('kill -9 "$0"', str(pid))

    def end(self) -> None:
        """Let it be; it has ended, or is gone, by itself."""
        self._shell.kill()
        self._shell.communicate()


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Give a new folder that is gone after the `with` block; so it is, a little later, when we are killed inside."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        # The processes that write to it are killed too, by guards of their own.
        shell = _shell_at_our_end('sleep 1; rm -rf -- "$0"', name)
        try:
            yield Path(name)
        finally:
            shell.kill()
            shell.communicate()


def _shell_at_our_end(action: str, subject: str) -> "subprocess.Popen[bytes]":
    """Start a shell that runs `action`, whose `$0` is `subject`, when we are gone."""
    return subprocess.Popen(  # noqa: S603 - constants, and a number or a path that is never parsed
        ["/bin/sh", "-c", f"read -r _; {action}", subject],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
