import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from deploy.errors import ServerError
from deploy.http_server import HttpServer


class Health:
    """What the two probes of the server under test answer."""

    def __init__(self) -> None:
        self.live: tuple[bool, dict[str, Any]] = (True, {})
        self.ready: tuple[bool, dict[str, Any]] = (True, {})


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(registry: CollectorRegistry, health: Health) -> Iterator[HttpServer]:
    with HttpServer(registry, is_live=lambda: health.live, is_ready=lambda: health.ready) as running:
        yield running


def get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    with closing(http.client.HTTPConnection(server.address, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_metrics_show_the_registry_given(server: HttpServer, registry: CollectorRegistry) -> None:
    Counter("nextclick_clicks", "Clicks.", registry=registry).inc(3)
    status, content_type, body = get(server, "/metrics")

    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert families["nextclick_clicks"].samples[0].value == 3


def test_a_probe_that_is_well_answers_200_with_its_details(server: HttpServer, health: Health) -> None:
    health.ready = (True, {"partitions": [0, 1], "model_version": "v1"})

    status, content_type, body = get(server, "/readyz")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body) == {"ok": True, "partitions": [0, 1], "model_version": "v1"}


def test_a_probe_that_is_not_well_answers_503_and_the_other_is_its_own(server: HttpServer, health: Health) -> None:
    health.ready = (False, {"waiting_for": "recovery"})

    assert get(server, "/readyz")[0] == 503
    assert json.loads(get(server, "/readyz")[2]) == {"ok": False, "waiting_for": "recovery"}
    assert get(server, "/livez")[0] == 200


def test_a_probe_is_asked_at_every_request(server: HttpServer, health: Health) -> None:
    health.live = (False, {})
    first = get(server, "/livez")[0]
    health.live = (True, {})

    assert (first, get(server, "/livez")[0]) == (503, 200)


def test_a_query_does_not_change_the_path(server: HttpServer) -> None:
    assert get(server, "/livez?verbose=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/livez/", "/metrics/extra", "/.."])
def test_an_unknown_path_is_404_and_names_the_known_ones(server: HttpServer, path: str) -> None:
    status, _, body = get(server, path)

    assert status == 404
    assert json.loads(body)["paths"] == ["/metrics", "/livez", "/readyz"]


def test_only_get_is_answered(server: HttpServer) -> None:
    assert get(server, "/livez", method="POST")[0] == 501


def test_a_probe_that_raises_is_500_and_the_server_goes_on(registry: CollectorRegistry) -> None:
    def broken() -> tuple[bool, dict[str, Any]]:
        raise RuntimeError("no consumer")

    with HttpServer(registry, is_live=lambda: (True, {}), is_ready=broken) as server:
        status, _, body = get(server, "/readyz")

        assert status == 500
        assert json.loads(body) == {"ok": False, "error": "RuntimeError('no consumer')"}
        assert get(server, "/livez")[0] == 200


def test_a_client_that_hangs_up_harms_nobody(server: HttpServer) -> None:
    host, port = server.address.split(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /metr")

    assert get(server, "/livez")[0] == 200


def test_without_requests_its_thread_sleeps(server: HttpServer) -> None:
    assert get(server, "/livez")[0] == 200
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "http-server")
    time.sleep(0.1)  # it may still be on its way from that request
    before = woken(thread)
    time.sleep(0.3)
    assert woken(thread) == before


def woken(thread: threading.Thread) -> str:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return status[status.index("voluntary_ctxt_switches") :]


def test_it_listens_on_loopback_unless_told_otherwise(server: HttpServer) -> None:
    assert server.address.startswith("127.0.0.1:")


def test_a_taken_port_is_a_readable_error(server: HttpServer, registry: CollectorRegistry) -> None:
    port = int(server.address.split(":")[1])
    second = HttpServer(registry, is_live=lambda: (True, {}), is_ready=lambda: (True, {}), port=port)

    with pytest.raises(ServerError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*choose another host or port"):
        second.start()


def test_a_stopped_server_frees_its_port_and_may_start_again(registry: CollectorRegistry) -> None:
    first = HttpServer(registry, is_live=lambda: (True, {}), is_ready=lambda: (True, {}))
    first.start()
    address = first.address
    first.stop()
    first.stop()
    with pytest.raises(ServerError, match="not running"):
        _ = first.address

    port = int(address.split(":")[1])
    with HttpServer(registry, is_live=lambda: (True, {}), is_ready=lambda: (True, {}), port=port) as second:
        assert get(second, "/livez")[0] == 200
