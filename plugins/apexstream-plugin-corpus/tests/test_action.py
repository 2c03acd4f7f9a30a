"""The action as a platform runs it: order, totals, progress, cancellation, refused parameters."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from apexstream_plugin_corpus import action
from apexstream_plugin_corpus.action import plugin
from apexstream_plugin_corpus.report import FileReport, Totals
from apexstream_plugin_corpus.summary import ImportedModule, LargeFile, Summary
from apexstream_plugin_corpus.walk import Skip

from apexstream.plugin import ActionSpec, CancellationToken, InvalidParameters, PluginManager, ProgressUpdate

Chunk = FileReport | Summary


@pytest.fixture
def plugins() -> PluginManager:
    manager = PluginManager([])
    manager.add("corpus", plugin)
    return manager


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Seven files: two Python, one C, one text, one binary, one empty, one link."""
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "a.py").write_text('"""Doc."""\nimport os\nimport sys\n\n\ndef f():\n    return os, sys\n')
    (tmp_path / "pkg" / "sub" / "b.py").write_text("# c\nimport os\nfrom . import a\n")
    (tmp_path / "c.c").write_text("#include <stdio.h>\nint main(void) {\n  return 0; // done\n}\n")
    (tmp_path / "notes.txt").write_text("one\n\ntwo\n")
    (tmp_path / "data.bin").write_bytes(b"\0" * 100)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "link.py").symlink_to("pkg/a.py")
    return tmp_path


async def _run(plugins: PluginManager, path: Path, **params: Any) -> list[Chunk]:
    return [chunk async for chunk in plugins.run("corpus", "analyze", {"path": str(path), **params})]


def _files(chunks: list[Chunk]) -> list[FileReport]:
    return [chunk for chunk in chunks if isinstance(chunk, FileReport)]


def _spec(plugins: PluginManager) -> ActionSpec:
    ((_, spec),) = plugins.actions()
    return spec


def test_the_action_describes_itself(plugins: PluginManager) -> None:
    spec = _spec(plugins)

    assert spec.name == "analyze"
    assert spec.summary.startswith("Analyse a directory of source files")
    assert plugins.streams("corpus", "analyze")
    assert spec.params_schema["required"] == ["path"]
    assert all("description" in parameter for parameter in spec.params_schema["properties"].values())


async def test_every_file_has_one_chunk_in_order_and_a_summary_ends_the_stream(
    plugins: PluginManager, tree: Path
) -> None:
    chunks = await _run(plugins, tree)

    assert [report.path for report in _files(chunks)] == [
        "c.c",
        "data.bin",
        "empty.py",
        "link.py",
        "notes.txt",
        "pkg/a.py",
        "pkg/sub/b.py",
    ]
    assert isinstance(chunks[-1], Summary)
    assert len(chunks) == 8


async def test_each_chunk_has_the_totals_of_all_files_up_to_it(plugins: PluginManager, tree: Path) -> None:
    reports = _files(await _run(plugins, tree))

    for number, report in enumerate(reports, 1):
        so_far = reports[:number]
        assert report.totals == Totals(
            files=number,
            skipped=sum(one.skipped is not None for one in so_far),
            bytes=sum(one.bytes for one in so_far),
            lines=sum(one.lines for one in so_far),
            code=sum(one.code for one in so_far),
            comment=sum(one.comment for one in so_far),
            blank=sum(one.blank for one in so_far),
        )


async def test_the_summary_adds_up_by_language_size_and_import(plugins: PluginManager, tree: Path) -> None:
    *reports, summary = await _run(plugins, tree)

    assert isinstance(summary, Summary)
    assert isinstance(reports[-1], FileReport)
    assert summary.totals == reports[-1].totals
    assert [(of.language, of.files, of.code, of.comment, of.blank) for of in summary.languages] == [
        ("Python", 3, 6, 2, 2),
        ("C", 1, 4, 0, 0),
        ("Text", 1, 2, 0, 1),
    ]
    assert summary.skipped == {Skip.BINARY: 1, Skip.SYMLINK: 1}
    assert summary.largest_files[:2] == (LargeFile("data.bin", 100, 0), LargeFile("pkg/a.py", 62, 7))
    assert [long.function.name for long in summary.longest_functions] == ["main", "f"]
    assert summary.most_imported == (
        ImportedModule("os", 2),
        ImportedModule("stdio.h", 1),
        ImportedModule("sys", 1),
    )


