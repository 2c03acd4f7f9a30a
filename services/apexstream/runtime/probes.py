"""The small HTTP server of every process: ``/metrics``, ``/livez``, ``/readyz``.

It runs in threads of its own, so that it answers when the event loop does not, and says so.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import disk_usage
from socket import socket
from typing import Any

import msgspec
import structlog

from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime import meters
from apexstream.runtime.health import HEALTH, Health, Report
from apexstream.runtime.meters import METERS
from apexstream.runtime.settings import Settings

CONNECTIONS_MAX = 16  # at once; more are closed unanswered
IDLE_TIMEOUT_S = 10.0

Render = Callable[[str], tuple[bytes, str]]
"""Takes an Accept header and gives the page of metrics and its content type."""


@contextmanager
def probes(host: str, port: int, health: Health, render: Render, *, service: str) -> Iterator[str]:
    """Serve while the context lasts; gives the base URL. ``port`` 0 takes any free one. Raises
    :class:`InvalidConfiguration` if the port is taken."""
    try:
        server = _Server((host, port), _handler(health, render, service))
    except OSError as problem:
        taken = problem.errno == errno.EADDRINUSE
        raise InvalidConfiguration(
            "the port is taken" if taken else os.strerror(problem.errno or 0),
            where=f"metrics on {host}:{port}",
            hint="Choose another with APEX_METRICS_PORT; 0 takes any free one, off serves none",
        ) from problem
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="probes", daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def expose(service: str, settings: Settings) -> Iterator[str]:
    """Metrics and health of this process, where ``settings`` say, as long as the context lasts; gives the base URL, if any."""
    if settings.metrics_port == "off":
        yield ""
        return
    from apexstream.runtime.exposition import renderer

    disk = _existing(settings.home_path)
    meters.HOME_FREE.read(lambda: disk_usage(disk).free)
    meters.HOME_SIZE.read(lambda: disk_usage(disk).total)
    render = renderer(METERS, service=service)
    with probes(settings.metrics_host, settings.metrics_port, HEALTH, render, service=service) as url:
        structlog.get_logger(__name__).info("metrics and health", url=url)
        yield url


def _existing(folder: Path) -> Path:
    """``folder``, or the first folder above it that exists: it is on the same disk."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(address, handler)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Give the connection a thread, if there is one left."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Serve the connection and free its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A prober that hangs up in the middle is its own business."""


def _handler(health: Health, render: Render, service: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = IDLE_TIMEOUT_S
        protocol_version = "HTTP/1.1"
        server_version = "apexstream"
        sys_version = ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, *render(self.headers.get("Accept", "")))
            elif path == "/livez":
                self._report(health.live())
            elif path == "/readyz":
                self._report(health.ready())
            else:
                self._json(404, {"error": {"code": "not_found", "message": "There are /metrics, /livez and /readyz"}})

        def _report(self, report: Report) -> None:
            content = {"status": "ok" if report.well else "failing", "service": service, "checks": report.checks}
            self._json(200 if report.well else 503, content)

        def _json(self, status: int, content: Any) -> None:
            self._answer(status, msgspec.json.encode(content), "application/json")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
            """Probes come every few seconds; nobody wants to read of them."""

    return Handler
