"""A real Prometheus that scrapes the services of a test."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.support.system import free_ports

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
MISSING = "no prometheus on PATH (Debian: apt-get install prometheus)"
START_TIMEOUT_S = 30


class Prometheus:
    """A running server at ``url``."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=10)

    async def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of an expression now; raises what Prometheus has against it."""
        answer = (await self._http.post("/api/v1/query", data={"query": expr})).json()
        assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    async def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        alerts = (await self._http.get("/api/v1/alerts")).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def exemplars(self, expr: str) -> list[dict[str, Any]]:
        """All exemplars of an expression's series."""
        asked = {"query": expr, "start": "0", "end": "9999999999"}
        found: list[dict[str, Any]] = (await self._http.get("/api/v1/query_exemplars", params=asked)).json()["data"]
        return [exemplar for series in found for exemplar in series["exemplars"]]

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()


@asynccontextmanager
async def prometheus(targets: Mapping[str, int], rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """Scrape ``targets`` (service → port) every second as jobs ``apexstream-<service>``."""
    binary = shutil.which("prometheus")
    assert binary is not None, MISSING
    config: dict[str, Any] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "scrape_configs": [
            {"job_name": f"apexstream-{name}", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for name, port in targets.items()
        ],
    }
    if rules is not None:
        config["rule_files"] = [str(rules)]
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prometheus.yml").write_text(yaml.safe_dump(config))
        process = subprocess.Popen(
            [
                binary,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=error",
            ]
        )
        server = Prometheus(f"http://127.0.0.1:{port}")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await _ready(f"http://127.0.0.1:{port}/-/ready")
            yield server
        finally:
            await server.close()
            process.terminate()
            process.wait(15)


async def _ready(url: str) -> None:
    async with httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
