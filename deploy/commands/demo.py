"""The first minute with nextclick."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import click
from rich.live import Live

from deploy.commands.options import ClickFile, click_file, json_option, output, recipe_options, settings_with, show_json
from deploy.demo import RUNNING, Demo, DemoOptions, DemoView, generated_clicks, summary
from deploy.demo_screen import screen, show_end
from deploy.local_broker import BROKER_KINDS
from model.clicks import ClickTable

DEFAULT_SECONDS = 75.0
# A day at the default rate, and more than a machine that one demos on can keep up with.
MOST_SECONDS = 86_400.0
MOST_RATE = 1_000_000.0


@click.command(epilog="Example: nextclick demo --clicks clicks.parquet --json")
@click_file("--clicks", help="Replay this file (parquet, csv or tsv) instead of made-up clicks.")
@click.option("--seconds", type=click.FloatRange(1, MOST_SECONDS), help="How long to produce; 75, or the whole file.")
@click.option(
    "--rate", type=click.FloatRange(1, MOST_RATE), default=1000.0, show_default=True, help="Clicks per second."
)
@click.option(
    "--broker",
    default="embedded",
    show_default=True,
    metavar="embedded|kafka|HOST:PORT",
    help="embedded needs nothing; kafka needs Java 17 and Maven; or one that runs, with topics of the demo's own.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the made-up clicks.")
@recipe_options
@json_option
def demo(
    file: ClickFile | None,
    seconds: float | None,
    rate: float,
    broker: str,
    seed: int,
    recipe: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Run the main job here and now: clicks in, recommendations out, weights learned and swapped meanwhile."""
    settings = settings_with(broker=None if broker in BROKER_KINDS else broker, recipe=recipe)
    table, best_recall = _clicks(file, seconds, rate, seed)
    signal.signal(signal.SIGTERM, _interrupt)
    click.echo(f"starting a worker and a trainer on a broker ({broker}) …", err=True)
    kind = broker if broker in BROKER_KINDS else RUNNING
    with Demo(DemoOptions(kind, table, rate, best_recall), settings) as running:
        where = running.addresses
        click.echo(
            f"broker {where.broker}; metrics at http://{where.worker}/metrics and http://{where.trainer}/metrics",
            err=True,
        )
        view = _watch(running)
        if as_json:
            show_json(summary(view))
        else:
            show_end(output, view)


def _clicks(file: ClickFile | None, seconds: float | None, rate: float, seed: int) -> tuple[ClickTable, float | None]:
    """Return what is replayed, and the best Recall@20 that is possible on it where that is known."""
    if file is None:
        return generated_clicks(int(rate * (seconds or DEFAULT_SECONDS)), seed)
    table = file.read().in_time_order()
    return (table.slice(0, int(rate * seconds)) if seconds else table), None


def _watch(running: Demo) -> DemoView:
    if not output.is_terminal:
        return running.run(_log_swaps())
    with Live(console=output, refresh_per_second=8, transient=True) as live:
        return running.run(lambda view: live.update(screen(view)))


def _log_swaps() -> Callable[[DemoView], None]:
    """Return what shows a look where there is no terminal: one line per version that begins to serve."""
    known: set[str] = set()

    def show(view: DemoView) -> None:
        for score in view.seen.versions:
            if score.version not in known:
                known.add(score.version)
                click.echo(f"{view.elapsed_s:6.1f} s  {score.version} answers", err=True)

    return show


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End like Ctrl-C: the `with` blocks end every process."""
    raise KeyboardInterrupt
