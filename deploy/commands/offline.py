"""Training and measuring on a click file, without Kafka."""

import secrets
import time
from typing import Any

import click

from deploy.commands.options import (
    ClickFile,
    click_file,
    json_option,
    open_registry,
    output,
    progress,
    recipe_options,
    registry_option,
    settings_with,
    show_json,
    table_of,
)
from deploy.commands.protocol_options import cutoffs_option, protocol_of, remove_seen_option, split_option, ties_option
from model.errors import InvalidFileError
from model.ranking import Ties
from model.registry import new_version_name
from trainer.evaluate import evaluate as evaluate_version
from trainer.fit import fit as fit_version


@click.command(epilog="Example: nextclick fit clicks.parquet --split days:1 --registry registry")
@click_file()
@split_option
@registry_option
@recipe_options
@json_option
def fit(file: ClickFile, split: str | None, registry: str | None, recipe: dict[str, Any], *, as_json: bool) -> None:
    """Train a version from scratch on FILE and write it to the registry; nothing is announced.

    With --split the held-out clicks are left for `nextclick evaluate` with the same --split.
    """
    settings = settings_with(registry=registry, recipe=recipe)
    versions = open_registry(settings)
    train = protocol_of(file.read(), split, settings.trainer.idle_ms).train
    settings.trainer.prepare_torch()
    now_ms = time.time_ns() // 1_000_000
    with progress() as bar:
        task = bar.add_task("mini-batches", total=None)
        try:
            version, report = fit_version(
                train,
                settings.trainer,
                version=new_version_name(now_ms, secrets.token_hex(4)),
                created_at_ms=now_ms,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except ValueError as error:
            raise InvalidFileError(f"{file.path}: {error}") from error
    versions.write(version)
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
        click.echo(
            f"{version.version}: {len(version.vocabulary):,} items, {report.clicks:,} clicks"
            f" in {report.seconds:.1f} s ({report.clicks / report.seconds:,.0f}/s), loss {report.loss:.4f}"
        )


@click.command(epilog="Example: nextclick evaluate clicks.parquet --split days:1 --k 5,10,20 --json")
@click_file()
@split_option
@registry_option
@click.option("--version", "version", help="Which version; the newest in the registry by default.")
@cutoffs_option
@ties_option
@remove_seen_option
@json_option
def evaluate(
    file: ClickFile,
    split: str | None,
    registry: str | None,
    version: str | None,
    ks: tuple[int, ...],
    ties: Ties,
    *,
    remove_seen: bool,
    as_json: bool,
) -> None:
    """Rank the next click at every position of every session of FILE among all items, or each session's last.

    Recall@k = HR@k is the share of clicks ranked at most k; MRR@k the mean of 1/rank, 0 beyond k; NDCG@k that of
    1/log2(rank + 1). Clicks on items that the version does not know are left out.
    """
    settings = settings_with(registry=registry)
    protocol = protocol_of(file.read(), split, settings.trainer.idle_ms)
    versions = open_registry(settings)
    chosen = version or next(reversed(versions.versions()), None)
    if chosen is None:
        raise click.ClickException(f"{settings.registry} holds no version; `nextclick fit` writes one")
    loaded = versions.load(chosen)
    if not split:
        click.echo("no --split: all clicks are measured, also those that the version may have learned from", err=True)
    results = evaluate_version(
        loaded.network,
        loaded.vocabulary,
        protocol,
        companion=loaded.companion,
        ks=ks,
        ties=ties,
        removes_seen=remove_seen,
    )
    if as_json:
        show_json({"version": chosen, "ties": ties, "models": results})
    else:
        click.echo(f"{chosen}, {results['gru4rec']['cases']:,.0f} next clicks, {ties} ties")
        _print_table(results, ks)


def _print_table(results: dict[str, dict[str, Any]], ks: tuple[int, ...]) -> None:
    """Print a line for each model and cut-off: the three metrics fit any terminal, whatever the cut-offs."""
    table = table_of("model", "k", "Recall@k", "MRR@k", "NDCG@k")
    for model, metrics in results.items():
        for k in ks:
            figures = [f"{metrics[f'{name}@{k}']:.4f}" for name in ("recall", "mrr", "ndcg")]
            table.add_row(model, str(k), *figures)
    output.print(table)
