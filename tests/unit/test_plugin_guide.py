"""The plugin guide's examples are run as they stand: the package is built and installed, commands and doctests compared."""

import doctest
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hatchling.build import build_wheel

from apexstream.core.chunk import CHUNK_BYTES_MAX
from apexstream.plugin.base import ActionSpec
from apexstream.plugin.decorated import Plugin
from apexstream.plugin.values import Chunk, encode_value
from apexstream.runner.attempt import CANCEL_GRACE_S

GUIDE = Path(__file__).parents[2] / "docs" / "plugin-guide.md"
SUPPORT = Path(__file__).parents[1] / "support"
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is (or empty), its text, and the line in the guide it begins at."""

    language: str
    title: str
    text: str
    line: int


def _blocks() -> list[Block]:
    guide = GUIDE.read_text()
    return [
        Block(found[1], found[2] or "", found[3], guide.count("\n", 0, found.start()) + 2)
        for found in _BLOCK.finditer(guide)
    ]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide's package as a wheel, unpacked as an installer would do it: a folder for the module search path."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for block in _blocks():
        if block.title:
            (source / block.title).parent.mkdir(parents=True, exist_ok=True)
            (source / block.title).write_text(block.text)
    before = Path.cwd()
    os.chdir(source)
    try:
        wheel = build_wheel(str(site))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(site / wheel) as packed:
        packed.extractall(site)
    return site


@pytest.fixture
def poems(tmp_path: Path) -> Path:
    """The folder that the guide's commands read; they run in its parent."""
    (tmp_path / "poems").mkdir()
    (tmp_path / "poems" / "a.txt").write_text("An die Musik\n")
    (tmp_path / "poems" / "b.txt").write_text("Der Doppelgaenger\n")
    return tmp_path


def _commands() -> Iterator[tuple[str, str]]:
    """Every command of the guide, and what it prints."""
    for block in _blocks():
        if block.language == "console":
            for command in block.text.split("$ ")[1:]:
                line, _, output = command.partition("\n")
                yield line, output


@pytest.mark.parametrize(("command", "output"), list(_commands()))
def test_a_command_of_the_guide_prints_what_it_says(installed: Path, poems: Path, command: str, output: str) -> None:
    program, *arguments = command.split()
    assert program == "apexstream"
    # Integration tests of the same session put their own plugins on the path; a reader of the guide has none of them.
    paths = [path for path in sys.path if path and not path.startswith(str(SUPPORT))]
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join([str(installed), *paths])}

    done = subprocess.run(
        [sys.executable, "-m", "apexstream", *arguments],
        cwd=poems,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    others = ("compose\t", "corpus\t", "longrun\t", "monitor\t")  # installed here or not
    printed = [line for line in done.stdout.splitlines() if not line.startswith(others)]
    assert printed == output.splitlines()


def test_every_python_example_runs_and_every_doctest_is_true() -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    parser = doctest.DocTestParser()
    failures: list[str] = []
    for block in _blocks():
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(GUIDE), "exec"), names)
        elif block.language == "pycon":
            test = parser.get_doctest(block.text, names, "plugin-guide", str(GUIDE), block.line - 1)
            runner.run(test, out=failures.append, clear_globs=False)
            names.update(test.globs)

    assert not failures, "".join(failures)
    assert runner.tries > 10


def test_the_blocking_example_streams_with_progress() -> None:
    names = _names_of("primes")

    chunks, updates = _run(names["plugin"], "primes", {"below": 20})

    assert chunks == [2, 3, 5, 7, 11, 13, 17, 19]
    assert [update.percentage for update in updates][-1] == 95


def test_the_form_of_chunks_is_as_the_guide_lists_it() -> None:
    assert encode_value({"a": [1, None, True]}) == (b'{"a":[1,null,true]}', "")
    assert encode_value(ActionSpec(name="x"))[1] == ""
    assert encode_value({1, 2})[0] == b"[1,2]"
    assert encode_value(Chunk("# Title", "text/markdown")) == (b"# Title", "text/markdown")
    assert encode_value(Chunk(b"png", "image/png")) == (b"png", "image/png")
    assert encode_value(b"raw") == (b"raw", "application/octet-stream")


def test_the_bounds_are_those_the_guide_names() -> None:
    guide = GUIDE.read_text()

    assert f"at most {CHUNK_BYTES_MAX // 1024} KiB" in guide
    assert f"still running {CANCEL_GRACE_S:.0f} seconds later" in guide


def _names_of(action: str) -> dict[str, Any]:
    (block,) = [block for block in _blocks() if f"def {action}(" in block.text and not block.title]
    names: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block.text, str(GUIDE), "exec"), names)
    return names


def _run(plugin: Plugin, action: str, params: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    updates: list[Any] = []
    result = plugin.execute_action_stream(action, params, updates.append)
    return list(result), updates
