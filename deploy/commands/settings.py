"""What every setting is, and where it came from."""

import click

from deploy.commands.kafka import table_of
from deploy.commands.options import json_option, output, show_json
from deploy.settings import describe, load_settings


@click.command(epilog="Example: NEXTCLICK_WORKER__TOP_K=10 nextclick settings")
@json_option
def settings(*, as_json: bool) -> None:
    """List every setting with its variable, value, source and meaning; secrets are hidden."""
    found = list(describe(load_settings()))
    if as_json:
        show_json({setting.name: {"value": setting.value, "source": setting.source} for setting in found})
        return
    table = table_of("settings", "variable", "value", "source", "meaning")
    for setting in found:
        table.add_row(setting.variable, setting.value, setting.source, setting.description)
    output.print(table)
