"""Measurements that users can repeat."""

import click

from deploy.bench import stream as stream_bench
from deploy.bench.stream import StreamBench
from deploy.commands.options import json_option, notes, output, settings_with, show_json
from deploy.local_broker import BROKER_KINDS

DEFAULTS = StreamBench()


@click.group()
def bench() -> None:
    """Measure; every figure in the README comes from here."""


@bench.command(epilog="Example: nextclick bench stream --items 100000 --repeats 3 --json")
@click.option("--items", default=DEFAULTS.items, show_default=True, help="Items that the version knows.")
@click.option("--hidden", default=DEFAULTS.hidden, show_default=True, help="Width of the hidden vector.")
@click.option("--clicks", default=DEFAULTS.clicks, show_default=True, help="Clicks of the throughput phase.")
@click.option("--rate", default=DEFAULTS.rate, show_default=True, help="Clicks per second of the latency phase.")
@click.option("--seconds", default=DEFAULTS.seconds, show_default=True, help="Length of the latency phase.")
@click.option("--partitions", default=DEFAULTS.partitions, show_default=True, help="Of the clicks topic.")
@click.option("--broker", type=click.Choice(BROKER_KINDS), default=DEFAULTS.broker, show_default=True)
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; medians are shown.")
@json_option
def stream(
    items: int,
    hidden: int,
    clicks: int,
    rate: float,
    seconds: float,
    partitions: int,
    broker: str,
    repeats: int,
    *,
    as_json: bool,
) -> None:
    """Measure a worker: clicks per second, processor time per click, latency. It runs on the first core alone."""
    asked = StreamBench(items, hidden, clicks, rate, seconds, partitions, broker)
    settings = settings_with()
    runs = [
        stream_bench.run(asked, settings, lambda text: notes.print(f"{text} …", highlight=False))
        for _ in range(repeats)
    ]
    found = stream_bench.summary(asked, runs)
    if as_json:
        show_json(found)
        return
    output.print(
        f"{found['events_per_s']:,.0f} clicks/s on one core, {found['cpu_us_per_event']:.1f} us of it a click;"
        f" at {rate:,.0f}/s latency p50 {found['latency_ms_p50']:.1f} ms, p99 {found['latency_ms_p99']:.1f} ms"
    )
