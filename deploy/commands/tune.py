"""The search for settings."""

import json
from pathlib import Path
from typing import Any

import click

from deploy.commands.options import (
    ClickFile,
    click_file,
    json_option,
    notes,
    progress,
    recipe_options,
    settings_with,
    show_json,
)
from deploy.commands.protocol_options import protocol_of
from model.errors import InvalidFileError
from trainer.tune import Tuned
from trainer.tune import tune as search


@click.command(epilog="Example: nextclick tune clicks.parquet --split days:1 --trials 30 --out tuned.json")
@click_file()
@click.option(
    "--split",
    metavar="days:N|sessions:N|period:P|leave-one-out",
    required=True,
    help="The newest clicks, which judge; keep those that you want to measure on later out of FILE.",
)
@click.option("--trials", type=click.IntRange(min=1), default=20, show_default=True, help="Choices to try.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("tuned.json"),
    show_default=True,
    help="Where the best settings go; beside it grows a .journal, from which a later call goes on.",
)
@recipe_options
@json_option
def tune(file: ClickFile, split: str, trials: int, out: Path, recipe: dict[str, Any], *, as_json: bool) -> None:
    """Search for the trainer's settings that foresee the newest clicks of FILE best, by Recall@20 + MRR@20.

    The file of settings is what --recipe of `fit`, `trainer` and `demo` takes. An interrupted search loses the trial
    that ran, and nothing else.
    """
    settings = settings_with(recipe=recipe)
    protocol = protocol_of(file.read(), split, settings.trainer.idle_ms)
    settings.trainer.prepare_torch()
    with progress() as bar:
        all_trials, one = bar.add_task("trials", total=trials), bar.add_task("mini-batches", total=None)

        def show_trial(number: int, best: float) -> None:
            bar.advance(all_trials)
            notes.print(f"trial {number}: best Recall@20 + MRR@20 so far {best:.4f}", highlight=False)

        try:
            tuned = search(
                protocol,
                settings.trainer,
                trials=trials,
                journal=out.with_suffix(".journal"),
                on_trial=show_trial,
                on_progress=lambda done, total: bar.update(one, completed=done, total=total),
            )
        except ValueError as error:
            raise InvalidFileError(f"{file.path}: {error}") from error
    out.write_text(json.dumps(recipe | tuned.settings, indent=2) + "\n")
    _show(tuned, out, as_json=as_json)


def _show(tuned: Tuned, out: Path, *, as_json: bool) -> None:
    if as_json:
        show_json({"out": str(out), "trials": tuned.trials, "settings": tuned.settings, "metrics": tuned.metrics})
    else:
        reached = tuned.metrics
        click.echo(
            f"{out}: Recall@20 {reached['recall@20']:.4f}, MRR@20 {reached['mrr@20']:.4f} on"
            f" {reached['cases']:,.0f} next clicks, the best of {tuned.trials} trials"
        )
