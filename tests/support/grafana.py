"""A server that speaks the part of Grafana's HTTP API that dashboards are pushed through, over a real socket."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "glsa_of-a-service-account"


class Grafana:
    """What it holds: dashboards by uid with their folder and version, folders and data sources by name."""

    def __init__(self) -> None:
        self.url = ""
        self.dashboards: dict[str, tuple[dict[str, Any], str]] = {}
        self.folders: dict[str, str] = {}
        self.sources = {"Prometheus": ("prometheus", "prom-1"), "Logs": ("loki", "loki-1")}
        self.pushed: list[str] = []
        self.broken = False

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON of a request."""
        if self.broken:
            return 502, {"message": "Bad gateway"}
        match method, path.strip("/").split("/"):
            case "GET", ["api", "folders"]:
                return 200, [{"uid": uid, "title": title} for title, uid in self.folders.items()]
            case "POST", ["api", "folders"]:
                self.folders[body["title"]] = f"folder-{len(self.folders)}"
                return 200, {"uid": self.folders[body["title"]], "title": body["title"]}
            case "GET", ["api", "datasources", "name", name]:
                kind, uid = self.sources.get(name, ("", ""))
                return (200, {"type": kind, "uid": uid}) if kind else (404, {"message": "Data source not found"})
            case "GET", ["api", "dashboards", "uid", uid]:
                held = self.dashboards.get(uid)
                if held is None:
                    return 404, {"message": "Dashboard not found"}
                return 200, {"dashboard": held[0], "meta": {"folderUid": held[1]}}
            case "POST", ["api", "dashboards", "db"]:
                return self._save(body)
        return 404, {"message": f"Not found: {method} {path}"}

    def _save(self, body: dict[str, Any]) -> tuple[int, Any]:
        dashboard, folder = body["dashboard"], body["folderUid"]
        uid = dashboard["uid"]
        if folder not in self.folders.values():
            return 400, {"message": "folder not found"}
        if uid in self.dashboards and not body.get("overwrite"):
            return 412, {"message": "The dashboard has been changed by someone else", "status": "version-mismatch"}
        version = self.dashboards[uid][0]["version"] + 1 if uid in self.dashboards else 1
        self.dashboards[uid] = {**dashboard, "id": len(self.dashboards) + 1, "version": version}, folder
        self.pushed.append(uid)
        return 200, {"uid": uid, "version": version, "status": "success"}


@contextmanager
def grafana() -> Iterator[Grafana]:
    """Serve one."""
    held = Grafana()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do(None)

        def do_POST(self) -> None:
            self._do(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _do(self, body: Any) -> None:
            status, said = 401, {"message": "Invalid API key"}
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                status, said = held.answer(self.command, unquote(urlsplit(self.path).path), body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
