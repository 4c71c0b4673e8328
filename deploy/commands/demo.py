"""The first minute with nextclick."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click
from rich.live import Live

from deploy.commands.options import json_option, notes, output, settings_with, show_json
from deploy.demo import Demo, DemoOptions, DemoView, generated_clicks, summary
from deploy.demo_screen import screen, show_end
from deploy.logs import configure_logs
from model.clicks import read_clicks

DEFAULT_SECONDS = 75.0


@click.command(epilog="Example: nextclick demo --clicks clicks.parquet --json")
@click.option("--clicks", "file", type=click.Path(path_type=Path), help="Replay this file instead of made-up clicks.")
@click.option("--session-column", default="session_id", show_default=True, help="Column of session ids.")
@click.option("--item-column", default="item_id", show_default=True, help="Column of item ids.")
@click.option("--time-column", default="timestamp", show_default=True, help="Column of event times.")
@click.option("--seconds", type=click.FloatRange(min=1), help="How long to produce clicks; 75, or the whole file.")
@click.option("--rate", type=click.FloatRange(min=1), default=1000.0, show_default=True, help="Clicks per second.")
@click.option(
    "--broker",
    default="embedded",
    show_default=True,
    metavar="embedded|kafka|HOST:PORT",
    help="embedded needs nothing; kafka needs Java 17 and Maven; or one that runs.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the made-up clicks.")
@json_option
def demo(
    file: Path | None,
    session_column: str,
    item_column: str,
    time_column: str,
    seconds: float | None,
    rate: float,
    broker: str,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Run the main job here and now: clicks in, recommendations out, weights learned and swapped meanwhile."""
    settings = settings_with()
    configure_logs("console", "ERROR")
    best_recall = None
    if file:
        table = read_clicks(
            file, session_column=session_column, item_column=item_column, time_column=time_column
        ).in_time_order()
        table = table.slice(0, int(rate * seconds)) if seconds else table
    else:
        table, best_recall = generated_clicks(int(rate * (seconds or DEFAULT_SECONDS)), seed)
    signal.signal(signal.SIGTERM, _interrupt)
    notes.print(f"starting a broker ({broker}), a worker and a trainer …")
    with Demo(DemoOptions(broker, table, rate, best_recall), settings) as running:
        view = _watch(running)
        if as_json:
            show_json(summary(view))
        else:
            show_end(output, view, running.addresses)


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
                notes.print(f"{view.elapsed_s:6.1f} s  {score.version} answers")

    return show


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End like Ctrl-C: the `with` blocks end every process."""
    raise KeyboardInterrupt
