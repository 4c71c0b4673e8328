"""The process that learns from clicks."""

import asyncio

import click
import structlog
from prometheus_client import CollectorRegistry

from deploy import topics
from deploy.commands.options import broker_option, registry_option, settings_with
from deploy.http_server import HttpServer
from deploy.logs import configure_logs
from model.registry import Registry
from trainer.metrics import TrainerMetrics
from trainer.round import Published, Refused, Skipped
from trainer.service import run

log = structlog.get_logger()


@click.command(epilog="Example: nextclick trainer --once --broker kafka:9092 --registry s3://bucket/nextclick")
@broker_option
@registry_option
@click.option("--once", is_flag=True, help="Run one round over what is in the topic, then exit.")
def trainer(broker: str | None, registry: str | None, *, once: bool) -> None:
    """Learn from the clicks until SIGTERM: fine-tune, gate, publish, round after round."""
    settings = settings_with(broker=broker, registry=registry)
    configure_logs(settings.log_format, settings.log_level)
    topics.require(settings.topic_plan(), settings.kafka.librdkafka_options())
    metrics_registry = CollectorRegistry()
    metrics = TrainerMetrics(metrics_registry)
    server = HttpServer(
        metrics_registry,
        is_live=metrics.liveness,
        is_ready=metrics.readiness,
        host=settings.http.host,
        port=settings.http.trainer_port,
    )
    with server:
        log.info("trainer starts", http=server.address)
        result = asyncio.run(
            run(
                kafka_options=settings.kafka.aiokafka_options(),
                clicks_topic=settings.topics.clicks,
                models_topic=settings.topics.models,
                registry=Registry(settings.registry),
                settings=settings.trainer,
                metrics=metrics,
                once=once,
            )
        )
    match result:
        case Published(announcement=announcement):
            click.echo(f"published {announcement.version}")
        case Refused() | Skipped():
            click.echo(f"{type(result).__name__.lower()} ({result.reason}): {result.detail}")
        case _:
            click.echo("stopped")
