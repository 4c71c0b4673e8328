"""Security options on their way through Faust to its Kafka clients."""

import ssl
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from stream.credentials import credentials


def test_without_security_there_are_no_credentials() -> None:
    assert credentials({"bootstrap_servers": "127.0.0.1:9092"}) is None


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_security_options_come_back_from_faust_as_they_went_in(protocol: str, mechanism: str) -> None:
    options: dict[str, Any] = {"security_protocol": protocol}
    if protocol.startswith("SASL"):
        options |= {"sasl_mechanism": mechanism, "sasl_plain_username": "user", "sasl_plain_password": "word"}
    if protocol.endswith("SSL"):
        options["ssl_context"] = ssl.create_default_context()
    found = driver.credentials_to_aiokafka_auth(credentials({"bootstrap_servers": "x", **options}))
    assert {name: value for name, value in found.items() if value is not None} == options


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_encryption_without_an_ssl_context_is_refused(protocol: str) -> None:
    with pytest.raises(ValueError, match=f"{protocol} needs an ssl_context"):
        credentials({"security_protocol": protocol, "sasl_plain_username": "user", "sasl_plain_password": "word"})
