"""Several workers on one machine, started, watched and ended as one: one process for each core."""

import json
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import FrameType

import structlog

from deploy.children import Process
from deploy.errors import ChildError
from deploy.settings import PREFIX, Settings

WATCH_S = 0.2

log = structlog.get_logger()


def run_fleet(settings: Settings, processes: int) -> dict[str, int]:
    """Run workers until SIGTERM or SIGINT, which drain them all, and return what they counted together.

    Worker i has the data directory `<data_dir>/<i>`, the member id `<instance_id>-<i>` (by default with the name of the
    host) and the i-th port from `http.worker_port` on, the trainer's left out.

    Args:
        settings: Of each, but for these three.
        processes: How many.

    Raises:
        ChildError: One has ended by itself, and the others have been told to end too; or one did not end well.
    """
    told = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        told.set()

    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, end)
    with tempfile.TemporaryDirectory(prefix="nextclick-fleet-") as folder, ExitStack() as stack:
        ports = worker_ports(settings, processes)
        workers = [_worker(settings, place, port, Path(folder)) for place, port in enumerate(ports)]
        for worker in workers:
            stack.enter_context(worker)
        log.info("workers start", processes=processes)
        try:
            while not told.wait(WATCH_S):
                for worker in workers:
                    worker.check()
        finally:
            for worker in workers:
                worker.ask_to_end()
        ended = [worker.stop() for worker in workers]
        if any(ended):
            raise ChildError(f"the workers were told to end, and did so with the statuses {ended}, where 0 is well")
        counted = [json.loads(worker.log_tail()) for worker in workers]
    return {name: sum(one[name] for one in counted) for name in ("answers", "dead_letters")}


def _worker(settings: Settings, place: int, port: int, folder: Path) -> Process:
    own = {
        "WORKER__DATA_DIR": settings.worker.data_dir / str(place),
        "WORKER__INSTANCE_ID": f"{settings.worker.instance_id or socket.gethostname()}-{place}",
        "HTTP__WORKER_PORT": port,
        "KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "REGISTRY": settings.registry,
    }
    environment = os.environ | {PREFIX + name: str(value) for name, value in own.items()}
    command = [sys.executable, "-m", "deploy", "worker", "--json"]
    return Process(f"worker {place}", command, environment, folder / f"{place}.out", shares_stderr=True)


def worker_ports(settings: Settings, processes: int) -> list[int]:
    """Return the ports of the workers of a machine; 0, any free one, for all of them where that is asked for."""
    if not settings.http.worker_port:
        return [0] * processes
    ports = (port for port in count(settings.http.worker_port) if port != settings.http.trainer_port)
    return [next(ports) for _ in range(processes)]
