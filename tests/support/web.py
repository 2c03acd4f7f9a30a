"""The TypeScript client, run by Node as its sources are."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

WEB = Path(__file__).parents[2] / "services" / "web"
DRIVE = WEB / "client" / "test" / "drive.ts"
TIMEOUT_S = 120


@cache
def web_build() -> ModuleType:
    """``services/web/build.py``, which knows where Node is."""
    spec = importlib.util.spec_from_file_location("web_build", WEB / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["web_build"] = module
    spec.loader.exec_module(module)
    return module


def command(*arguments: str) -> list[str]:
    """What runs the driver of the client's tests."""
    build = web_build()
    return [str(build.find_node(build.NODE_FOR_CHECK).program), str(DRIVE), *arguments]


async def drive(*arguments: str, **environ: str) -> list[dict[str, Any]]:
    """What the driver prints, once it has ended."""
    done = await asyncio.to_thread(
        subprocess.run,
        command(*arguments),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@asynccontextmanager
async def driven(*arguments: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """What the driver prints, as it comes."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments), stdout=asyncio.subprocess.PIPE, limit=8 * 1024 * 1024
    )
    assert process.stdout is not None

    async def lines() -> AsyncIterator[dict[str, Any]]:
        async for line in process.stdout:
            yield json.loads(line)
        assert await process.wait() == 0

    try:
        yield lines()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
