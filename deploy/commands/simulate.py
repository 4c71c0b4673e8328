"""Staying up to date, tried out on a click file without Kafka."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from deploy.bench.environment import environment
from deploy.commands.options import (
    ClickFile,
    click_file,
    json_option,
    notes,
    output,
    progress,
    recipe_options,
    settings_with,
    show_json,
    table_of,
)
from deploy.commands.protocol_options import ties_option
from deploy.plots import plot_simulation
from model.errors import InvalidFileError
from model.ranking import Ties
from model.registry import Registry
from trainer.settings import TrainerSettings
from trainer.simulate import METHODS, Row, Simulation
from trainer.simulate import simulate as simulated
from trainer.timeline import Timeline, by_period, every

ONLINE_STEP = "1000clicks"


def _methods(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[str, ...]:
    methods = tuple(name.strip() for name in text.split(","))
    for name in methods:
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(METHODS)}")
    return methods


@click.command(epilog="Example: nextclick simulate clicks.parquet --every 1d --method never,ours --plot out.png")
@click_file()
@click.option("--every", "step", metavar="1d|10m|20000clicks", help="How often is learned.")
@click.option("--refresh", metavar="1m|100clicks", help="How often the rounds' versions are refreshed in between.")
@click.option("--online", is_flag=True, help=f"As often as the trainer's settings allow: --every {ONLINE_STEP}.")
@click.option("--by", "column", type=click.Choice(["period"]), help="Learn after each period of the file's column.")
@click.option(
    "--method", "methods", default=",".join(METHODS), show_default=True, callback=_methods, help="With commas."
)
@click.option("--period-days", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Without times.")
@ties_option
@recipe_options
@click.option("--plot", type=click.Path(path_type=Path), help="Draw Recall@20 along the clicks as this PNG.")
@json_option
def simulate(
    file: ClickFile,
    step: str | None,
    refresh: str | None,
    column: Literal["period"] | None,
    methods: tuple[str, ...],
    period_days: float,
    ties: Ties,
    recipe: dict[str, Any],
    plot: Path | None,
    *,
    online: bool,
    as_json: bool,
) -> None:
    """Answer the clicks of FILE in their order, period by period, learning from each period after it was answered.

    `ours` holds the trainer's own rounds, gate included; `never` learns from the first period alone, `retrain` from all
    so far, every time anew, and `plain` goes on with the new clicks alone. *-network is without the companion,
    *-refreshed with the counts and new items of the clicks since the last round.
    """
    settings = settings_with(recipe=recipe).trainer
    settings.prepare_torch()
    if [step is not None, online, column is not None].count(True) != 1:
        raise click.UsageError("say one of --every 1d (or 10m, 20000clicks), --online and --by period")
    if refresh is not None and column is not None:
        raise click.UsageError("--refresh goes with --every or --online: periods of a column are not cut")
    timeline = _timeline(file, ONLINE_STEP if online else step, refresh, settings)
    with tempfile.TemporaryDirectory(prefix="nextclick-simulate-") as folder:
        rows = _found(Simulation(timeline, settings, ties, period_days), methods, Registry(folder))
    if plot:
        plot_simulation(rows, plot)
    if as_json:
        asked = {"every": step, "refresh": refresh, "by": column, "online": online}
        read = {"ties": ties, "period_days": period_days}
        show_json({"methods": rows, **asked, **read, "recipe": settings.recipe(), "environment": environment()})
    else:
        _print_tables(rows)


def _timeline(file: ClickFile, step: str | None, refresh: str | None, settings: TrainerSettings) -> Timeline:
    table = file.read()
    try:
        if step is None:
            return by_period(table, idle_ms=settings.idle_ms)
        return every(table, step, first_clicks=settings.first_round_clicks, idle_ms=settings.idle_ms, refresh=refresh)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except InvalidFileError as error:
        raise InvalidFileError(f"{file.path}: {error}") from error


def _found(simulation: Simulation, methods: tuple[str, ...], registry: Registry) -> list[Row]:
    with progress() as bar:
        along = bar.add_task("periods", total=len(methods) * len(simulation.timeline))

        def show(periods: Mapping[str, Row]) -> None:
            bar.advance(along)
            for method, row in periods.items():
                notes.print(f"{method}, period {row['period']}: {_quality(row)}", highlight=False)

        return list(simulated(simulation, methods, registry, on_period=show))


def _quality(row: Row) -> str:
    return (
        f"Recall@20 {row['recall@20']:.4f}, MRR@20 {row['mrr@20']:.4f}, NDCG@20 {row['ndcg@20']:.4f}"
        f" of {row['cases']:,} next clicks after {row['seconds']:,.1f} s of learning"
    )


def _print_tables(rows: list[Row]) -> None:
    table = table_of("method", "Recall@20", "MRR@20", "NDCG@20", "on new", "learning, s", "longest")
    for row in rows:
        quality = (f"{row[name]:.4f}" for name in ("recall@20", "mrr@20", "ndcg@20"))
        longest_s = max(period["seconds"] for period in row["periods"])
        new = f"{row['new_items']['recall@20']:.4f}"
        table.add_row(row["method"], *quality, new, f"{row['seconds']:,.1f}", f"{longest_s:,.1f}")
    output.print(table)
    output.print(f"{rows[0]['cases']:,} next clicks in {len(rows[0]['periods'])} periods", highlight=False)