async def test_every_chunk_is_json_a_viewer_can_read(plugins: PluginManager, tree: Path) -> None:
    first, *_, last = [msgspec.json.decode(msgspec.json.encode(chunk)) for chunk in await _run(plugins, tree)]

    assert first == {
        "kind": "file",
        "path": "c.c",
        "language": "C",
        "bytes": 58,
        "lines": 4,
        "code": 4,
        "comment": 0,
        "blank": 0,
        "longest_function": {"name": "main", "lines": 3, "start_line": 2},
        "imports": ["stdio.h"],
        "skipped": None,
        "note": None,
        "totals": {"files": 1, "skipped": 0, "bytes": 58, "lines": 4, "code": 4, "comment": 0, "blank": 0},
    }
    assert last["kind"] == "summary"
    assert last["skipped"] == {"binary": 1, "symlink": 1}


async def test_a_second_run_gives_the_same_stream(plugins: PluginManager, tree: Path) -> None:
    assert await _run(plugins, tree) == await _run(plugins, tree)


async def test_an_empty_directory_gives_a_summary_only(plugins: PluginManager, tmp_path: Path) -> None:
    (summary,) = await _run(plugins, tmp_path)

    assert isinstance(summary, Summary)
    assert summary.totals == Totals()


@pytest.mark.parametrize(
    ("params", "paths"),
    [
        ({"include": ["*.py"]}, ["empty.py", "link.py", "pkg/a.py", "pkg/sub/b.py"]),
        ({"include": ["pkg"]}, ["pkg/a.py", "pkg/sub/b.py"]),
        ({"include": ["*.py"], "exclude": ["sub", "link.py"]}, ["empty.py", "pkg/a.py"]),
        ({"limit": 2}, ["c.c", "data.bin"]),
        ({"limit": 2, "include": ["pkg/**"]}, ["pkg/a.py", "pkg/sub/b.py"]),
        ({"limit": 100, "include": ["nothing"]}, []),
    ],
)
async def test_include_exclude_and_limit_choose_the_files(
    plugins: PluginManager, tree: Path, params: dict[str, Any], paths: list[str]
) -> None:
    assert [report.path for report in _files(await _run(plugins, tree, **params))] == paths


async def test_what_is_no_source_is_left_out_unless_asked_for(plugins: PluginManager, tree: Path) -> None:
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "a.pyc").write_bytes(b"\0")

    assert len(_files(await _run(plugins, tree))) == 7
    assert len(_files(await _run(plugins, tree, exclude=[]))) == 8


async def test_followed_links_are_files_like_others(plugins: PluginManager, tree: Path) -> None:
    reports = {report.path: report for report in _files(await _run(plugins, tree, follow_symlinks=True))}

    assert reports["link.py"].skipped is None
    assert reports["link.py"].code == reports["pkg/a.py"].code


async def test_max_file_bytes_bounds_what_is_read(plugins: PluginManager, tmp_path: Path) -> None:
    (tmp_path / "big.py").write_text("x = 1\n" * 1_000)

    (report,) = _files(await _run(plugins, tmp_path, max_file_bytes=1_024))

    assert report.note == "partial: the first 1020 of 6000 bytes"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing", "No such file or directory"),
        ("notes.txt", "Not a directory"),
        ("notes.txt/below", "Not a directory"),
        ("n" * 300, "File name too long"),
        ("nul\0byte", "embedded null byte"),
    ],
)
async def test_a_path_that_is_no_directory_is_refused_before_anything_is_yielded(
    plugins: PluginManager, tree: Path, path: str, why: str
) -> None:
    chunks: list[Chunk] = []

    with pytest.raises(InvalidParameters, match=why) as refused:
        chunks.extend(await _run(plugins, tree / path))

    assert chunks == []
    assert refused.value.where == "corpus.analyze $.path"


async def test_a_fifo_as_path_is_refused_and_not_opened(plugins: PluginManager, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(InvalidParameters, match="Not a directory"):
        await _run(plugins, tmp_path / "fifo")


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"path": ""},
        {"path": 1},
        {"path": "x", "limit": -1},
        {"path": "x", "max_file_bytes": 0},
        {"path": "x", "i": 1},
    ],
)
def test_parameters_out_of_bounds_are_refused_before_the_action_runs(
    plugins: PluginManager, params: dict[str, Any]
) -> None:
    with pytest.raises(InvalidParameters):
        plugins.validate("corpus", "analyze", params)


