"""Training and measuring on a click file, without Kafka."""

import secrets
import time
from pathlib import Path

import click
import torch

from deploy.commands.kafka import table_of
from deploy.commands.options import (
    click_file,
    json_option,
    output,
    progress,
    registry_option,
    settings_with,
    show_json,
)
from model.clicks import ClickTable, read_clicks, split_table
from model.ranking import Ties
from model.registry import Registry, new_version_name
from trainer.evaluate import evaluate as evaluate_version
from trainer.fit import fit as fit_version

split_option = click.option(
    "--split",
    metavar="days:N|sessions:N|period:P",
    help="Hold out the newest N days, the last N sessions, or period P (training on the periods before).",
)


def _split(table: ClickTable, split: str | None) -> tuple[ClickTable, ClickTable]:
    try:
        return split_table(table, split) if split else (table, table)
    except ValueError as error:
        raise click.UsageError(f"--split: {error}") from error


@click.command(epilog="Example: nextclick fit clicks.parquet --split days:1 --registry registry")
@click_file
@split_option
@registry_option
@json_option
def fit(
    file: Path,
    session_column: str,
    item_column: str,
    time_column: str,
    split: str | None,
    registry: str | None,
    *,
    as_json: bool,
) -> None:
    """Train a version from scratch on FILE and write it to the registry; nothing is announced."""
    settings = settings_with(registry=registry)
    table = read_clicks(file, session_column=session_column, item_column=item_column, time_column=time_column)
    train, _ = _split(table, split)
    torch.set_num_threads(settings.trainer.threads)
    now_ms = time.time_ns() // 1_000_000
    with progress() as bar:
        task = bar.add_task("mini-batches", total=None)
        version, report = fit_version(
            train,
            settings.trainer,
            version=new_version_name(now_ms, secrets.token_hex(3)),
            created_at_ms=now_ms,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    Registry(settings.registry).write(version)
    if as_json:
        show_json(
            {
                "version": version.version,
                "items": len(version.vocabulary),
                "clicks": report.clicks,
                "seconds": round(report.seconds, 3),
                "clicks_per_s": round(report.clicks / report.seconds),
                "loss": report.loss,
            }
        )
    else:
        output.print(
            f"{version.version}: {len(version.vocabulary):,} items, {report.clicks:,} clicks"
            f" in {report.seconds:.1f} s ({report.clicks / report.seconds:,.0f}/s), loss {report.loss:.4f}"
        )


@click.command(epilog="Example: nextclick evaluate clicks.parquet --split days:1 --k 5,10,20 --json")
@click_file
@split_option
@registry_option
@click.option("--version", "version", help="Which version; the newest in the registry by default.")
@click.option("--k", "ks", default="5,10,20", show_default=True, help="Cut-offs, separated by commas.")
@click.option(
    "--ties",
    type=click.Choice(["conservative", "standard"]),
    default="conservative",
    show_default=True,
    help="Whether items with the target's score rank above it or below it.",
)
@json_option
def evaluate(
    file: Path,
    session_column: str,
    item_column: str,
    time_column: str,
    split: str | None,
    registry: str | None,
    version: str | None,
    ks: str,
    ties: Ties,
    *,
    as_json: bool,
) -> None:
    """Rank the next click at every position of every session of FILE among all items.

    Recall@k = HR@k is the share of clicks ranked at most k; MRR@k the mean of 1/rank, 0 beyond k; NDCG@k that of
    1/log2(rank + 1). Clicks on items that the version does not know are left out.
    """
    try:
        cutoffs = tuple(int(k) for k in ks.split(","))
    except ValueError as error:
        raise click.UsageError(f"--k: expected numbers separated by commas, got {ks!r}") from error
    settings = settings_with(registry=registry)
    versions = Registry(settings.registry)
    chosen = version or next(reversed(versions.versions()), None)
    if chosen is None:
        raise click.UsageError(f"{settings.registry} holds no version; make one with `nextclick fit`")
    loaded = versions.load(chosen)
    table = read_clicks(file, session_column=session_column, item_column=item_column, time_column=time_column)
    train, test = _split(table, split)
    results = evaluate_version(
        loaded.network,
        loaded.vocabulary,
        train=train,
        test=test,
        ks=cutoffs,
        ties=ties,
        idle_ms=settings.trainer.idle_ms,
    )
    if as_json:
        show_json({"version": chosen, "ties": ties, "models": results})
        return
    names = [name for name in results["gru4rec"] if name != "cases"]
    table_shown = table_of(f"{chosen}, {results['gru4rec']['cases']:,.0f} next clicks, {ties} ties", "model", *names)
    for model, metrics in results.items():
        table_shown.add_row(model, *(f"{metrics[name]:.4f}" for name in names))
    output.print(table_shown)
