"""How long RocksDB compacted meanwhile, as it has logged itself beside its files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_EVENT = re.compile(r"EVENT_LOG_v1 (\{.*\})")
_FINISHED, _ENDED_US, _TOOK_US = "compaction_finished", "time_micros", "compaction_time_micros"
_US = 1e6


def compaction_s(folder: Path, begin_s: float, end_s: float) -> float:
    """Return for how long compactions ran between two moments, summed over all databases in a folder.

    Args:
        folder: Databases are anywhere below it.
        begin_s: Wall clock, seconds since the Unix epoch.
        end_s: The same. A compaction that has not ended by when this is asked is not counted.
    """
    spans = (min(to_s, end_s) - max(from_s, begin_s) for from_s, to_s in _compactions(folder))
    return sum((max(0.0, span_s) for span_s in spans), start=0.0)


def _compactions(folder: Path) -> Iterator[tuple[float, float]]:
    """Yield when each began and ended."""
    for log in folder.rglob("LOG"):
        for logged in _EVENT.findall(log.read_text(errors="replace")):
            event = json.loads(logged)
            if event["event"] == _FINISHED:
                ended_s = event[_ENDED_US] / _US
                yield ended_s - event[_TOOK_US] / _US, ended_s
