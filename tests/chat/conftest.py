"""One ApexStream for all chats, and Node with the libraries of ``package.json``."""

import asyncio
import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.integration.conftest import Apex, running
from tests.support.web import web_build

from apexstream.runtime.settings import Settings

FOLDER = Path(__file__).resolve().parent
RUN_TIMEOUT_S = 120

Run = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apex(kafka: str) -> AsyncIterator[Apex]:
    async with running(Settings(bootstrap_servers=kafka, topic_prefix=f"c{secrets.token_hex(4)}.", port=0)) as started:
        yield started


@pytest.fixture(scope="session")
def node() -> str:
    """The Node to run with; the pinned packages are installed once for each lock file."""
    build = web_build()
    found = build.find_node(build.NODE_FOR_CHECK)
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    stamp = FOLDER / "node_modules" / ".installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        environment = os.environ | {"PATH": os.pathsep.join([str(found.program.parent), os.environ.get("PATH", "")])}
        subprocess.run([*found.npm, "ci", "--prefer-offline"], cwd=FOLDER, env=environment, check=True, timeout=600)
        stamp.write_text(wanted)
    return str(found.program)


@pytest.fixture
def run(apex: Apex, node: str) -> Run:
    """Run a case of ``chat.mjs`` and give what it prints."""

    async def run(case: str, **given: Any) -> Any:
        command = [node, str(FOLDER / "chat.mjs"), apex.url, case, json.dumps(given)]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
