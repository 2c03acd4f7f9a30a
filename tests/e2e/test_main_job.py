"""The main job on real input: the same chunks in the topic, on the WebSocket and in the terminal."""

import asyncio
import os
import secrets
import subprocess
import sys
import sysconfig
from pathlib import Path

import msgspec
from tests.support.system import processes

from apexstream.client import Client, Complete, Update
from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Kind
from apexstream.core.fold import StreamFold, Verdict
from apexstream.log.fetcher import LogReader

CORPUS = Path(sysconfig.get_path("stdlib")) / "asyncio"
DEADLINE_S = 120


async def test_topic_websocket_and_terminal_hold_the_same_files_once_and_in_order(kafka: str):
    prefix = f"m{secrets.token_hex(4)}."
    async with asyncio.timeout(DEADLINE_S), processes(kafka, prefix) as url:
        shown = await asyncio.to_thread(run_in_terminal, url)
        stream_id = await newest_stream(url)
        followed = await follow(url, stream_id)
        logged = await read_topic(kafka, f"{prefix}chunks", stream_id)
    files = sorted(
        str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*") if path.is_file() and "__pycache__" not in str(path)
    )
    assert [chunk["path"] for chunk in shown if "path" in chunk] == files
    assert shown == followed == logged


def run_in_terminal(url: str) -> list[dict[str, object]]:
    command = [sys.executable, "-m", "apexstream", "run", "corpus", "analyze", "-p", f"path={CORPUS}", "-o", "json"]
    done = subprocess.run(
        command,
        env={**os.environ, "APEX_GATEWAY_URL": url},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    frames = [msgspec.json.decode(line) for line in done.stdout.splitlines()]
    return [frame["data"] for frame in frames if frame["type"] == "stream_update"]


async def newest_stream(url: str) -> str:
    async with Client(url) as client:
        return (await client.tasks())[0].stream_id


async def follow(url: str, stream_id: str) -> list[object]:
    async with Client(url) as client:
        frames = [frame async for frame in client.follow(stream_id)]
    assert isinstance(frames[-1], Complete)
    return [frame.data for frame in frames if isinstance(frame, Update)]


async def read_topic(bootstrap: str, topic: str, stream_id: str) -> list[object]:
    fold, codec, content = StreamFold(), Codec(), []
    async with LogReader(bootstrap, client_id="test") as reader:
        for partition in await reader.partitions(topic):
            end = (await reader.ends([partition]))[partition]
            async for records, _ in reader.scan(partition, 0, end):
                for record in records:
                    run = codec.decode_run(record.value)
                    if run.stream_id == stream_id and fold.apply(run).verdict is Verdict.ACCEPTED:
                        content += [msgspec.json.decode(c.payload) for c in run.chunks if c.kind is Kind.DATA]
    return content
