"""Measurements that users can repeat."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click

from deploy.bench import freshness as freshness_bench
from deploy.bench import gaps as gaps_bench
from deploy.bench import scale as scale_bench
from deploy.bench import score as score_bench
from deploy.bench import stream as stream_bench
from deploy.bench import train as train_bench
from deploy.bench.against import PEERS
from deploy.bench.freshness import FreshnessBench
from deploy.bench.gaps import GapsBench
from deploy.bench.scale import AXES, ScaleBench
from deploy.bench.score import ScoreBench
from deploy.bench.stream import StreamBench
from deploy.bench.train import TrainBench
from deploy.commands.options import (
    ClickFile,
    click_file,
    json_option,
    notes,
    output,
    settings_with,
    show_json,
    table_of,
)
from deploy.demo import LOOK_S, DemoView
from deploy.local_broker import BROKER_KINDS
from deploy.plots import plot_latency, plot_scale, plot_scoring
from model.losses import LossName
from trainer.settings import MatmulPrecision

DEFAULTS = StreamBench()
TRAIN = TrainBench()
SCORE = ScoreBench()
FRESHNESS = FreshnessBench()
GAPS = GapsBench()
SCALE = ScaleBench()
NOTE_EVERY_S = 10


def _joined(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _sizes(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) if size.strip().isdecimal() else 0 for size in text.split(","))
    if min(sizes) < 1:
        raise click.BadParameter(f"expected whole numbers above 0 with commas, got {text!r}")
    return sizes


def _sizes_or_none(context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    return _sizes(context, parameter, text) if text else ()


def _rates(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(rate) for rate in text.split(",") if text)
    except ValueError:
        rates = (0.0,)
    if not all(0 < rate < float("inf") for rate in rates):
        raise click.BadParameter(f"expected numbers above 0 with commas, got {text!r}")
    return rates


@click.group(epilog="Example: nextclick bench stream --json")
def bench() -> None:
    """Measure speed, latency, gaps, freshness and scale, as in the README."""


@bench.command(epilog="Example: nextclick bench stream --items 100000 --repeats 3 --json")
@click.option("--items", default=DEFAULTS.items, show_default=True, help="Items that the version knows.")
@click.option("--hidden", default=DEFAULTS.hidden, show_default=True, help="Width of the hidden vector.")
@click.option("--clicks", default=DEFAULTS.clicks, show_default=True, help="Clicks of the throughput phase.")
@click.option("--rate", default=DEFAULTS.rate, show_default=True, help="Clicks per second of the latency phase.")
@click.option("--seconds", default=DEFAULTS.seconds, show_default=True, help="Length of the latency phase.")
@click.option("--curve", default="", callback=_rates, help="Further rates, with commas.")
@click.option("--partitions", default=DEFAULTS.partitions, show_default=True, help="Of the clicks topic.")
@click.option("--broker", type=click.Choice(BROKER_KINDS), default=DEFAULTS.broker, show_default=True)
@click.option("--companion/--network-alone", default=True, show_default=True, help="What answers are made of.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Workers side by side.")
@click.option("--sessions", type=click.IntRange(min=0), default=0, show_default=True, help="Under way before.")
@click.option("--against", is_flag=True, help="Measure Bytewax, Quix Streams and plain Faust on the same clicks too.")
@click.option("--repeats", type=click.IntRange(min=1), default=1, show_default=True, help="Runs; medians are shown.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latency and costs against the rate as this PNG.")
@json_option
def stream(*, repeats: int, against: bool, plot: Path | None, as_json: bool, **measured: Any) -> None:
    """Measure workers, a core each: clicks per second, processor time per click, latency."""
    asked = StreamBench(**measured, against=tuple(PEERS) if against else ())
    settings = settings_with()
    runs = [
        stream_bench.run(asked, settings, lambda text: notes.print(f"{text} …", highlight=False))
        for _ in range(repeats)
    ]
    found = stream_bench.summary(asked, runs)
    rates = [found | {"rate": asked.rate}, *found.get("curve", [])]
    if plot:
        plot_latency(rates, plot)
    if as_json:
        show_json(found)
        return
    output.print(
        f"{found['events_per_s']:,.0f} clicks/s on {asked.processes} core{'s' * (asked.processes > 1)},"
        f" {found['cpu_us_per_event']:.1f} us of processor time a click; idle {found['idle_core_share']:.1%} of a core"
    )
    table = table_of("latency", "clicks/s", "p50, ms", "p99, ms", "p99.9, ms", "of a core", "us a click")
    for row in rates:
        latencies = (f"{row[f'latency_ms_p{percent}']:.1f}" for percent in ("50", "99", "99.9"))
        share = row["worker_core_share"]
        table.add_row("", f"{row['rate']:,.0f}", *latencies, f"{share:.0%}", f"{1e6 * share / row['rate']:,.0f}")
    output.print(table)
    if against:
        table = table_of("the same clicks", "engine", "clicks/s", "us of a core a click", "x nextclick")
        for name, row in {"nextclick": found | {"times_cpu": 1.0}, **found["peers"]}.items():
            table.add_row(
                name, f"{row['events_per_s']:,.0f}", f"{row['cpu_us_per_event']:,.1f}", f"{row['times_cpu']:.1f}"
            )
        output.print(table)


@bench.command(epilog="Example: nextclick bench scale --sessions 1000,5000000 --items '' --batches '' --processes ''")
@click.option("--items", default=_joined(SCALE.items), show_default=True, callback=_sizes_or_none, help="With commas.")
@click.option(
    "--sessions", default=_joined(SCALE.sessions), show_default=True, callback=_sizes_or_none, help="With commas."
)
@click.option(
    "--batches", default=_joined(SCALE.batches), show_default=True, callback=_sizes_or_none, help="With commas."
)
@click.option(
    "--processes", default=_joined(SCALE.processes), show_default=True, callback=_sizes_or_none, help="With commas."
)
@click.option("--hidden", type=click.IntRange(min=1), default=SCALE.hidden, show_default=True, help="Width of vectors.")
@click.option("--clicks", type=click.IntRange(min=1), default=SCALE.clicks, show_default=True, help="For each worker.")
@click.option("--broker", type=click.Choice(BROKER_KINDS), default=SCALE.broker, show_default=True)
@click.option("--companion/--network-alone", default=True, show_default=True, help="What answers are made of.")
@click.option("--repeats", type=click.IntRange(min=1), default=SCALE.repeats, show_default=True, help="Runs of each.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw a click's cost along each axis as this PNG.")
@json_option
def scale(*, plot: Path | None, as_json: bool, **asked: Any) -> None:
    """Measure what a click costs as items, sessions under way, clicks of a micro-batch or workers grow, each alone."""
    found = scale_bench.run(
        ScaleBench(**asked), settings_with(), lambda text: notes.print(f"{text} …", highlight=False)
    )
    if plot:
        plot_scale(found["rows"], AXES, plot)
    if as_json:
        show_json(found)
        return
    table = table_of("as one thing grows", "axis", "size", "clicks/s", "us of a core a click")
    for row in found["rows"]:
        costs = (f"{row['events_per_s']:,.0f}", f"{row['cpu_us_per_event']:.1f}")
        table.add_row(row["axis"], f"{row['size']:,}", *costs)
    output.print(table)


@bench.command(epilog="Example: nextclick bench gaps --items 1000000 --network-alone --seconds 30 --json")
@click.option("--items", type=click.IntRange(min=1), default=GAPS.items, show_default=True, help="Of the versions.")
@click.option("--hidden", type=click.IntRange(min=1), default=GAPS.hidden, show_default=True, help="Width of vectors.")
@click.option("--rate", type=click.FloatRange(1), default=GAPS.rate, show_default=True, help="Clicks per second.")
@click.option("--seconds", type=click.FloatRange(5), default=GAPS.seconds, show_default=True, help="Of each cause.")
@click.option("--ended", type=click.IntRange(min=0), default=GAPS.ended, show_default=True, help="Sessions to sweep.")
@click.option("--partitions", type=click.IntRange(min=1), default=GAPS.partitions, show_default=True)
@click.option("--companion/--network-alone", default=True, show_default=True, help="What answers are made of.")
@json_option
def gaps(*, as_json: bool, **asked: Any) -> None:
    """Measure for how long answers stand still at a sweep, a swap, commits and another group's rebalance."""
    found = gaps_bench.run(GapsBench(**asked), settings_with(), lambda text: notes.print(f"{text} …", highlight=False))
    if as_json:
        show_json(found)
        return
    columns = (
        "meanwhile",
        "longest, ms",
        "garbage at most, ms",
        "compactions, s",
        "latency p50, ms",
        "p99, ms",
        "max, ms",
    )
    table = table_of("gaps between answers", *columns)
    for cause, row in found["causes"].items():
        during = ("longest_gap_ms", "garbage_ms_at_most", "compaction_s")
        names = (*during, "latency_ms_p50", "latency_ms_p99", "latency_ms_max")
        table.add_row(cause, *(f"{row[name]:.1f}" for name in names))
    output.print(table)


