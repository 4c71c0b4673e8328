"""How Faust is told what aiokafka calls security options."""

from collections.abc import Mapping
from typing import Any

import faust


def credentials(kafka_options: Mapping[str, Any]) -> Any:
    """Turn aiokafka's security options into Faust's credentials; None for plain text.

    Args:
        kafka_options: aiokafka keyword arguments (`security_protocol`, `ssl_context`, `sasl_*`).

    Raises:
        ValueError: An encrypted protocol without `ssl_context`; Faust would send the password in the clear.
    """
    protocol = kafka_options.get("security_protocol", "PLAINTEXT")
    context = kafka_options.get("ssl_context")
    if protocol.endswith("SSL") and context is None:
        raise ValueError(f"security_protocol {protocol} needs an ssl_context (aiokafka.helpers.create_ssl_context)")
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka_options["sasl_plain_username"],
            password=kafka_options["sasl_plain_password"],
            mechanism=kafka_options.get("sasl_mechanism", "PLAIN"),
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if protocol == "SSL" else None
