"""The worker that is measured: a process of its own, with the settings of whoever measures it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.children import Child
from deploy.settings import Settings, as_environment

REGISTRY = "registry"


def measured_worker(
    settings: Settings,
    bootstrap: str,
    folder: Path,
    changed: Mapping[str, Any],
    *,
    processes: int = 1,
    cores: Sequence[int] | None = None,
) -> Child:
    """Return a worker that is not started yet.

    Args:
        settings: Its own, but for where things are.
        bootstrap: Address of the broker.
        folder: Where its state and its log go, and where `REGISTRY` is.
        changed: Other values of its group of settings.
        processes: Workers side by side.
        cores: That they may use; all by default.
    """
    own = {
        "kafka": settings.kafka.model_copy(update={"bootstrap_servers": bootstrap}),
        "registry": str(folder / REGISTRY),
        "worker": settings.worker.model_copy(update={"data_dir": folder / "worker", **changed}),
        "log_format": "json",
    }
    command = ["worker", "--processes", str(processes)]
    return Child(command, as_environment(settings.model_copy(update=own)), folder / "worker.log", cores=cores)
