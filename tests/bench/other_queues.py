"""Queues that people use in Python, with Redis on this machine, each the way its documentation sets up priorities: what the
dispatcher is compared with.

They are no dependencies of the project: each is installed into a folder of its own for the run. Where that or ``redis-server``
is not there, the comparison is left out, and says so.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

START_S_MAX = 60.0
INSTALL_S_MAX = 240.0
ANSWER_S_MAX = 300.0
QUIET_S_MAX = 30.0

_CELERY_APP = """
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

_CELERY_CLIENT = """
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

_TASKIQ_APP = """
import os
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend
url = os.environ["BENCH_REDIS"]

def broker(name):
    results = RedisAsyncResultBackend(url, result_ex_time=600)
    return ListQueueBroker(url, queue_name=name).with_result_backend(results)

usual, urgent = broker("usual"), broker("urgent")

async def count(n):
    return n

count_usual, count_urgent = usual.task(task_name="count")(count), urgent.task(task_name="count")(count)
"""

_TASKIQ_CLIENT = """
import asyncio, json, sys, time
from app import count_urgent, count_usual, urgent, usual

async def submit(n):
    room = asyncio.Semaphore(64)
    async def one():
        async with room:
            return await count_usual.kiq(0)
    return await asyncio.gather(*(one() for _ in range(n)))

async def rate(n):
    began = time.perf_counter()
    for task in await submit(n):
        await task.wait_result(check_interval=0.005, timeout=300)
    return n / (time.perf_counter() - began)

async def latencies(n, backlog):
    await submit(backlog)
    took = []
    for _ in range(n):
        began = time.perf_counter()
        await (await count_urgent.kiq(0)).wait_result(check_interval=0.001, timeout=300)
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.01)
    return took

async def main():
    await usual.startup()
    await urgent.startup()
    await rate(50)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        done = rate(asked["tasks"]) if asked["what"] == "rate" else latencies(asked["tasks"], asked["backlog"])
        print(json.dumps(await done), flush=True)

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A queue: what it is called, what is installed, its app and client, and its workers' arguments to ``python -m``."""

    name: str
    packages: tuple[str, ...]
    app: str
    client: str
    workers: tuple[str, ...]


KINDS = (
    Kind(
        name="Celery with Redis, two processes",
        packages=("celery[redis]",),
        app=_CELERY_APP,
        client=_CELERY_CLIENT,
        workers=("celery -A app worker -c 2 -l WARNING --without-gossip --without-mingle",),
    ),
    Kind(
        name="taskiq with Redis, a process for each of two queues",  # it has no priorities: the urgent have their own worker
        packages=("taskiq", "taskiq-redis"),
        app=_TASKIQ_APP,
        client=_TASKIQ_CLIENT,
        workers=tuple(f"taskiq worker app:{queue} --workers 1 --log-level WARNING" for queue in ("usual", "urgent")),
    ),
)


class OtherQueue:
    """A client of running workers, in a process of its own."""

    def __init__(self, name: str, client: asyncio.subprocess.Process) -> None:
        self.name = name
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
        line = await asyncio.wait_for(self._client.stdout.readline(), ANSWER_S_MAX)
        if not line:
            raise RuntimeError(f"the client of {self.name} has died; its errors are above")
        return json.loads(line)


@asynccontextmanager
async def other_queue(kind: Kind) -> AsyncIterator[OtherQueue | str]:
    """A Redis, workers and a client; or why there is none."""
    if shutil.which("redis-server") is None:
        yield f"{kind.name}: there is no redis-server (Debian: apt-get install redis-server)"
        return
    with TemporaryDirectory() as folder:
        python, why = await asyncio.to_thread(_install, Path(folder), kind.packages)
        if why:
            yield f"{kind.name}: {why}"
            return
        async with _running(Path(folder), python, kind) as client:
            yield OtherQueue(kind.name, client)


def _install(folder: Path, packages: Sequence[str]) -> tuple[str, str]:
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False, timeout=INSTALL_S_MAX)
    return python, "" if done.returncode == 0 else f"it could not be installed: {done.stderr.strip()[-200:]}"


@asynccontextmanager
async def _running(folder: Path, python: str, kind: Kind) -> AsyncIterator[asyncio.subprocess.Process]:
    (folder / "app.py").write_text(kind.app)
    (folder / "client.py").write_text(kind.client)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(python).parent}:/usr/bin:/bin"
    environ = {"BENCH_REDIS": f"redis://127.0.0.1:{port}/0", "PATH": path, "HOME": str(folder)}
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    more: dict[str, Any] = {"cwd": folder, "env": environ}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = []
    try:
        started.append(await _start("redis-server", *options, stdout=subprocess.DEVNULL))
        await _listening(port)
        for command in kind.workers:
            worker = await _start(python, "-m", *command.split(), **more, **silent)
            started.append(worker)
        client = await _start(python, "client.py", **more, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(client)
        yield client
    finally:
        for process in reversed(started):
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), QUIET_S_MAX)


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
