"""Celery with Redis on this machine, the way its documentation sets up priorities: what the dispatcher is compared with.

Celery is no dependency of the project: it is installed into a folder of its own for the run. Where that or ``redis-server``
is not there, the comparison is left out, and says so.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

WORKERS = 2
START_S_MAX = 60.0

_APP = """
import os
from celery import Celery
url = os.environ["BENCH_REDIS"]
app = Celery("app", broker=url, backend=url)
app.conf.broker_transport_options = {"queue_order_strategy": "priority", "priority_steps": [0, 5, 9], "sep": ":"}
app.conf.worker_prefetch_multiplier = 1  # else low tasks are fetched before high ones come
app.conf.task_acks_late = True
app.conf.worker_hijack_root_logger = False

@app.task
def count(n):
    return n
"""

_CLIENT = """
import json, sys, time
from app import count

def rate(n):
    began = time.perf_counter()
    results = [count.apply_async((0,), priority=5) for _ in range(n)]
    for result in results:
        result.get(timeout=300)
    return n / (time.perf_counter() - began)

def latencies(n, backlog):
    behind = [count.apply_async((0,), priority=9, ignore_result=True) for _ in range(backlog)]
    took = []
    for _ in range(n):
        began = time.perf_counter()
        count.apply_async((0,), priority=0).get(timeout=300, interval=0.001)
        took.append((time.perf_counter() - began) * 1000)
        time.sleep(0.01)
    return took

rate(50)
for line in sys.stdin:
    asked = json.loads(line)
    answer = rate(asked["tasks"]) if asked["what"] == "rate" else latencies(asked["tasks"], asked["backlog"])
    print(json.dumps(answer), flush=True)
"""


class Celery:
    """A client of a running worker, in a process of its own."""

    def __init__(self, client: asyncio.subprocess.Process) -> None:
        self._client = client

    async def rate(self, tasks: int) -> float:
        """Tasks a second, from the first submission to the last result."""
        return float(await self._ask({"what": "rate", "tasks": tasks}))

    async def latencies(self, tasks: int, backlog: int) -> list[float]:
        """Milliseconds from submission to result of urgent tasks, one after the other, behind ``backlog`` others."""
        return list(await self._ask({"what": "latencies", "tasks": tasks, "backlog": backlog}))

    async def _ask(self, question: dict[str, Any]) -> Any:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        self._client.stdin.write(json.dumps(question).encode() + b"\n")
        await self._client.stdin.drain()
        line = await asyncio.wait_for(self._client.stdout.readline(), 300)
        if not line:
            raise RuntimeError("the Celery client has died; its errors are above")
        return json.loads(line)


@asynccontextmanager
async def celery() -> AsyncIterator[Celery | str]:
    """A Redis, a worker with two processes and a client; or why there is none."""
    if shutil.which("redis-server") is None:
        yield "there is no redis-server (Debian: apt-get install redis-server)"
        return
    with TemporaryDirectory() as folder:
        python, why = await asyncio.to_thread(_install, Path(folder))
        if why:
            yield why
            return
        async with _running(Path(folder), python) as client:
            yield Celery(client)


def _install(folder: Path) -> tuple[str, str]:
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "celery[redis]"]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=240)
    return python, "" if done.returncode == 0 else f"Celery could not be installed: {done.stderr.strip()[-200:]}"


@asynccontextmanager
async def _running(folder: Path, python: str) -> AsyncIterator[asyncio.subprocess.Process]:
    (folder / "app.py").write_text(_APP)
    (folder / "client.py").write_text(_CLIENT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    started = []
    try:
        started.append(await _start("redis-server", *options, stdout=subprocess.DEVNULL))
        await _listening(port)
        worker = ["-m", "celery", "-A", "app", "worker", "-c", str(WORKERS), "-l", "WARNING", "--without-gossip"]
        more = {"cwd": folder, "env": environ, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started.append(await _start(python, *worker, "--without-mingle", **more))
        client = await _start(
            python, "client.py", cwd=folder, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(client)
        yield client
    finally:
        for process in reversed(started):
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def _start(program: str, *arguments: str, **more: Any) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(program, *arguments, **more)


async def _listening(port: int) -> None:
    async with asyncio.timeout(START_S_MAX):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return
