"""Topics, a local broker, and clicks and answers on their way through them."""

import signal
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.table import Table

from deploy import topics
from deploy.commands.options import (
    broker_option,
    click_file,
    json_option,
    notes,
    output,
    progress,
    settings_with,
    show_json,
)
from deploy.errors import TopicError
from deploy.local_broker import BROKER_KINDS, start_broker
from deploy.replay import Pace
from deploy.replay import replay as replay_clicks
from model.clicks import read_clicks
from stream.records import Recommendation, decode_recommendation

POLL_S = 0.5


@click.group(name="topics")
def topics_group() -> None:
    """Make and check the topics; nothing else ever creates one."""


@topics_group.command(
    name="create", epilog="Example: NEXTCLICK_PARTITIONS=16 nextclick topics create --broker kafka:9092"
)
@broker_option
def create_topics(broker: str | None) -> None:
    """Create the topics that are missing; the others stay as they are."""
    settings = settings_with(broker=broker)
    created = topics.create(settings.topic_plan(), settings.kafka.librdkafka_options())
    output.print(f"created: {', '.join(created)}" if created else "all topics exist; `nextclick topics check` compares")


@topics_group.command(name="check", epilog="Example: nextclick topics check --broker kafka:9092")
@broker_option
@json_option
def check_topics(broker: str | None, *, as_json: bool) -> None:
    """Compare the topics with the plan; exit with 1 when they differ."""
    settings = settings_with(broker=broker)
    report = topics.check(settings.topic_plan(), settings.kafka.librdkafka_options())
    for note in report.notes:
        notes.print(note)
    if as_json:
        show_json({"as_planned": report.is_as_planned, "differences": list(report.differences)})
    if not report.is_as_planned:
        raise TopicError("; ".join(report.differences))
    output.print("all topics are as planned")


@click.command(epilog="Example: nextclick broker --kind kafka --data-dir /tmp/kafka")
@click.option(
    "--kind",
    type=click.Choice(BROKER_KINDS),
    default="embedded",
    show_default=True,
    help="embedded: in this process, memory only; kafka: Apache Kafka, needs Java 17 and Maven once.",
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Kafka's data; a folder that goes with it by default."
)
def broker(kind: str, data_dir: Path | None) -> None:
    """Run a broker on loopback, with the topics made, until Ctrl-C."""
    settings = settings_with()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nextclick-kafka-")))
        running = stack.enter_context(start_broker(kind, settings.topic_plan(), folder))
        output.print(f"broker at {running.bootstrap}; use it with --broker {running.bootstrap}; Ctrl-C ends it")
        ended.wait()


@click.command(
    epilog="Example: nextclick replay clicks.parquet --speed 60 --broker kafka:9092",
)
@click_file
@broker_option
@click.option("--rate", type=float, help="Clicks per second.")
@click.option("--speed", type=float, help="Multiple of real time, by the file's event times.")
@json_option
def replay(
    file: Path,
    session_column: str,
    item_column: str,
    time_column: str,
    broker: str | None,
    rate: float | None,
    speed: float | None,
    *,
    as_json: bool,
) -> None:
    """Produce the clicks of FILE (parquet, csv or tsv), flat out unless told how fast."""
    if rate is not None and speed is not None:
        raise click.UsageError("give --rate or --speed, not both")
    pace = Pace(rate=rate, speed=speed)
    settings = settings_with(broker=broker)
    table = read_clicks(
        file, session_column=session_column, item_column=item_column, time_column=time_column
    ).in_time_order()
    with progress() as bar:
        task = bar.add_task("clicks", total=len(table))
        report = replay_clicks(
            table,
            settings.kafka.librdkafka_options(),
            topic=settings.topics.clicks,
            pace=pace,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    if as_json:
        show_json({"clicks": report.delivered, "seconds": round(report.seconds, 3)})
    else:
        output.print(f"{report.delivered:,} clicks in {report.seconds:.1f} s")


@click.command(epilog="Example: nextclick tail --count 10 --broker kafka:9092")
@broker_option
@click.option("--count", type=int, help="Stop after so many answers; by default go on until Ctrl-C.")
@click.option("--from-beginning", is_flag=True, help="Start with the oldest answer instead of the next.")
@json_option
def tail(broker: str | None, count: int | None, *, from_beginning: bool, as_json: bool) -> None:
    """Watch the recommendations as they come."""
    settings = settings_with(broker=broker)
    topic = settings.topics.recommendations
    offset = 0 if from_beginning else -1
    options: dict[str, Any] = {
        **settings.kafka.librdkafka_options(),
        "group.id": "nextclick-tail",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }
    consumer = Consumer(options)
    try:
        found = consumer.list_topics(timeout=10).topics.get(topic)
        if found is None:
            raise TopicError(f"there is no topic {topic}; make it with `nextclick topics create`")
        consumer.assign([TopicPartition(topic, partition, offset) for partition in found.partitions])
        shown = 0
        while count is None or shown < count:
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            if message.error():
                raise KafkaException(message.error())
            if as_json:
                click.echo(message.value())
            else:
                _show(decode_recommendation(message.value() or b""))
            shown += 1
    finally:
        consumer.close()


def _show(answer: Recommendation) -> None:
    items = "  ".join(answer.items[:8])
    output.print(f"[bold]{answer.session_id}[/]  {answer.click.item_id}  →  {items}  [dim]{answer.model_version}[/]")


def table_of(title: str, *columns: str) -> Table:
    """Return an empty table for the terminal."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
