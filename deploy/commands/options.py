"""Options that several commands share, what they stand for, and how results are shown."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from deploy.errors import SettingsError
from deploy.settings import PREFIX, KafkaSettings, Settings, load_settings
from model.clicks import ClickTable, read_clicks
from model.errors import InvalidFileError
from model.registry import Registry
from trainer.presets import PresetName
from trainer.settings import TrainerSettings

Command = Callable[..., Any]

# What a person reads while waiting goes to standard error; standard output is the result.
notes = Console(stderr=True)
output = Console()

broker_option = click.option(
    "--broker", metavar="HOST:PORT", help=f"Kafka's address, instead of {PREFIX}KAFKA__BOOTSTRAP_SERVERS."
)
registry_option = click.option(
    "--registry", metavar="URL", help=f"Where versions are kept, instead of {PREFIX}REGISTRY."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Make the last line of output one JSON object.")


@dataclass(frozen=True)
class ClickFile:
    """A file of clicks and the names of its columns."""

    path: Path
    columns: Mapping[str, str]

    def read(self) -> ClickTable:
        """Return its clicks in file order.

        Raises:
            InvalidFileError: There is no such file, or it cannot be read as asked.
        """
        if not self.path.exists():
            raise InvalidFileError(f"{self.path}: there is no such file; check the path")
        return read_clicks(self.path, **self.columns)


def click_file(*name: str, **settings: Any) -> Callable[[Command], Command]:
    """Add the parameter `file` (a `ClickFile` or None): the argument FILE, or the option described here."""

    def decorate(command: Command) -> Command:
        @click.option("--session-column", default="session_id", show_default=True, help="Column of session ids.")
        @click.option("--item-column", default="item_id", show_default=True, help="Column of item ids.")
        @click.option("--time-column", default="timestamp", show_default=True, help="Column of event times.")
        @functools.wraps(command)
        def with_file(file: Path | None, **options: Any) -> Any:
            columns = {name: options.pop(name) for name in ("session_column", "item_column", "time_column")}
            return command(file=ClickFile(file, columns) if file else None, **options)

        path = click.Path(path_type=Path)
        if name:
            return click.option(*name, "file", type=path, **settings)(with_file)
        return click.argument("file", type=path)(with_file)

    return decorate


def recipe_options(command: Command) -> Command:
    """Add the parameter `recipe`: trainer settings by name that are stronger than the environment's."""

    @click.option("--preset", type=click.Choice(get_args(PresetName)), help="Settings for clicks of this kind.")
    @click.option(
        "--recipe", "file_of_settings", type=click.Path(path_type=Path), help="Settings that `nextclick tune` found."
    )
    @functools.wraps(command)
    def with_recipe(preset: str | None, file_of_settings: Path | None, **options: Any) -> Any:
        chosen = {"preset": preset} if preset else {}
        return command(recipe=chosen | (read_recipe(file_of_settings) if file_of_settings else {}), **options)

    return with_recipe


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the trainer settings in a file that `nextclick tune` wrote.

    Raises:
        InvalidFileError: It cannot be read, is no JSON object, or names what is no setting of the trainer.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InvalidFileError(f"{path}: there is no such file; `nextclick tune` writes one") from error
    except (OSError, ValueError) as error:
        raise InvalidFileError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidFileError(f"{path}: expected a JSON object of trainer settings, got {type(found).__name__}")
    for name in sorted(found.keys() - TrainerSettings.model_fields.keys()):
        raise InvalidFileError(f"{path}: {name!r} is no setting of the trainer; `nextclick settings` lists them")
    return found


def settings_with(
    *, broker: str | None = None, registry: str | None = None, recipe: Mapping[str, Any] | None = None
) -> Settings:
    """Read the settings and put a command's own options over them."""
    settings = load_settings(**({"trainer": recipe} if recipe else {}))
    if broker:
        try:
            kafka = KafkaSettings.model_validate(settings.kafka.model_dump() | {"bootstrap_servers": broker})
        except ValidationError as error:
            raise click.UsageError(f"--broker: expected HOST:PORT, several by commas, got {broker!r}") from error
        settings = settings.model_copy(update={"kafka": kafka})
    return settings.model_copy(update={"registry": registry}) if registry else settings


def open_registry(settings: Settings) -> Registry:
    """Return the registry of these settings; nothing is read yet.

    Raises:
        SettingsError: No library that is installed understands its URL.
    """
    try:
        return Registry(settings.registry)
    except (ValueError, ImportError) as error:
        raise SettingsError(
            f"the registry {settings.registry!r} cannot be opened: {error}; expected a folder, or a URL such as"
            " s3://bucket/nextclick with the extra `s3` installed"
        ) from error


def show_json(result: Mapping[str, Any]) -> None:
    """Write the one line that `--json` promises."""
    click.echo(json.dumps(result))


def table_of(*columns: str) -> Table:
    """Return an empty table for the terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def progress() -> Progress:
    """Return a progress bar for work of known length, where standard error is a terminal; it leaves nothing behind."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=notes,
        transient=True,
        disable=not notes.is_terminal,
    )
