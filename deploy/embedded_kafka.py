"""A Kafka broker inside this process: the mock cluster of librdkafka, driven through ctypes.

It speaks the real protocol on loopback, needs neither Java nor Docker and starts in milliseconds: demos and
most tests run on it. Its limits (librdkafka 2.16, `rdkafka_mock.c`):

- A partition keeps the newest 5 MiB, or 100,000 record batches; older ones are dropped. Memory only.
- No CreateTopics, DeleteTopics or DescribeConfigs: topics are made here. A topic that a client only asks for
  is created with 4 partitions.
- No retention and no compaction: a compacted topic keeps every record, tombstones included.
- No SASL, TLS or ACLs; `read_committed` sees aborted records, and commit markers have a wrong checksum, which aiokafka
  refuses. Do not test transactions on it.
- A second member of aiokafka's in a consumer group is refused (SyncGroup: InvalidRequest), and where members come or go
  the next one waits for the session timeout less a second.
- The port is chosen by the system and cannot be asked for.
"""

import ctypes
import ctypes.util
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import confluent_kafka

from deploy.errors import BrokerError

EVERY_BROKER: Final = -1
_PRODUCER: Final = 0
_MESSAGE_BYTES: Final = 512


class ApiKey(IntEnum):
    """Kafka request types that a test may want to fail."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    INIT_PRODUCER_ID = 22


# name -> (result, arguments). Without these ctypes would cut pointers to 32 bits.
# Source: rdkafka.h and rdkafka_mock.h of librdkafka 2.16.
_SIGNATURES: Final[dict[str, tuple[type | None, tuple[type, ...]]]] = {
    "rd_kafka_conf_new": (ctypes.c_void_p, ()),
    "rd_kafka_conf_set_log_cb": (None, (ctypes.c_void_p, ctypes.c_void_p)),
    "rd_kafka_new": (ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)),
    "rd_kafka_destroy": (None, (ctypes.c_void_p,)),
    "rd_kafka_err2str": (ctypes.c_char_p, (ctypes.c_int,)),
    "rd_kafka_mock_cluster_new": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)),
    "rd_kafka_mock_cluster_destroy": (None, (ctypes.c_void_p,)),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "rd_kafka_mock_topic_create": (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    ),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, (ctypes.c_void_p, ctypes.c_int32)),
    "rd_kafka_mock_push_request_errors_array": (
        None,
        (ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)),
    ),
    "rd_kafka_mock_clear_request_errors": (None, (ctypes.c_void_p, ctypes.c_int16)),
    "rd_kafka_mock_broker_set_rtt": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int)),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32)),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int32)),
}


class EmbeddedKafka:
    """A running broker with its topics; `close()` it, or use it in a `with` block.

    Every method may be called from any thread. Records live until `close()`, within the limits named above.

    Args:
        topics: Partition count of each topic.
        brokers: How many brokers (each on its own loopback port), numbered from 1.
        rebalance_delay_ms: How long a consumer group waits for more members before its first assignment.

    Raises:
        BrokerError: librdkafka was not found, or it refused.
        ValueError: A count or name makes no sense.
    """

    def __init__(self, topics: Mapping[str, int], *, brokers: int = 1, rebalance_delay_ms: int = 50) -> None:
        if brokers < 1:
            raise ValueError(f"an embedded broker needs at least 1 broker, got {brokers}")
        self._library = _load_library()
        self._brokers = brokers
        self._client: int | None = _new_client(self._library)
        self._cluster: int | None = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            self.close()
            raise BrokerError("librdkafka could not start its mock cluster: no free loopback port?")
        self._topics: dict[str, int] = {}
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, rebalance_delay_ms)
        try:
            for name, partitions in topics.items():
                self.create_topic(name, partitions)
        except (BrokerError, ValueError):
            self.close()
            raise

    @property
    def bootstrap(self) -> str:
        """Addresses for `bootstrap.servers`: `127.0.0.1:port`, comma-separated."""
        addresses: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._open_cluster())
        return addresses.decode()

    @property
    def topics(self) -> dict[str, int]:
        """Partition count of each topic created here (not of those that a client's question created)."""
        return dict(self._topics)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic; the same name with the same count again is fine, as a restart does that.

        Raises:
            ValueError: The name is empty, the count is below 1, or the topic has another count.
            BrokerError: librdkafka refused, for example because a client's question has already created it.
        """
        if not name or partitions < 1:
            raise ValueError(f"a topic needs a name and at least 1 partition, got {name!r} with {partitions}")
        existing = self._topics.get(name)
        if existing == partitions:
            return
        if existing is not None:
            raise ValueError(f"topic {name} has {existing} partitions and cannot be given {partitions}")
        code = self._library.rd_kafka_mock_topic_create(self._open_cluster(), name.encode(), partitions, self._brokers)
        self._check(code, f"create topic {name}")
        self._topics[name] = partitions

    def push_request_errors(self, api_key: ApiKey, errors: Sequence[int]) -> None:
        """Let the next requests of one type fail, one error each, in this order.

        Args:
            api_key: Which request type.
            errors: Codes of `confluent_kafka.KafkaError`; `_TRANSPORT` cuts the connection, 0 lets one pass.
        """
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._open_cluster(), api_key, len(errors), codes)

    def clear_request_errors(self, api_key: ApiKey) -> None:
        """Forget the errors pushed for one request type that no request has met yet."""
        self._library.rd_kafka_mock_clear_request_errors(self._open_cluster(), api_key)

    def set_rtt_ms(self, rtt_ms: int, *, broker: int = EVERY_BROKER) -> None:
        """Delay every answer by `rtt_ms`; 0 ends it."""
        self._check(self._library.rd_kafka_mock_broker_set_rtt(self._open_cluster(), broker, rtt_ms), "set the delay")

    def set_down(self, *, broker: int = EVERY_BROKER) -> None:
        """Cut every connection and refuse new ones; records and group state stay, leaders do not move."""
        self._check(self._library.rd_kafka_mock_broker_set_down(self._open_cluster(), broker), "take it down")

    def set_up(self, *, broker: int = EVERY_BROKER) -> None:
        """Accept connections again, on the same port."""
        self._check(self._library.rd_kafka_mock_broker_set_up(self._open_cluster(), broker), "bring it up")

    def close(self) -> None:
        """Drop every connection and every record; closing again does nothing."""
        cluster, self._cluster = self._cluster, None
        if cluster:
            self._library.rd_kafka_mock_cluster_destroy(cluster)
        client, self._client = self._client, None
        if client:
            self._library.rd_kafka_destroy(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_cluster(self) -> int:
        if self._cluster is None:
            raise BrokerError("this embedded broker is closed: start another one")
        return self._cluster

    def _check(self, code: int, action: str) -> None:
        if code:
            reason = self._library.rd_kafka_err2str(code).decode()
            raise BrokerError(f"the embedded broker could not {action}: {reason}")


def _load_library() -> ctypes.CDLL:
    """Open the librdkafka that the confluent-kafka wheel brings and declare the functions used here."""
    for path in _library_candidates():
        library = ctypes.CDLL(path)
        if not all(hasattr(library, name) for name in _SIGNATURES):
            continue
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        return library
    raise BrokerError(
        "no librdkafka with a mock cluster was found beside confluent-kafka: install its binary wheel "
        "(pip install --only-binary :all: confluent-kafka), or use a real Kafka"
    )


def _library_candidates() -> list[str]:
    """Paths of librdkafka: beside the Linux wheel, inside the macOS wheel, or the system's."""
    package = Path(confluent_kafka.__file__).parent
    bundled = [
        *sorted((package.parent / "confluent_kafka.libs").glob("librdkafka[-.]*so*")),
        *sorted((package / ".dylibs").glob("librdkafka*.dylib")),
    ]
    system = ctypes.util.find_library("rdkafka")
    return [str(path) for path in bundled] + ([system] if system else [])


def _new_client(library: ctypes.CDLL) -> int:
    """Make the client handle that owns the mock cluster; it never connects, so it logs nothing."""
    settings = library.rd_kafka_conf_new()
    library.rd_kafka_conf_set_log_cb(settings, None)
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    client: int | None = library.rd_kafka_new(_PRODUCER, settings, message, _MESSAGE_BYTES)
    if not client:
        raise BrokerError(f"librdkafka could not start: {message.value.decode()}")
    return client
