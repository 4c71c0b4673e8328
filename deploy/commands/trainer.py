"""The process that learns from clicks."""

import asyncio
from typing import Any

import click
import structlog
from prometheus_client import CollectorRegistry

from deploy import topics
from deploy.commands.options import (
    broker_option,
    json_option,
    open_registry,
    recipe_options,
    registry_option,
    settings_with,
    show_json,
)
from deploy.http_server import HttpServer
from deploy.logs import process_logs
from deploy.settings import Settings
from trainer.metrics import TrainerMetrics
from trainer.round import Published, Refused, RoundResult, Skipped
from trainer.service import run

log = structlog.get_logger()


@click.command(epilog="Example: nextclick trainer --once --broker kafka:9092 --registry s3://bucket/nextclick")
@broker_option
@registry_option
@recipe_options
@click.option("--once", is_flag=True, help="Run one round over what is in the topic, then exit.")
@json_option
def trainer(broker: str | None, registry: str | None, recipe: dict[str, Any], *, once: bool, as_json: bool) -> None:
    """Learn from the clicks until SIGTERM: fine-tune, gate, publish, round after round.

    With --once, a candidate that the gate refused is no failure: the status is 0, and the last line says so.
    """
    settings = settings_with(broker=broker, registry=registry, recipe=recipe)
    with process_logs(settings.log_format, settings.log_level):
        result = _run(settings, once=once)
    if as_json:
        show_json(_described(result))
    else:
        click.echo(" ".join(str(value) for value in _described(result).values() if not isinstance(value, dict)))


def _run(settings: Settings, *, once: bool) -> RoundResult | None:
    """Hold rounds until told to stop, or one."""
    kafka = settings.kafka
    topics.require(settings.topic_plan(), kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    metrics_registry = CollectorRegistry()
    # Between two turns Kafka may be asked several questions, each of which may take this long.
    metrics = TrainerMetrics(metrics_registry, alive_for_s=max(60.0, 6 * settings.trainer.kafka_timeout_s))
    server = HttpServer(
        metrics_registry,
        is_live=metrics.liveness,
        is_ready=metrics.readiness,
        host=settings.http.host,
        port=settings.http.trainer_port,
    )
    with server:
        log.info("trainer starts", http=server.address)
        return asyncio.run(
            run(
                kafka_options=kafka.aiokafka_options(),
                clicks_topic=settings.topics.clicks,
                models_topic=settings.topics.models,
                registry=open_registry(settings),
                settings=settings.trainer,
                metrics=metrics,
                once=once,
            )
        )


def _described(result: RoundResult | None) -> dict[str, Any]:
    """Return what came of the last round as JSON values, the most important first."""
    match result:
        case Published(announcement=announcement):
            return {"result": "published", "version": announcement.version, "metrics": announcement.metrics}
        case Refused() | Skipped():
            return {"result": type(result).__name__.lower(), "reason": result.reason, "detail": result.detail}
        case _:
            return {"result": "stopped"}
