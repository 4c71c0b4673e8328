"""`nextclick`: the command line. Commands are imported when they are called; errors become one line each."""

import importlib
import logging
import sys
from importlib import metadata
from typing import Any

import click

# Name -> where it is, and what the list of commands says of it: asking the commands themselves would import them all.
COMMANDS = {
    "demo": ("deploy.commands.demo:demo", "See it work: broker, worker, trainer and clicks."),
    "worker": ("deploy.commands.worker:worker", "Answer clicks with recommendations."),
    "trainer": ("deploy.commands.trainer:trainer", "Learn from the clicks and publish versions."),
    "broker": ("deploy.commands.kafka:broker", "Run a local broker with the topics made."),
    "topics": ("deploy.commands.kafka:topics_group", "Create and check the topics."),
    "replay": ("deploy.commands.kafka:replay", "Produce the clicks of a file."),
    "tail": ("deploy.commands.kafka:tail", "Watch the recommendations."),
    "models": ("deploy.commands.models:models", "List versions; promote and roll back."),
    "fit": ("deploy.commands.offline:fit", "Train a version on a file, without Kafka."),
    "evaluate": ("deploy.commands.offline:evaluate", "Measure a version on a file, without Kafka."),
    "compare": ("deploy.commands.compare:compare", "Measure recommenders side by side on a file."),
    "simulate": ("deploy.commands.simulate:simulate", "Try out on a file how to stay up to date."),
    "tune": ("deploy.commands.tune:tune", "Search for the settings that suit a file."),
    "bench": ("deploy.commands.bench:bench", "Measure speed; the README's figures."),
    "settings": ("deploy.commands.settings:settings", "Print every setting, ready to be copied."),
}
INTERRUPTED = 130


class NextclickGroup(click.Group):
    """Imports a command when it is asked for, and turns errors into exit statuses: 1 failed, 2 wrong usage."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        _log_to_standard_error()
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong is shown without a traceback."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:
            raise importlib.import_module("deploy.failures").as_exit(error) from error


def _log_to_standard_error() -> None:
    """Keep what the imported modules log out of standard output, which is the result's alone."""
    # Not imported for the sake of it: that takes longer than some commands.
    structlog: Any = sys.modules.get("structlog")
    if structlog is not None and not structlog.is_configured():
        structlog.configure(logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr))


def _show_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or ctx.resilient_parsing:
        return
    try:
        click.echo(f"nextclick {metadata.version('nextclick')}")
    except metadata.PackageNotFoundError:
        click.echo("nextclick, run from its sources without being installed")
    ctx.exit()


@click.group(
    cls=NextclickGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: nextclick demo. Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it.")
def main() -> None:
    """Streaming next-item recommendations: clicks in Kafka, GRU4Rec answers out.

    Every setting is an environment variable; `nextclick settings` prints them all.
    """
    # A command says in one line what is wrong; Kafka's clients would add lines of their own.
    logging.basicConfig(handlers=[logging.NullHandler()])
