"""A child must not outlive us, not even when we are killed with SIGKILL and can do nothing about it."""

import subprocess


class Guard:
    """A shell that waits for the end of a pipe and then kills `pid`; the pipe's other end closes when we are gone.

    Args:
        pid: The process to end with us.
    """

    def __init__(self, pid: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 - constants and a number
            ["/bin/sh", "-c", 'read -r _; kill -9 "$0"', str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> None:
        """Let the process be; it has ended by itself."""
        self._shell.kill()
        self._shell.communicate()
