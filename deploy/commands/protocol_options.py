"""Options that say which clicks are ranked, and how; what is measured offline shares them."""

import click

from model.clicks import ClickTable
from trainer.protocols import Protocol, split_protocol

split_option = click.option(
    "--split",
    metavar="days:N|sessions:N|period:P|leave-one-out",
    help="Hold out the newest N days, the last N sessions, period P (learning from those before), or each last click.",
)
remove_seen_option = click.option(
    "--remove-seen", is_flag=True, help="Leave items that the session has clicked out of the ranking."
)


def _cutoffs(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        ks = tuple(int(k) for k in text.split(","))
    except ValueError:
        ks = ()
    if not ks or min(ks) < 1:
        raise click.UsageError(f"--k: expected numbers of at least 1, separated by commas, got {text!r}")
    return ks


cutoffs_option = click.option(
    "--k", "ks", default="5,10,20", show_default=True, callback=_cutoffs, help="Cut-offs, with commas."
)
ties_option = click.option(
    "--ties",
    type=click.Choice(["conservative", "standard"]),
    default="conservative",
    show_default=True,
    help="Whether items with the target's score rank above it or below it.",
)


def protocol_of(table: ClickTable, split: str | None, idle_ms: int) -> Protocol:
    """Return what is learned from and what is ranked; both are the whole table without a split."""
    if split is None:
        return Protocol(table, table, last_only=False, idle_ms=idle_ms)
    try:
        return split_protocol(table, split, idle_ms=idle_ms)
    except ValueError as error:
        raise click.UsageError(f"--split: {error}") from error
