"""Options that several commands share, and how their results are shown."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deploy.settings import KafkaSettings, Settings, load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

# What a person reads while waiting goes to standard error; standard output is the result.
notes = Console(stderr=True)
output = Console()

broker_option = click.option(
    "--broker", metavar="HOST:PORT", help="Kafka's address, instead of NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS."
)
registry_option = click.option(
    "--registry", metavar="URL", help="Where versions are kept, instead of NEXTCLICK_REGISTRY."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Make the last line of output one JSON object.")


def click_file(command: Command) -> Command:
    """Add the argument FILE and the names of its columns."""
    for decorate in (
        click.option("--time-column", default="timestamp", show_default=True, help="Column of event times."),
        click.option("--item-column", default="item_id", show_default=True, help="Column of item ids."),
        click.option("--session-column", default="session_id", show_default=True, help="Column of session ids."),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def settings_with(*, broker: str | None = None, registry: str | None = None) -> Settings:
    """Read the settings and put a command's own options over them."""
    settings = load_settings()
    if broker:
        kafka = KafkaSettings.model_validate(settings.kafka.model_dump() | {"bootstrap_servers": broker})
        settings = settings.model_copy(update={"kafka": kafka})
    return settings.model_copy(update={"registry": registry}) if registry else settings


def show_json(result: Mapping[str, Any]) -> None:
    """Write the one line that `--json` promises."""
    click.echo(json.dumps(result))


def progress() -> Progress:
    """Return a progress bar for work of known length, on standard error; it leaves nothing behind."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
    )