async def test_too_many_files_are_refused_rather_than_cut(
    plugins: PluginManager, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action, "FILES_MAX", 6)

    with pytest.raises(InvalidParameters, match="more than 6 files"):
        await _run(plugins, tree)
    assert len(_files(await _run(plugins, tree, limit=6))) == 6


async def test_a_file_that_vanishes_in_the_middle_keeps_its_place(plugins: PluginManager, tree: Path) -> None:
    found: list[FileReport] = []
    async for chunk in plugins.run("corpus", "analyze", {"path": str(tree)}):
        if isinstance(chunk, FileReport):
            found.append(chunk)
            (tree / "pkg" / "sub" / "b.py").unlink(missing_ok=True)

    assert found[-1].path == "pkg/sub/b.py"
    assert found[-1].skipped is Skip.VANISHED


async def test_progress_never_goes_back_and_ends_at_a_hundred(plugins: PluginManager, tree: Path) -> None:
    updates: list[ProgressUpdate] = []

    async def note(update: ProgressUpdate) -> None:
        updates.append(update)

    async for _ in plugins.run("corpus", "analyze", {"path": str(tree)}, note):
        pass

    percentages = [update.percentage for update in updates if update.percentage is not None]
    assert percentages == sorted(percentages)
    assert percentages[-1] == 100
    assert updates[-1].message == "7 of 7 files: pkg/sub/b.py"


async def test_progress_counts_bytes_and_not_files(plugins: PluginManager, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 899)
    (tmp_path / "b.txt").write_bytes(b"x" * 99)
    updates: list[ProgressUpdate] = []

    async def note(update: ProgressUpdate) -> None:
        updates.append(update)

    async for _ in plugins.run("corpus", "analyze", {"path": str(tmp_path)}, note):
        pass

    assert [update.percentage for update in updates] == [90.0, 100.0]


async def test_thousands_of_files_give_no_more_than_a_hundred_updates(plugins: PluginManager, tmp_path: Path) -> None:
    for number in range(1_000):
        (tmp_path / f"{number}.txt").write_bytes(b"x")
    updates: list[ProgressUpdate] = []

    async def note(update: ProgressUpdate) -> None:
        updates.append(update)

    async for _ in plugins.run("corpus", "analyze", {"path": str(tmp_path)}, note):
        pass

    assert len(updates) == 100


async def test_a_cancelled_task_stops_at_the_next_file_and_has_no_summary(plugins: PluginManager, tree: Path) -> None:
    token = CancellationToken()
    chunks: list[Chunk] = []

    async for chunk in plugins.run("corpus", "analyze", {"path": str(tree)}, cancellation_token=token):
        chunks.append(chunk)
        if len(chunks) == 3:
            token.cancel()

    assert [type(chunk) for chunk in chunks] == [FileReport] * 3


async def test_a_task_cancelled_before_it_starts_yields_nothing(plugins: PluginManager, tree: Path) -> None:
    token = CancellationToken()
    token.cancel()

    run = plugins.run("corpus", "analyze", {"path": str(tree)}, cancellation_token=token)

    assert [chunk async for chunk in run] == []


async def test_a_stream_that_is_closed_early_leaves_no_task_behind(plugins: PluginManager, tree: Path) -> None:
    before = asyncio.all_tasks()
    run = plugins.run("corpus", "analyze", {"path": str(tree)})

    await anext(run)
    await run.aclose()

    assert asyncio.all_tasks() == before


async def test_files_are_analysed_outside_the_event_loop(
    plugins: PluginManager, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[threading.Thread] = set()
    monkeypatch.setattr(action, "analyse", _noting_thread(threads, action.analyse))

    await _run(plugins, tree)

    assert threads
    assert threading.current_thread() not in threads


def _noting_thread(threads: set[threading.Thread], function: Callable[..., FileReport]) -> Callable[..., FileReport]:
    def call(*arguments: Any, **named: Any) -> FileReport:
        threads.add(threading.current_thread())
        return function(*arguments, **named)

    return call


async def test_a_defect_in_the_analysis_of_one_file_costs_that_file_only(
    plugins: PluginManager, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_text: str, _code: str, _pattern: str) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("apexstream_plugin_corpus.analysis.parse", fail)

    reports = {report.path: report for report in _files(await _run(plugins, tree))}

    assert reports["pkg/a.py"].skipped is Skip.FAILED
    assert reports["pkg/a.py"].note == "ZeroDivisionError: a defect"
    assert reports["c.c"].skipped is None
    assert len(reports) == 7
