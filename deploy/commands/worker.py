"""The process that answers clicks."""

from pathlib import Path

import click
import structlog
import torch
from prometheus_client import CollectorRegistry

from deploy import topics
from deploy.commands.options import broker_option, json_option, open_registry, registry_option, settings_with, show_json
from deploy.errors import SettingsError
from deploy.fleet import run_fleet
from deploy.http_server import HttpServer
from deploy.logs import process_logs
from deploy.settings import Settings
from stream.app import build_worker, run_worker
from stream.metrics import WorkerMetrics

log = structlog.get_logger()


@click.command(
    epilog="Example: NEXTCLICK_WORKER__DATA_DIR=/var/lib/nextclick nextclick worker --broker kafka:9092",
)
@broker_option
@registry_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="RocksDB state of this process, and of it alone.")
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers to run here, one for each core: each has a folder in the data directory and a port of its own.",
)
@json_option
def worker(broker: str | None, registry: str | None, data_dir: Path | None, processes: int, *, as_json: bool) -> None:
    """Answer clicks until SIGTERM, which drains and exits with 0.

    There may be as many as there are partitions, on one machine or several; each needs a data directory of its own.
    With --json it says at its end how many clicks were answered.
    """
    settings = settings_with(broker=broker, registry=registry)
    if data_dir:
        settings = settings.model_copy(
            update={"worker": settings.worker.model_copy(update={"data_dir": data_dir})},
        )
    with process_logs(settings.log_format, settings.log_level):
        answered = _run(settings) if processes == 1 else run_fleet(settings, processes)
    if as_json:
        show_json(answered)


def _run(settings: Settings) -> dict[str, int]:
    """Answer clicks until told to stop, and return how many it was."""
    kafka = settings.kafka
    require_device(settings.worker.device)
    topics.require(settings.topic_plan(), kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    metrics_registry = CollectorRegistry()
    app, answering = build_worker(
        settings=settings.worker,
        topics=settings.topics,
        partitions=settings.partitions,
        kafka_options=kafka.aiokafka_options(),
        registry=open_registry(settings),
        metrics=WorkerMetrics(metrics_registry),
    )
    server = HttpServer(
        metrics_registry,
        is_live=answering.liveness,
        is_ready=answering.readiness,
        host=settings.http.host,
        port=settings.http.worker_port,
    )
    with server:
        log.info("worker starts", http=server.address, data_dir=str(settings.worker.data_dir))
        run_worker(app, settings.worker)
    read = _by_result(metrics_registry)
    answered = {"answers": read["applied"] + read["replayed"], "dead_letters": read["dead"]}
    log.info("worker stopped", **answered)
    return answered


def require_device(device: str) -> None:
    """Refuse a device that is not here: the worker would run until the first version is to be loaded on it.

    Raises:
        SettingsError: Torch cannot use it.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without CUDA
        reason = str(error).partition("\n")[0]
        raise SettingsError(
            f"NEXTCLICK_WORKER__DEVICE: {device} cannot be used here ({reason}); cpu always can"
        ) from error


def _by_result(registry: CollectorRegistry) -> dict[str, int]:
    """Return how many records came to what."""
    samples = (sample for family in registry.collect() for sample in family.samples)
    return {s.labels["result"]: int(s.value) for s in samples if s.name == "nextclick_clicks_total"}
