"""Collections of garbage, while which nothing else runs in the worker: kept short, and told how long they take."""

import gc
import time
from collections.abc import Mapping
from typing import Any

from stream.histogram import Histogram


class GarbageWatch:
    """Observes every collection of the process from `start` to `stop`.

    Args:
        seconds: Told how long each took.
    """

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        self._began_s = time.perf_counter()

    def start(self) -> None:
        """Collect once; what was made so far stays, and walking it again at each collection would show in latency."""
        gc.collect()
        gc.freeze()
        gc.callbacks.append(self._note)

    def stop(self) -> None:
        """Observe no more; also when starting up failed before this did."""
        if self._note in gc.callbacks:
            gc.callbacks.remove(self._note)

    def _note(self, phase: str, _info: Mapping[str, Any]) -> None:
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self._seconds.observe(time.perf_counter() - self._began_s)
