import pytest
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import KafkaError, KafkaException

from deploy.errors import BrokerError, ServerError, SettingsError
from deploy.failures import as_exit, exit_status, is_foreseen, one_line
from model.errors import UnknownVersionError
from stream.deliveries import DeliveryError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (BrokerError("no Java: install it"), "no Java: install it"),
        (UnknownVersionError("there is no v1"), "there is no v1; `nextclick models list` shows those there are"),
        (
            ServerError("port 9 is taken"),
            "port 9 is taken; NEXTCLICK_HTTP__WORKER_PORT and NEXTCLICK_HTTP__TRAINER_PORT",
        ),
        (DeliveryError("not delivered"), "not delivered; what is not committed is answered again after a restart"),
        (KafkaException(KafkaError(KafkaError._TIMED_OUT, "slow")), "slow; is Kafka running"),
        (KafkaConnectionError("refused"), "KafkaConnectionError: refused; is Kafka running"),
        (PermissionError(13, "Permission denied", "data"), "[Errno 13] Permission denied: 'data'"),
    ],
)
def test_what_can_be_expected_to_go_wrong_says_so_and_what_to_do(error: Exception, line: str) -> None:
    assert is_foreseen(error)
    assert one_line(error).startswith(line)
    assert as_exit(error).exit_code == exit_status(error) == 1


def test_a_wrong_setting_is_wrong_usage() -> None:
    assert as_exit(SettingsError("NEXTCLICK_X is wrong")).exit_code == 2


def test_anything_else_is_said_to_be_unforeseen() -> None:
    assert not is_foreseen(ZeroDivisionError("division by zero"))
    assert one_line(ZeroDivisionError("division by zero")) == "unforeseen ZeroDivisionError: division by zero"
