"""A real Apache Kafka on this machine: one KRaft node on loopback, started from its jars by Java.

For what the embedded broker cannot show (compaction, real consumer groups, restarts on the same data) and for
benchmarks. Not for production: one node, no replication, no authentication.
"""

import base64
import random
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.errors import BrokerError
from deploy.guard import Guard
from deploy.kafka_jars import find_jars, find_java

_HOST: Final = "127.0.0.1"
# Below the range that Linux gives to outgoing connections (32768 and up): a client that keeps knocking while
# the broker is down could otherwise be given the broker's own port, connect to itself and keep it.
_PORT_RANGE: Final = range(20_000, 32_000)
_START_DEADLINE_S: Final = 60.0
_STOP_DEADLINE_S: Final = 15.0
_POLL_S: Final = 0.05
_LOG_LINES: Final = 20


class LocalKafka:
    """One broker process with its data folder; ports and data outlive `stop`, `kill` and `start`.

    The process ends with its parent even when the parent is killed: see `Guard`. (`PR_SET_PDEATHSIG` would end it
    with the *thread* that started it, and needs code between fork and exec, unsafe beside other threads.)

    Args:
        libs: Folder of the jars, see `find_jars` and `fetch_jars`.
        data_dir: Folder for data, settings and log; made where missing, reused where present.
        port: Port of the clients' listener; 0 takes a free one.
        settings: Further broker properties, which win over the ones set here.
        heap: Java heap, as for `-Xmx`.

    Raises:
        BrokerError: Java or the jars are missing.
        ValueError: The folder's name cannot be written into Kafka's settings.
    """

    def __init__(
        self,
        libs: Path,
        data_dir: Path,
        *,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
        heap: str = "512m",
    ) -> None:
        self._java = find_java()
        self._libs = find_jars(libs)
        self._data_dir = data_dir.resolve()
        if set(str(self._data_dir)) & set(",\\\n"):
            raise ValueError(f"Kafka cannot use a data folder with a comma or backslash in it: {self._data_dir}")
        self._port = port or _free_port()
        self._controller_port = _free_port(taken=self._port)
        self._settings = dict(settings or {})
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    @property
    def bootstrap(self) -> str:
        """Address for `bootstrap.servers`, the same over restarts."""
        return f"{_HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Process id of the running broker."""
        return self._process.pid if self._process else None

    @property
    def log_path(self) -> Path:
        """Where the broker and its formatter write their output."""
        return self._data_dir / "kafka.log"

    def start(self, *, deadline_s: float = _START_DEADLINE_S) -> None:
        """Format the data folder if it is new, start the broker and wait until it answers clients.

        Raises:
            BrokerError: It ended, or did not answer in time; shows the last lines of its log. Nothing is left
                running.
        """
        if self._process is not None:
            raise BrokerError(f"this broker is already running at {self.bootstrap}")
        self._data_dir.mkdir(parents=True, exist_ok=True)
        properties = self._write_settings()
        if not (self._data_dir / "log" / "meta.properties").exists():
            self._format(properties, deadline_s)
        # Files are closed right after the start: the child has its own copy of the descriptor.
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - built from constants and our own paths
                [*self._java_command(), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the parent, which then stops the broker in order
            )
        self._guard = Guard(self._process.pid)
        try:
            self._wait_until_ready(time.monotonic() + deadline_s)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, deadline_s: float = _STOP_DEADLINE_S) -> None:
        """End the broker in order (SIGTERM), by force after the deadline; not running is fine."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(deadline_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a crash would; `start()` brings it back on the same data."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        if self._guard is not None:
            self._guard.end()
            self._guard = None

    def _java_command(self) -> list[str]:
        return [
            self._java,
            f"-Xmx{self._heap}",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            f"{self._libs}/*",
        ]

    def _write_settings(self) -> Path:
        listeners = f"PLAINTEXT://{_HOST}:{self._port},CONTROLLER://{_HOST}:{self._controller_port}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"{_HOST}:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": listeners,
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._data_dir / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill the controller refuses the broker until its old session has timed out: with the
            # defaults (2 s, 9 s) a restart takes 13 s instead of 5.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "2000",
            "log.cleaner.dedupe.buffer.size": "16777216",
            **self._settings,
        }
        path = self._data_dir / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()), encoding="utf-8")
        return path

    def _format(self, properties: Path, deadline_s: float) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = [
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            # With a blank between, an id that begins with a dash would be taken for an option.
            f"--cluster-id={cluster_id}",
            f"--config={properties}",
        ]
        with self.log_path.open("ab") as log:
            try:
                status = subprocess.run(  # noqa: S603 - built from constants and our own paths
                    [*self._java_command(), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=deadline_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise BrokerError(f"formatting {self._data_dir} for Kafka took over {deadline_s:.0f} s") from error
        if status:
            raise BrokerError(f"Kafka could not format {self._data_dir}:\n{self._log_tail()}")

    def _wait_until_ready(self, deadline: float) -> None:
        """Wait for the port, then for an answer about the cluster that names this broker."""
        assert self._process is not None
        client: AdminClient | None = None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BrokerError(
                    f"Kafka ended with status {self._process.returncode} before it answered:\n{self._log_tail()}"
                )
            if client is None and not _answers(self._port):
                time.sleep(_POLL_S)
                continue
            # Made only now: a client that meets a closed port backs off and would notice the start late.
            client = client or AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
            try:
                if client.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                time.sleep(_POLL_S)
        raise BrokerError(f"Kafka did not answer at {self.bootstrap} in time:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:]) or "(its log is empty)"


def _free_port(*, taken: int = 0) -> int:
    """A port on loopback that nobody listens on now."""
    for port in random.SystemRandom().sample(_PORT_RANGE, len(_PORT_RANGE)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        if port != taken:
            return port
    raise BrokerError(f"no free port on {_HOST} in {_PORT_RANGE}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((_HOST, port)) == 0
