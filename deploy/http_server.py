"""A small server for operators: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever supervises."""

import json
import logging
import selectors
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

from deploy.errors import ServerError

Probe = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Says whether all is well, with details that JSON can hold; called in the server's threads, once a request."""

_SLOWEST_CLIENT_S: Final = 10.0

_log = logging.getLogger(__name__)


class HttpServer:
    """Serves three paths from daemon threads, from `start` to `stop`.

    `/livez` and `/readyz` answer 200 when their probe says so and 503 when it does not, both with a JSON object:
    `ok` and the details. A probe that raises is a 500, which no supervisor takes for healthy.

    Args:
        registry: Whose metrics to show.
        is_live: Probe of `/livez`.
        is_ready: Probe of `/readyz`.
        host: Address to listen on; loopback unless told otherwise.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        is_live: Probe,
        is_ready: Probe,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._pages: dict[str, Callable[[], _Answer]] = {
            "/metrics": lambda: _Answer(HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)),
            "/livez": lambda: _ask(is_live),
            "/readyz": lambda: _ask(is_ready),
        }
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """`host:port` that it listens on, with the port really taken."""
        if self._server is None:
            raise ServerError("the HTTP server is not running: start it first")
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def start(self) -> None:
        """Listen and serve; returns at once.

        Raises:
            ServerError: The address is taken or not ours.
        """
        try:
            self._server = _Server(self._host, self._port, self._pages)
        except (OSError, OverflowError) as error:
            raise ServerError(
                f"cannot listen on {self._host}:{self._port} ({error}): choose another host or port"
            ) from error
        self._thread = threading.Thread(target=self._server.serve, name="http-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and return once the port is free; not running is fine."""
        if self._server is None or self._thread is None:
            return
        self._server.end()
        self._thread.join()
        self._server.server_close()
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


def _as_json(status: HTTPStatus, content: Mapping[str, Any]) -> _Answer:
    return _Answer(status, "application/json", json.dumps(content).encode() + b"\n")


def _ask(probe: Probe) -> _Answer:
    is_well, details = probe()
    status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
    return _as_json(status, {"ok": is_well, **details})


class _Server(ThreadingHTTPServer):
    """The listening socket and the pages."""

    # `handle_request` is called where there is one, and must not wait for another.
    timeout = 0

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], _Answer]]) -> None:
        if ":" in host:
            self.address_family = socket.AF_INET6
        self.pages = pages
        self._end, self._ended = socket.socketpair()
        super().__init__((host, port), _Handler)

    def serve(self) -> None:
        """Answer requests until `end`; `serve_forever` would look several times a second whether it is over."""
        with selectors.DefaultSelector() as waiting:
            waiting.register(self, selectors.EVENT_READ)
            waiting.register(self._ended, selectors.EVENT_READ)
            while all(key.fileobj is self for key, _ in waiting.select()):
                self.handle_request()

    def end(self) -> None:
        """Let `serve` return, from any thread."""
        self._end.send(b".")

    def server_close(self) -> None:
        """Free the port."""
        super().server_close()
        self._end.close()
        self._ended.close()

    def server_bind(self) -> None:
        """Bind without looking up our own name, which may wait for a name server for seconds."""
        socketserver.TCPServer.server_bind(self)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong with one connection, such as a client that hung up; the others go on."""
        del request
        _log.debug("connection from %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one GET."""

    server: _Server
    timeout = _SLOWEST_CLIENT_S

    def do_GET(self) -> None:
        page = self.server.pages.get(urlsplit(self.path).path)
        if page is None:
            paths = list(self.server.pages)
            self._send(_as_json(HTTPStatus.NOT_FOUND, {"error": "unknown path", "paths": paths}))
            return
        try:
            answer = page()
        except Exception as error:  # noqa: BLE001 - a request's outer loop: it reports, the server goes on
            _log.exception("%s failed", self.path)
            answer = _as_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"ok": False, "error": repr(error)})
        self._send(answer)

    def log_message(self, *_args: object) -> None:
        """Keep the access log, which would repeat the same three lines every few seconds, off stderr."""

    def _send(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
