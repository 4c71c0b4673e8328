"""The process that answers clicks."""

from pathlib import Path

import click
import structlog
from prometheus_client import CollectorRegistry

from deploy import topics
from deploy.commands.options import broker_option, registry_option, settings_with
from deploy.http_server import HttpServer
from deploy.logs import configure_logs
from model.registry import Registry
from stream.app import build_worker, run_worker
from stream.metrics import WorkerMetrics

log = structlog.get_logger()


@click.command(
    epilog="Example: NEXTCLICK_WORKER__DATA_DIR=/var/lib/nextclick nextclick worker --broker kafka:9092",
)
@broker_option
@registry_option
@click.option("--data-dir", type=click.Path(path_type=Path), help="RocksDB state of this process, and of it alone.")
def worker(broker: str | None, registry: str | None, data_dir: Path | None) -> None:
    """Answer clicks until SIGTERM, which drains and exits with 0.

    Start as many as there are partitions; each needs a data directory of its own.
    """
    settings = settings_with(broker=broker, registry=registry)
    worker_settings = settings.worker.model_copy(update={"data_dir": data_dir} if data_dir else {})
    configure_logs(settings.log_format, settings.log_level)
    topics.require(settings.topic_plan(), settings.kafka.librdkafka_options())
    metrics_registry = CollectorRegistry()
    app, answering = build_worker(
        settings=worker_settings,
        topics=settings.topics,
        partitions=settings.partitions,
        kafka_options=settings.kafka.aiokafka_options(),
        registry=Registry(settings.registry),
        metrics=WorkerMetrics(metrics_registry),
    )
    server = HttpServer(
        metrics_registry,
        is_live=lambda: (True, {}),
        is_ready=answering.readiness,
        host=settings.http.host,
        port=settings.http.worker_port,
    )
    with server:
        log.info("worker starts", http=server.address, data_dir=str(worker_settings.data_dir))
        run_worker(app, worker_settings)
