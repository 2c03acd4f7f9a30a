"""The standard library of the running Python: thousands of real files, checked against a second, independent count."""

import io
import os
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from apexstream_plugin_corpus.action import NOT_SOURCE, plugin
from apexstream_plugin_corpus.report import FileReport
from apexstream_plugin_corpus.summary import Summary
from apexstream_plugin_corpus.walk import Skip

from apexstream.plugin import PluginManager

LIBRARY = Path(sysconfig.get_path("stdlib"))
PACKAGES = [
    "asyncio",
    "email",
    "json",
    "concurrent",
    "unittest",
    "test/test_email",
    "test/test_g*.py",
    "test/test_d*.py",
]
# Docstrings of several literals, which the second count takes for code.
UNLIKE = {"test/test_getpath.py"}


async def _run(path: Path, **params: Any) -> tuple[list[FileReport], Summary]:
    manager = PluginManager([])
    manager.add("corpus", plugin)
    chunks = [chunk async for chunk in manager.run("corpus", "analyze", {"path": str(path), **params})]
    summary = chunks.pop()
    assert isinstance(summary, Summary)
    return chunks, summary


def _walked() -> list[str]:
    """Every path below the library, by a walk of its own, in the order of path components."""
    found = []
    for folder, folders, files in os.walk(LIBRARY):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in {*NOT_SOURCE, *links}]
        found += [(Path(folder) / name).relative_to(LIBRARY) for name in files + links if name not in NOT_SOURCE]
    return [path.as_posix() for path in sorted(found, key=lambda path: path.parts)]


async def test_the_whole_library_is_reported_each_file_once_and_in_order() -> None:
    reports, summary = await _run(LIBRARY, max_file_bytes=1_024)  # as little of each file as can be, to be quick

    assert [report.path for report in reports] == _walked()
    assert summary.totals.files == len(reports) > 1_000
    assert {report.skipped for report in reports} <= {None, Skip.BINARY, Skip.SYMLINK}
    assert summary.totals.bytes == sum((LIBRARY / report.path).lstat().st_size for report in reports)


@pytest.fixture(scope="module")
def python_paths() -> list[str]:
    """The files of the chosen packages that are valid Python."""
    chosen = sorted(path for pattern in PACKAGES for path in LIBRARY.glob(pattern))
    files = {file for path in chosen for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return [path.relative_to(LIBRARY).as_posix() for path in sorted(files, key=lambda path: path.parts)]


async def test_packages_of_the_library_are_counted_exactly(python_paths: list[str]) -> None:
    reports, summary = await _run(LIBRARY, include=PACKAGES)

    by_path = {report.path: report for report in reports if report.language == "Python"}
    assert list(by_path) == python_paths
    assert len(by_path) > 150
    differing = {
        path: (counted, recounted)
        for path, report in by_path.items()
        if path not in UNLIKE
        and (counted := (report.code, report.comment, report.blank)) != (recounted := _recount(LIBRARY / path))
    }
    assert differing == {}
    assert summary.totals.lines == sum(report.lines for report in reports)


async def test_functions_and_imports_of_the_library_are_found(python_paths: list[str]) -> None:
    reports, summary = await _run(LIBRARY, include=["asyncio"])

    by_path = {report.path: report for report in reports}
    events = by_path["asyncio/base_events.py"]
    source = (LIBRARY / events.path).read_text().split("\n")
    assert events.longest_function is not None
    assert events.longest_function.name.startswith("BaseEventLoop.")
    assert f"def {events.longest_function.name.rpartition('.')[2]}(" in source[events.longest_function.start_line - 1]
    assert {"collections", "concurrent.futures", "socket", ".log"} - set(events.imports) <= {".log"}
    counted = Counter(module for report in reports for module in report.imports if not module.startswith("."))
    assert {(of.module, of.files) for of in summary.most_imported} <= set(counted.items())
    assert summary.most_imported[0].files == max(counted.values())
    assert set(by_path) >= {path for path in python_paths if path.startswith("asyncio/")}


def _recount(path: Path) -> tuple[int, int, int]:
    """(code, comment, blank) lines of a Python file, token by token; a docstring is a comment where it stands alone."""
    with tokenize.open(path) as file:
        text = file.read()
    lines = text.removesuffix("\n").split("\n") if text else []
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    code: set[int] = set()
    comment: set[int] = set()
    for token, is_docstring in _tokens(text):
        if token.type not in _LAYOUT:
            lines_of_its_kind = comment if token.type == tokenize.COMMENT or is_docstring else code
            lines_of_its_kind.update(range(token.start[0], token.end[0] + 1))
    code = code | set(range(1, len(lines) + 1)) - comment - blank  # a lone backslash gives no token
    return len(code - blank), len(comment - code - blank), len(blank)


_LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}


def _tokens(text: str) -> Iterator[tuple[tokenize.TokenInfo, bool]]:
    """Every token, and whether it is a docstring: a lone string that begins a module, class or function."""
    begins_body, depth = True, 0
    heading: list[str] = []  # the first two tokens of the current statement
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    significant = [token for token in tokens if token.type not in {tokenize.NL, tokenize.COMMENT}]
    following = {id(token): after for token, after in pairwise(significant)}
    for token in tokens:
        is_text = token.type == tokenize.STRING and token.string.lower().startswith(("'", '"', "r", "u"))
        is_lone = is_text and following[id(token)].type in {tokenize.NEWLINE, tokenize.ENDMARKER}
        yield token, begins_body and is_lone
        if token.type == tokenize.OP:
            depth += (token.string in {"(", "[", "{"}) - (token.string in {")", "]", "}"})
        if token.type == tokenize.NEWLINE:
            heading = []
        elif token.type not in _LAYOUT and token.type != tokenize.COMMENT:
            defines = heading[:1] in (["class"], ["def"]) or heading[:2] == ["async", "def"]
            begins_body = defines and depth == 0 and token.string == ":"
            heading = [] if begins_body else [*heading, token.string][:2]