@bench.command(epilog="Example: nextclick bench freshness clicks.parquet --rate 500 --json")
@click_file()
@click.option("--rate", type=click.FloatRange(1), default=FRESHNESS.rate, show_default=True, help="Clicks per second.")
@click.option(
    "--planted",
    type=click.IntRange(min=1),
    default=FRESHNESS.planted,
    show_default=True,
    help="New items that come up.",
)
@click.option(
    "--share",
    type=click.FloatRange(0, 1, min_open=True),
    default=FRESHNESS.share,
    show_default=True,
    help="Of the sessions from then on, those that click a new item.",
)
@click.option("--broker", type=click.Choice(BROKER_KINDS), default=FRESHNESS.broker, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=FRESHNESS.seed, show_default=True, help="Of the planting.")
@json_option
def freshness(file: ClickFile, *, as_json: bool, **asked: Any) -> None:
    """Replay FILE with new items planted into it; measure until they are recommended, and the age of the weights."""
    found = freshness_bench.run(FreshnessBench(**asked), file.read(), settings_with(), _noted)
    if as_json:
        show_json(found)
        return
    delay, age = found["new_item_delay_s"], found["weights_age_s"]
    table = table_of("versions", "version", "answers", "Recall@20", "popularity's")
    for row in found["rounds"]:
        recalls = (f"{row['online_recall@20']:.4f}", f"{row['popularity_recall@20']:.4f}")
        table.add_row(row["version"], f"{row['answers']:,}", *recalls)
    output.print(table)
    output.print(
        f"{found['planted_recommended']} of {asked['planted']} new items recommended to other sessions,"
        f" after {delay['p50']:.1f} s (median), {delay['max']:.1f} s at most;"
        f" weights' age p50 {age['p50']:.0f} s, p99 {age['p99']:.0f} s;"
        f" {found['unanswered']} clicks unanswered, longest gap at a swap {found['swap_gap_ms']:.0f} ms"
    )


