"""Every form of plugin gives the same streams, and bad calls are refused before anything runs."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from apexstream.core.chunk import CHUNK_BYTES_MAX
from apexstream.plugin import (
    ActionContext,
    BasePlugin,
    CancellationToken,
    Chunk,
    InvalidChunk,
    InvalidParameters,
    Plugin,
    PluginFailed,
    PluginManager,
    ProgressUpdate,
    UnknownAction,
)
from apexstream.plugin.values import encode_value


def manager(**plugins: BasePlugin) -> PluginManager:
    made = PluginManager([])
    for name, plugin in plugins.items():
        made.add(name, plugin)
    return made


async def collect(plugins: PluginManager, action: str, params: dict[str, Any] | None = None, **more: Any) -> list[Any]:
    return [value async for value in plugins.run("p", action, params, **more)]


class Specified(BasePlugin):
    """The interface as specified."""

    def get_actions(self) -> list[str]:
        return ["count"]

    async def execute_action_stream(self, action_name, params=None, progress_callback=None, cancellation_token=None):
        for number in range((params or {}).get("n", 3)):
            if cancellation_token and cancellation_token.is_cancelled:
                return
            if progress_callback:
                progress_callback(ProgressUpdate(percentage=number * 10.0, message="counting", status="running"))
            yield {"number": number}


async def test_the_specified_interface_streams():
    plugins = manager(p=Specified())
    seen: list[ProgressUpdate] = []
    assert await collect(plugins, "count", {"n": 2}, progress_callback=seen.append) == [{"number": 0}, {"number": 1}]
    assert [update.percentage for update in seen] == [0.0, 10.0]
    assert plugins.streams("p", "count")


async def test_a_cancelled_token_stops_the_specified_plugin():
    token = CancellationToken()
    token.cancel("enough")
    assert await collect(manager(p=Specified()), "count", cancellation_token=token) == []


async def test_a_plugin_with_only_execute_action_is_a_stream_of_one_chunk():
    class Whole(BasePlugin):
        def get_actions(self) -> list[str]:
            return ["add"]

        async def execute_action(self, action_name, params=None):
            return params["a"] + params["b"]

    plugins = manager(p=Whole())
    assert await collect(plugins, "add", {"a": 1, "b": 2}) == [3]
    assert not plugins.streams("p", "add")


async def test_a_plain_execute_action_runs_in_a_thread():
    class Blocking(BasePlugin):
        def get_actions(self) -> list[str]:
            return ["where"]

        def execute_action(self, action_name, params=None):
            return threading.current_thread() is threading.main_thread()

    assert await collect(manager(p=Blocking()), "where") == [False]


async def test_a_plain_generator_streams_from_its_own_thread_and_is_closed_there():
    threads: list[threading.Thread] = []

    class Generating(BasePlugin):
        def get_actions(self) -> list[str]:
            return ["go"]

        def execute_action_stream(self, action_name, params=None, progress_callback=None, cancellation_token=None):
            try:
                threads.append(threading.current_thread())
                yield 1
                yield 2
            finally:
                threads.append(threading.current_thread())

    run = manager(p=Generating()).run("p", "go")
    assert await anext(run) == 1
    await run.aclose()
    assert len(threads) == 2
    assert threads[0] is threads[1] is not threading.main_thread()


@pytest.mark.parametrize("form", ["async generator", "generator", "coroutine", "function"])
async def test_every_form_of_decorated_function_gives_its_result(form: str):
    plugin = Plugin("p")

    async def async_generator(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    def generator(n: int) -> Iterator[int]:
        yield from range(n)

    async def coroutine(n: int) -> list[int]:
        return list(range(n))

    def function(n: int) -> list[int]:
        return list(range(n))

    chosen = {"async generator": async_generator, "generator": generator, "coroutine": coroutine, "function": function}[
        form
    ]
    chosen.__name__ = "go"
    plugin.action(chosen)
    plugins = manager(p=plugin)
    streams = "generator" in form
    assert plugins.streams("p", "go") is streams
    assert await collect(plugins, "go", {"n": 3}) == ([0, 1, 2] if streams else [[0, 1, 2]])


def example() -> Plugin:
    plugin = Plugin("p", summary="an example")

    @dataclass
    class Area:
        width: int
        height: int = 1

    @plugin.action
    async def run(
        ctx: ActionContext,
        name: str,
        times: Annotated[int, msgspec.Meta(ge=1, description="how often")] = 3,
        root: Path = Path(),
        area: Area | None = None,
        tags: list[str] = [],  # noqa: B006 - what authors write; each run gets its own copy
    ) -> AsyncIterator[Any]:
        """Say it.

        Details that the summary leaves out.
        """
        tags.append(name)
        await ctx.progress(50, "half")
        for _ in range(times):
            yield [name, str(root), area and area.width, tags]

    return plugin


async def test_typed_parameters_arrive_converted_and_defaults_are_fresh_each_time():
    plugins = manager(p=example())
    for _ in range(2):
        got = await collect(plugins, "run", {"name": "x", "times": 1, "root": "/tmp", "area": {"width": 2}})
        assert got == [["x", "/tmp", 2, ["x"]]]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "missing required field `name`"),
        ({"name": 1}, "$.name: Expected `str`, got `int`"),
        ({"name": "x", "nmae": 1}, "unknown field `nmae`"),
        ({"name": "x", "times": 0}, "$.times: Expected `int` >= 1"),
        ({"name": "x", "area": {"width": "wide"}}, "$.area.width"),
        ({"name": "x", "root": 3}, "Expected `Path`, got `int`"),
    ],
)
async def test_parameters_that_do_not_fit_are_refused_before_the_action_runs(params: dict[str, Any], told: str):
    with pytest.raises(InvalidParameters) as caught:
        await collect(manager(p=example()), "run", params)
    assert told in str(caught.value)
    assert "name, times?, root?, area?, tags?" in str(caught.value)


def test_the_schema_says_what_the_signature_says():
    ((_, spec),) = manager(p=example()).actions()
    assert spec.summary == "Say it."
    assert spec.params_schema["required"] == ["name"]
    assert spec.params_schema["additionalProperties"] is False
    assert spec.params_schema["properties"]["times"] == {
        "type": "integer",
        "minimum": 1,
        "description": "how often",
        "default": 3,
    }
    assert spec.params_schema["properties"]["root"]["format"] == "path"


@pytest.mark.parametrize(
    "signature", ["def run(n): ...", "def run(*n: int): ...", "def run(**n: int): ...", "def run(n: object()): ..."]
)
def test_an_action_that_cannot_be_described_is_refused_when_it_is_defined(signature: str):
    scope: dict[str, Any] = {}
    exec(signature, scope)
    with pytest.raises(TypeError):
        Plugin("p").action(scope["run"])


def test_unknown_names_are_refused_with_what_there_is():
    plugins = manager(p=example())
    with pytest.raises(UnknownAction, match="Known plugins: p"):
        plugins.find("q", "run")
    with pytest.raises(UnknownAction, match="Known actions: run"):
        plugins.find("p", "walk")


def test_a_plugin_that_fails_at_import_leaves_the_others_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_plugin_for_test.py").write_text("import json\nraise RuntimeError('no licence')\n")
    (tmp_path / "good_plugin_for_test.py").write_text("from apexstream.plugin import Plugin\nplugin = Plugin('good')\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = PluginManager(
        [
            EntryPoint("broken", "broken_plugin_for_test:plugin", "apexstream.plugins"),
            EntryPoint("good", "good_plugin_for_test:plugin", "apexstream.plugins"),
            EntryPoint("wrong", "json:dumps", "apexstream.plugins"),
        ]
    )
    assert list(plugins.plugins) == ["good"]
    assert plugins.broken["broken"] == "RuntimeError: no licence (broken_plugin_for_test.py:2)"
    assert "not a Plugin or a BasePlugin" in plugins.broken["wrong"]
    with pytest.raises(PluginFailed, match="no licence"):
        plugins.find("broken", "x")


async def test_what_a_plugin_yielded_before_it_raised_is_kept_and_its_source_is_closed():
    closed = []
    plugin = Plugin("p")

    @plugin.action
    async def fail() -> AsyncIterator[int]:
        try:
            yield 1
            raise OSError("disk")
        finally:
            closed.append(True)

    run = manager(p=plugin).run("p", "fail")
    assert await anext(run) == 1
    with pytest.raises(OSError, match="disk"):
        await anext(run)
    assert closed == [True]


@pytest.mark.parametrize(
    ("value", "payload", "content_type"),
    [
        ({"a": 1}, b'{"a":1}', ""),
        (None, b"null", ""),
        ("text", b'"text"', ""),
        (b"\x00\xff", b"\x00\xff", "application/octet-stream"),
        (Chunk("# Hi", "text/markdown"), b"# Hi", "text/markdown"),
        (Chunk(b"png", "image/png"), b"png", "image/png"),
        (Chunk({"a": 1}), b'{"a":1}', ""),
        (ProgressUpdate(5, "m"), b'{"percentage":5.0,"message":"m","status":"running"}', ""),
    ],
)
def test_values_become_payloads(value: Any, payload: bytes, content_type: str):
    if isinstance(value, ProgressUpdate):
        payload = payload.replace(b"5.0", b"5")
    assert encode_value(value) == (payload, content_type)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), {1, object()}, "\ud800", nested(100_000), b"x" * (CHUNK_BYTES_MAX + 1), Chunk({"a": 1}, "text/plain")],
)
def test_what_cannot_be_a_chunk_is_one_clear_error(value: Any):
    with pytest.raises(InvalidChunk):
        encode_value(value)


async def test_progress_may_be_reported_from_a_thread_and_is_awaitable():
    plugin, seen = Plugin("p"), []

    async def report(update: ProgressUpdate) -> None:
        seen.append(update.message)

    @plugin.action
    async def go(ctx: ActionContext) -> AsyncIterator[int]:
        await ctx.progress(1, "one")
        yield 1

    await asyncio.wait_for(collect(manager(p=plugin), "go", progress_callback=report), 5)
    assert seen == ["one"]
