"""Recommenders side by side on a click file."""

from hashlib import sha256
from pathlib import Path
from typing import Any

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
from deploy.commands.protocol_options import cutoffs_option, protocol_of, remove_seen_option, ties_option
from deploy.plots import plot_comparison
from model.baselines.shelf import Shelf
from model.errors import InvalidFileError
from model.ranking import Ties
from trainer.compare import BY_DEFAULT, MODELS, Finished, Kept, Question, Row, over_seeds
from trainer.compare import compare as compare_models


def _models(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
    models = tuple(name.strip().replace("_", "-") for name in text.split(","))
    for name in models:
        if name not in MODELS:
            raise click.UsageError(f"--models: {name!r} is none of {', '.join(MODELS)}")
    return models


def _seeds(_ctx: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(seed) for seed in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise click.UsageError(f"--seeds: expected whole numbers, separated by commas, got {text!r}") from error


@click.command(
    epilog="Example: nextclick compare clicks.parquet --split days:1 --models gru4rec,vmis-knn --plot out.png"
)
@click_file()
@click.option(
    "--models",
    default=",".join(BY_DEFAULT),
    show_default=True,
    callback=_models,
    help=f"Which, with commas; there are also {', '.join(name for name in MODELS if name not in BY_DEFAULT)}.",
)
@click.option(
    "--split",
    metavar="days:N|sessions:N|period:P|leave-one-out",
    required=True,
    help="Which clicks are ranked; leave-one-out: the last of each session, learning from all before it.",
)
@remove_seen_option
@cutoffs_option
@ties_option
@recipe_options
@click.option("--seeds", callback=_seeds, help="Train with each of these, with commas; rows are means, with spreads.")
@click.option("--results", type=click.Path(path_type=Path), help="Keep each row here when found; a later call goes on.")
@click.option("--keep", help="Keep fitted systems but GRU4Rec under this URL; a later call does not fit them again.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the comparison as this PNG.")
@json_option
def compare(
    file: ClickFile,
    models: tuple[str, ...],
    split: str,
    ks: tuple[int, ...],
    ties: Ties,
    recipe: dict[str, Any],
    seeds: tuple[int, ...],
    results: Path | None,
    keep: str | None,
    plot: Path | None,
    *,
    remove_seen: bool,
    as_json: bool,
) -> None:
    """Fit recommenders on FILE and rank the same held-out clicks with each, among all items.

    GRU4Rec takes the trainer's settings, the others their own defaults. ms/answer is the median over single histories.
    """
    settings = settings_with(recipe=recipe).trainer
    protocol = protocol_of(file.read(), split, settings.idle_ms)
    questions = [
        Question(protocol, ks, ties, remove_seen, settings.model_copy(update={"seed": seed}))
        for seed in seeds or (settings.seed,)
    ]
    settings.prepare_torch()
    try:
        clicks = _clicks(file, split) if results or keep else {}
        finished = Finished(results, clicks) if results else None
        rows = _found(questions, models, finished, Kept(Shelf(keep), clicks) if keep else None)
    except ValueError as error:
        raise InvalidFileError(f"{file.path}: {error}") from error
    if plot:
        plot_comparison(rows, plot)
    if as_json:
        asked = {"split": split, "ties": ties, "remove_seen": remove_seen}
        told = {"seeds": seeds or (settings.seed,), "network": settings.network().to_dict()}
        show_json({"rows": rows, **asked, **told, "recipe": settings.recipe(), "environment": environment()})
    else:
        _print_table(rows)


def _clicks(file: ClickFile, split: str) -> dict[str, Any]:
    """Return what tells this file and its split from others."""
    return {"sha256": sha256(file.path.read_bytes()).hexdigest(), "columns": dict(file.columns), "split": split}


def _found(
    questions: list[Question], models: tuple[str, ...], finished: Finished | None, kept: Kept | None
) -> list[Row]:
    rows: dict[str, list[Row]] = {model: [] for model in models}
    with progress() as bar:
        every = bar.add_task("models", total=len(models) * len(questions))
        one = bar.add_task("training", total=None)
        for question in questions:
            found = compare_models(
                question,
                models,
                finished=finished,
                kept=kept,
                on_progress=lambda done, total: bar.update(one, completed=done, total=total),
            )
            for row in found:
                rows[row["model"]].append(row)
                bar.advance(every)
                notes.print(f"{row['model']}: Recall@20 {row['recall@20']:.4f}", highlight=False)
    return [over_seeds(of_model) for of_model in rows.values()]


def _print_table(rows: list[Row]) -> None:
    table = table_of("model", "Recall@20", "MRR@20", "NDCG@10", "HR@10", "train s", "ms/answer")
    for row in rows:
        quality = (f"{row[name]:.4f}" for name in ("recall@20", "mrr@20", "ndcg@10", "hr@10"))
        table.add_row(row["model"], *quality, f"{row['train_s']:,.1f}", f"{row['ms_per_answer']:.2f}")
    output.print(table)
    answers = table_of("model", "Recall@20, 95 %", "MRR@20, 95 %", "coverage", "popularity")
    for row in rows:
        bounds = ("{:.4f}-{:.4f}".format(*row[f"{name}_interval"]) for name in ("recall@20", "mrr@20"))
        answers.add_row(row["model"], *bounds, f"{row['coverage@20']:.4f}", f"{row['popularity@20']:.4f}")
    output.print(answers)
    output.print(
        f"{rows[0]['cases']:,} next clicks; coverage: share of all items in the answers' first 20;\n"
        "popularity: mean share of items that are clicked less than an answered one",
        highlight=False,
    )
