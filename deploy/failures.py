"""What a failed command says: one line for what can be expected to go wrong, and where to look for anything else."""

import os

import click
from aiokafka.errors import KafkaError
from confluent_kafka import KafkaException

from deploy.errors import ServerError, SettingsError
from model.errors import RecommenderError, UnknownVersionError
from stream.deliveries import DeliveryError

_FORESEEN = (RecommenderError, KafkaError, KafkaException, OSError)
_WHAT_TO_DO = {
    UnknownVersionError: "`nextclick models list` shows those there are",
    ServerError: "NEXTCLICK_HTTP__WORKER_PORT and NEXTCLICK_HTTP__TRAINER_PORT name it, and 0 takes a free one",
    DeliveryError: "what is not committed is answered again after a restart; is Kafka running?",
    KafkaError: "is Kafka running, and are address and credentials right?",
    KafkaException: "is Kafka running, and are address and credentials right?",
}


def is_foreseen(error: BaseException) -> bool:
    """Whether an error says itself what is wrong, so that nobody needs to see where it was raised."""
    return isinstance(error, _FORESEEN)


def one_line(error: BaseException) -> str:
    """Return what came, what was expected and what to do."""
    said = error.args[0].str() if isinstance(error, KafkaException) else str(error)
    for kind, advice in _WHAT_TO_DO.items():
        if isinstance(error, kind):
            return f"{said}; {advice}"
    return said if is_foreseen(error) else f"unforeseen {type(error).__name__}: {said}"


def exit_status(error: BaseException) -> int:
    """Return 2 for a wrong setting, which is wrong usage, and 1 for everything else."""
    return 2 if isinstance(error, SettingsError) else 1


def as_exit(error: Exception) -> click.ClickException:
    """Return what click shows and exits with.

    An unforeseen error is raised again instead, traceback and all, where the log level is DEBUG.
    """
    if not is_foreseen(error) and os.environ.get("NEXTCLICK_LOG_LEVEL") == "DEBUG":
        raise error
    where = "" if is_foreseen(error) else "; NEXTCLICK_LOG_LEVEL=DEBUG shows where"
    failure = click.ClickException(one_line(error) + where)
    failure.exit_code = exit_status(error)
    return failure