def _noted(view: DemoView) -> None:
    """Say now and then how far a replay is."""
    if int(view.elapsed_s) % NOTE_EVERY_S == 0 and view.elapsed_s % 1 < LOOK_S:
        notes.print(f"{view.produced:,} of {view.total:,} clicks, {view.seen.answers:,} answers", highlight=False)


@bench.command(epilog="Example: nextclick bench score --items 10000,1000000 --plot scoring.png")
@click.option("--items", default=_joined(SCORE.items), show_default=True, callback=_sizes, help="With commas.")
@click.option("--batches", default=_joined(SCORE.batches), show_default=True, callback=_sizes, help="With commas.")
@click.option("--hidden", type=click.IntRange(min=1), default=SCORE.hidden, show_default=True, help="Width of vectors.")
@click.option("--k", type=click.IntRange(min=1), default=SCORE.k, show_default=True, help="Items of an answer.")
@click.option("--repeats", type=click.IntRange(min=1), default=SCORE.repeats, show_default=True, help="Turns of each.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the costs as this PNG.")
@json_option
def score(*, plot: Path | None, as_json: bool, **asked: Any) -> None:
    """Measure finding the best of all items for a click, on one thread, beside the tensor library's way."""
    found = score_bench.run(ScoreBench(**asked), lambda text: notes.print(f"{text} …", highlight=False))
    if plot:
        plot_scoring(found["rows"], plot)
    if as_json:
        show_json(found)
        return
    table = table_of("the best of all items", "items", "clicks at once", "us a click", "plainly, us", "x", "same items")
    for row in found["rows"]:
        sizes = (f"{row['items']:,}", f"{row['batch']:,}")
        costs = (f"{row['packed_us']:,.1f}", f"{row['plain_us']:,.1f}", f"{row['times']:.1f}")
        table.add_row(*sizes, *costs, f"{row['same_items']:.4f}")
    output.print(table)


@bench.command(epilog="Example: nextclick bench train --hidden 96 --batch 64 --samples 2048 --json")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default=TRAIN.device, show_default=True)
@click.option("--hidden", type=click.IntRange(min=1), default=TRAIN.hidden, show_default=True, help="Width of vectors.")
@click.option("--batch", type=click.IntRange(min=1), default=TRAIN.batch, show_default=True, help="Sessions at once.")
@click.option("--samples", type=click.IntRange(min=1), default=TRAIN.samples, show_default=True, help="Items drawn.")
@click.option("--loss", type=click.Choice(get_args(LossName)), default=TRAIN.loss, show_default=True)
@click.option("--clicks", type=click.IntRange(min=1000), default=TRAIN.clicks, show_default=True, help="To train on.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=TRAIN.seconds, show_default=True, help="Of a turn.")
@click.option("--repeats", type=click.IntRange(min=1), default=TRAIN.repeats, show_default=True, help="Turns of each.")
@click.option("--threads", type=click.IntRange(min=1), default=TRAIN.threads, show_default=True, help="Of torch.")
@click.option(
    "--matmul-precision",
    type=click.Choice(get_args(MatmulPrecision)),
    default=TRAIN.matmul_precision,
    show_default=True,
    help="Of torch.",
)
@json_option
def train(*, as_json: bool, **asked: Any) -> None:
    """Measure training: clicks per second, beside the plain step and beside PyTorch's own GRU and Adagrad."""
    found = train_bench.run(TrainBench(**asked), lambda text: notes.print(f"{text} …", highlight=False))
    if as_json:
        show_json(found)
        return
    table = table_of(f"training on one {found['settings']['device']}", "step", "clicks/s", "min", "max", "x torch")
    for name, row in found["rows"].items():
        slowest, fastest = row["spread"]
        speeds = (f"{speed:,.0f}" for speed in (row["events_per_s"], slowest, fastest))
        table.add_row(name, *speeds, f"{row['times_torch']:.2f}")
    output.print(table)
