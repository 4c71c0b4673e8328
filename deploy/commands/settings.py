"""What every setting is, and where it came from."""

import shlex

import click

from deploy.commands.options import json_option, show_json
from deploy.settings import Setting, describe, load_settings


@click.command(epilog="Example: nextclick settings > nextclick.env; set -a; . ./nextclick.env; nextclick worker")
@json_option
def settings(*, as_json: bool) -> None:
    """Print every setting as NAME=value, below what it means and where its value came from, as a shell can read it.

    What the environment does not set is commented out: presets and later releases may have other defaults. So is a
    password, which is hidden besides. The value `none` sets nothing.
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
        click.echo(f"# {setting.description} ({setting.source})\n{_assignment(setting)}")


def _assignment(setting: Setting) -> str:
    is_given = setting.source == "environment" and not setting.is_secret
    return f"{'' if is_given else '# '}{setting.variable}={shlex.quote(setting.text)}"
