"""Quality by round: what the gate measured of each published version and of the one that it replaced."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from model.manifest import Manifest

GATED = ("recall@20", "mrr@20")


def report(manifests: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Return a row for each version, in the order given.

    `recall@20` and `mrr@20` are the version's and `incumbent_…` those of what served before, popularity before the
    first, on the same clicks, which neither had seen; None where no gate was held, as for one that was fitted to a
    file. `clicks` is how much further it has read than its parent, None where the parent is no more.
    """
    by_name = {manifest.version: manifest for manifest in manifests}
    return [
        {
            "version": manifest.version,
            "parent": manifest.parent,
            "created_at": _as_utc(manifest.created_at_ms),
            "items": manifest.items,
            "clicks": _clicks(manifest, by_name),
            "cases": manifest.metrics.get("cases"),
            **{f"{side}{name}": manifest.metrics.get(f"{side}{name}") for name in GATED for side in ("", "incumbent_")},
        }
        for manifest in by_name.values()
    ]


def _clicks(manifest: Manifest, by_name: dict[str, Manifest]) -> int | None:
    read = sum(manifest.trained_until.values())
    if manifest.parent is None:
        return read
    parent = by_name.get(manifest.parent)
    return None if parent is None else read - sum(parent.trained_until.values())


def _as_utc(moment_ms: int) -> str:
    return dt.datetime.fromtimestamp(moment_ms / 1000, tz=dt.UTC).isoformat(timespec="seconds")
