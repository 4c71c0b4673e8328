"""`nextclick`: the command line. Commands are imported when they are called; errors become one line each."""

import importlib
from typing import Any

import click
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException

from deploy.errors import SettingsError
from model.errors import RecommenderError

COMMANDS = {
    "demo": "deploy.commands.demo:demo",
    "worker": "deploy.commands.worker:worker",
    "trainer": "deploy.commands.trainer:trainer",
    "broker": "deploy.commands.kafka:broker",
    "topics": "deploy.commands.kafka:topics_group",
    "replay": "deploy.commands.kafka:replay",
    "tail": "deploy.commands.kafka:tail",
    "models": "deploy.commands.models:models",
    "fit": "deploy.commands.offline:fit",
    "evaluate": "deploy.commands.offline:evaluate",
    "bench": "deploy.commands.bench:bench",
    "settings": "deploy.commands.settings:settings",
}


class NextclickGroup(click.Group):
    """Imports a command when it is asked for, and turns our errors into exit statuses: 1 failed, 2 wrong usage."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises on purpose is shown without a traceback."""
        try:
            return super().invoke(ctx)
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
        except (RecommenderError, KafkaError) as error:
            raise click.ClickException(str(error)) from error
        except KafkaException as error:
            raise click.ClickException(f"Kafka: {error.args[0].str()}") from error


@click.group(cls=NextclickGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="nextclick")
def main() -> None:
    """Streaming next-item recommendations: clicks in Kafka, GRU4Rec answers out.

    Start with `nextclick demo`. Every setting is an environment variable; `nextclick settings` lists them.
    """
