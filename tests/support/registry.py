"""A real schema registry: Apicurio's, on the platform's own JVM, with its storage in memory."""

import hashlib
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from jgo.maven import MavenContext
from tests.support.system import free_ports

from apexstream.log.jars import exclusive, java
from apexstream.runtime.settings import load_settings

VERSION = "2.6.13.Final"
SHA256 = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
START_TIMEOUT_S = 180.0


@contextmanager
def schema_registry() -> Iterator[str]:
    """Run it; the base URL of its Confluent API."""
    program = _installed(load_settings().cache_path / "apicurio")
    (port,) = free_ports(1)
    environ = {**os.environ, "QUARKUS_HTTP_PORT": str(port), "QUARKUS_HTTP_HOST": "127.0.0.1"}
    with tempfile.TemporaryFile() as log:
        command = [str(java()), "-Xmx400m", "-XX:TieredStopAtLevel=1", "-jar", program]
        running = subprocess.Popen(command, cwd=program.parent, env=environ, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        try:
            _answering(url, running)
            yield url
        finally:
            running.terminate()
            running.wait(30)


def _installed(folder: Path) -> Path:
    """The program's jar, fetched once (140 MB) and checked."""
    program = folder / f"apicurio-registry-app-{VERSION}-runner.jar"
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / ".lock"), tempfile.TemporaryDirectory(dir=folder) as incoming:
        if program.exists():
            return program
        at = MavenContext(repo_cache=incoming).project("io.apicurio", "apicurio-registry-app").at_version(VERSION)
        archive = at.artifact(classifier="all", packaging="tar.gz").resolve()
        with archive.open("rb") as content:
            assert hashlib.file_digest(content, "sha256").hexdigest() == SHA256
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
    return program


def _answering(url: str, running: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        assert running.poll() is None, "the registry ended while it started"
        try:
            with urlopen(f"{url}/subjects", timeout=5):
                return
        except (URLError, OSError):
            assert time.monotonic() < end, "the registry does not answer"
            time.sleep(0.3)
