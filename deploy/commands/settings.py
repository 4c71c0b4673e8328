"""What every setting is, and where it came from."""

import shlex

import click

from deploy.commands.options import json_option, show_json
from deploy.settings import Setting, describe, load_settings


@click.command(epilog="Example: nextclick settings > nextclick.env; set -a; . ./nextclick.env; nextclick worker")
@json_option
def settings(*, as_json: bool) -> None:
    """Print every setting as a line NAME=value that a shell can read, with its meaning and where its value came from.

    A password is hidden, and its line commented out. The value `none` sets nothing.
    """
    found = list(describe(load_settings()))
    if as_json:
        show_json(
            {
                setting.variable: {
                    "value": setting.value,
                    "source": setting.source,
                    "description": setting.description,
                }
                for setting in found
            }
        )
        return
    group = None
    for setting in found:
        above, _, _ = setting.name.rpartition(".")
        if above != group:
            click.echo(f"\n# {above}" if above else "# the whole deployment")
            group = above
        click.echo(_line(setting))


def _line(setting: Setting) -> str:
    hidden = "# " if setting.is_secret else ""
    return f"{hidden}{setting.variable}={shlex.quote(setting.text)}  # {setting.description} ({setting.source})"
