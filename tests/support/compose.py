"""The project's compose file, brought up as a project of its own with ports and secrets of its own, and taken down whole."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from tests.support.system import free_ports

ROOT = Path(__file__).parents[2]
IMAGE = "apexstream:test"
PROMETHEUS_IMAGE = "apexstream-prometheus:test"
# A volume takes the owner of the folder that it covers. The official image has one of nobody's; one that a distribution's
# package was put into may have none, and Prometheus could not write.
PROMETHEUS = f"""FROM {os.environ.get("PROMETHEUS_IMAGE", "prom/prometheus:latest")}
USER root
RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
"""
UP_TIMEOUT_S = 240.0
COMMAND_TIMEOUT_S = 120.0


def missing() -> str:
    """Why containers cannot be run here; empty if they can."""
    if shutil.which("docker") is None:
        return "there is no docker on the PATH"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        if subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_TIMEOUT_S).returncode:
            return f"`{' '.join(command)}` fails"
    return ""


def build_image() -> None:
    """Build the image as ``make image`` does, and Prometheus', both under names of their own."""
    extra = os.environ.get("DOCKER_BUILD", "").split()
    command = ["docker", "build", "--quiet", *extra, "-f", "deploy/Dockerfile", "-t", IMAGE, "."]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    command = ["docker", "build", "--quiet", *extra, "-t", PROMETHEUS_IMAGE, "-"]
    subprocess.run(command, input=PROMETHEUS.encode(), check=True, timeout=300)


@dataclass(frozen=True, slots=True)
class Composed:
    """A project that is up. ``url`` is the gateway's, whatever becomes of its container; ``token`` one that it accepts."""

    project: str
    files: tuple[str, ...]
    environ: Mapping[str, str]
    token: str
    services: tuple[str, ...]

    @property
    def url(self) -> str:
        """Where the gateway is."""
        return f"http://{self.environ['APEX_PUBLISH']}"

    def compose(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run ``docker compose`` on the project; what it printed."""
        command = [
            "docker",
            "compose",
            "-p",
            self.project,
            *(f for file in self.files for f in ("-f", file)),
            *arguments,
        ]
        done = subprocess.run(
            command, cwd=ROOT, env=dict(self.environ), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-3000:]}")
        return done.stdout

    def states(self) -> dict[str, str]:
        """The health of every running container, by service."""
        rows = [json.loads(line) for line in self.compose("ps", "--format", "json").splitlines()]
        return {row["Service"]: row["Health"] or row["State"] for row in rows}

    def kill(self, service: str) -> None:
        """SIGKILL the container, as a machine that runs out of memory would."""
        self.compose("kill", "-s", "SIGKILL", service)

    def start(self, service: str) -> None:
        """Start it again."""
        self.compose("start", service)

    def targets(self) -> dict[str, str]:
        """What Prometheus says of each target: service to up, down or unknown."""
        at = self.environ["PROMETHEUS_PUBLISH"]
        try:
            answer = urlopen(f"http://{at}/api/v1/targets?state=active", timeout=10)
        except OSError:
            return {}  # it is still starting
        with answer:
            found = json.load(answer)["data"]["activeTargets"]
        return {target["labels"]["job"].removeprefix("apexstream-"): target["health"] for target in found}


@contextmanager
def composed(folder: Path, *, files: Sequence[str], services: Sequence[str]) -> Iterator[Composed]:
    """``services`` of the compose ``files``, healthy; removed with all their data at the end."""
    gateway, prometheus = free_ports(
        2
    )  # chosen here and not by Docker, which takes others when a container starts again
    environ = {**os.environ, "APEX_IMAGE": IMAGE, "PROMETHEUS_IMAGE": PROMETHEUS_IMAGE, "SECRETS": str(folder)}
    environ |= {"APEX_PUBLISH": f"127.0.0.1:{gateway}", "PROMETHEUS_PUBLISH": f"127.0.0.1:{prometheus}"}
    token = _secrets(folder)
    project = f"apexstream-{secrets.token_hex(3)}"
    up = Composed(project, tuple(files), environ, token, tuple(services))
    try:
        up.compose("up", "--detach", "--no-build", "--wait", *services, timeout_s=UP_TIMEOUT_S)
        yield up
    except RuntimeError as problem:
        logs = up.compose("logs", "--tail", "20")
        raise RuntimeError(f"{problem}\n{logs[-6000:]}") from problem
    finally:
        up.compose("--profile", "*", "down", "--volumes", "--timeout", "5")


def eventually(what: str, holds: object, *, timeout_s: float) -> None:
    """Ask ``holds`` until it says yes; the containers have no event to wait for."""
    assert callable(holds)
    end = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.5)


def _secrets(folder: Path) -> str:
    """Every secret of the compose file, as ``make up`` makes them, and a token."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # the token's container runs as us, the services as somebody else
    make = ["docker", "run", "--rm", "--user", f"{os.getuid()}:{os.getgid()}", "-e", "APEX_HOME=/keys"]
    token = subprocess.run(
        [*make, "-v", f"{folder}:/keys", IMAGE, "token", "--hours", "2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    subprocess.run(["sh", "deploy/secrets.sh", str(folder)], cwd=ROOT, check=True, timeout=COMMAND_TIMEOUT_S)
    return token.stdout.strip()
