"""Topics, a local broker, and clicks and answers on their way through them."""

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from rich.text import Text

from deploy import topics
from deploy.commands.options import (
    ClickFile,
    broker_option,
    click_file,
    json_option,
    output,
    progress,
    settings_with,
    show_json,
)
from deploy.guard import temporary_folder
from deploy.local_broker import BROKER_KINDS, start_broker
from deploy.replay import Pace
from deploy.replay import replay as replay_clicks
from deploy.settings import KafkaSettings
from stream.records import Recommendation, decode_recommendation

POLL_S = 0.5
SHOWN_ITEMS = 8


@click.group(name="topics", epilog="Example: nextclick topics check --broker kafka:9092")
def topics_group() -> None:
    """Make and check the topics; nothing else ever creates one."""


@topics_group.command(
    name="create", epilog="Example: NEXTCLICK_PARTITIONS=16 nextclick topics create --broker kafka:9092"
)
@broker_option
@json_option
def create_topics(broker: str | None, *, as_json: bool) -> None:
    """Create the topics that are missing; the others stay as they are."""
    settings = settings_with(broker=broker)
    kafka = settings.kafka
    created = topics.create(settings.topic_plan(), kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    if as_json:
        show_json({"created": created})
    elif created:
        click.echo(f"created: {', '.join(created)}")
    else:
        click.echo("all topics exist; `nextclick topics check` compares them with the plan")


@topics_group.command(name="check", epilog="Example: nextclick topics check --broker kafka:9092")
@broker_option
@json_option
def check_topics(broker: str | None, *, as_json: bool) -> None:
    """Compare the topics with the plan: partitions, copies, policies, retention; exit with 1 when they differ."""
    settings = settings_with(broker=broker)
    kafka = settings.kafka
    report = topics.check(settings.topic_plan(), kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    for note in report.notes:
        click.echo(note, err=True)
    if as_json:
        show_json({"as_planned": report.is_as_planned, "differences": list(report.differences)})
    report.require()
    if not as_json:
        click.echo("all topics are as planned")


@click.command(epilog="Example: nextclick broker --kind kafka --port 9092 --data-dir data/kafka")
@click.option(
    "--kind",
    type=click.Choice(BROKER_KINDS),
    default="embedded",
    show_default=True,
    help="embedded: in this process, memory only; kafka: Apache Kafka, needs Java 17 and, the first time, Maven.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Kafka's data; else a folder that goes with it.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Kafka's port; a free one by default.")
@json_option
def broker(kind: str, data_dir: Path | None, port: int, *, as_json: bool) -> None:
    """Run a broker on loopback, with the topics made, until Ctrl-C."""
    if kind == "embedded" and (data_dir or port):
        raise click.UsageError("--data-dir and --port need --kind kafka: an embedded broker keeps nothing and chooses")
    settings = settings_with()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        folder = data_dir or stack.enter_context(temporary_folder("nextclick-kafka-"))
        running = stack.enter_context(start_broker(kind, settings.topic_plan(), folder, port))
        if as_json:
            show_json({"bootstrap": running.bootstrap})
        else:
            click.echo(f"broker at {running.bootstrap}; use it with --broker {running.bootstrap}; Ctrl-C ends it")
        ended.wait()


@click.command(epilog="Example: nextclick replay clicks.parquet --speed 60 --broker kafka:9092")
@click_file()
@broker_option
@click.option("--rate", type=float, help="Clicks per second.")
@click.option("--speed", type=float, help="Multiple of real time, by the file's event times.")
@json_option
def replay(file: ClickFile, broker: str | None, rate: float | None, speed: float | None, *, as_json: bool) -> None:
    """Produce the clicks of FILE (parquet, csv or tsv), flat out unless told how fast."""
    try:
        pace = Pace(rate=rate, speed=speed)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    settings = settings_with(broker=broker)
    table = file.read().in_time_order()
    with progress() as bar:
        task = bar.add_task("clicks", total=len(table))
        report = replay_clicks(
            table,
            settings.kafka.librdkafka_options(),
            topic=settings.topics.clicks,
            pace=pace,
            on_progress=lambda done: bar.update(task, completed=done),
            deadline_s=settings.kafka.timeout_s,
        )
    if as_json:
        show_json({"clicks": report.delivered, "seconds": round(report.seconds, 3)})
    else:
        click.echo(f"{report.delivered:,} clicks in {report.seconds:.1f} s")


@click.command(epilog="Example: nextclick tail --count 10 --broker kafka:9092")
@broker_option
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many answers; by default go on until Ctrl-C.")
@click.option("--from-beginning", is_flag=True, help="Start with the oldest answer instead of the next.")
@json_option
def tail(broker: str | None, count: int | None, *, from_beginning: bool, as_json: bool) -> None:
    """Watch the recommendations as they come: session, item clicked, items recommended, version.

    With --json every line is a whole answer, as it is in the topic, and there is no other output.
    """
    settings = settings_with(broker=broker)
    topic, kafka = settings.topics.recommendations, settings.kafka
    found = topics.partitions_of(topic, kafka.librdkafka_options(), deadline_s=kafka.timeout_s)
    start = OFFSET_BEGINNING if from_beginning else OFFSET_END
    is_away = threading.Event()
    consumer = _consumer(kafka, is_away)
    try:
        consumer.assign([TopicPartition(topic, partition, start) for partition in found])
        shown = 0
        while count is None or shown < count:
            message = consumer.poll(POLL_S)
            if message is not None:
                is_away.clear()
                shown += _show(message, as_json=as_json)
    finally:
        consumer.close()


def _consumer(kafka: KafkaSettings, is_away: threading.Event) -> Consumer:
    """Return a consumer that says once that Kafka is away; librdkafka reports every attempt to reach it."""

    def say(error: KafkaError) -> None:
        if not is_away.is_set():
            is_away.set()
            click.echo(f"Kafka is away ({error.str()}); waiting for it", err=True)

    own: dict[str, Any] = {
        "group.id": "nextclick-tail",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        # An embedded broker answers a fetch without records only after the whole wait.
        "fetch.wait.max.ms": 100,
        "log_level": 0,
        "error_cb": say,
    }
    return Consumer(kafka.librdkafka_options() | own)


def _show(message: Message, *, as_json: bool) -> bool:
    """Print one record; whether it was an answer."""
    error = message.error()
    if error:
        raise KafkaException(error)
    try:
        answer = decode_recommendation(message.value() or b"")
    except msgspec.DecodeError:
        click.echo(f"no recommendation: partition {message.partition()}, offset {message.offset()}", err=True)
        return False
    if as_json:
        click.echo(message.value())
    else:
        output.print(_line(answer), soft_wrap=True)
    return True


def _line(answer: Recommendation) -> Text:
    items = "  ".join(answer.items[:SHOWN_ITEMS])
    return Text.assemble(
        (answer.session_id, "bold"), f"  {answer.click.item_id}  →  {items}  ", (answer.model_version, "dim")
    )
