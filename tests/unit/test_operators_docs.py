"""The examples of the operators' page are run as they stand, and its table names every operator."""

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

from apexstream.plugin import operators as op

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_example_is_true() -> None:
    names: dict[str, Any] = {"__name__": "operators"}
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
    failures: list[str] = []
    for block in _BLOCK.finditer(PAGE.read_text()):
        if block[1] == "python":
            exec(block[2], names)
        else:
            test = doctest.DocTestParser().get_doctest(block[2], names, "operators", str(PAGE), 0)
            runner.run(test, out=failures.append, clear_globs=False)
            names.update(test.globs)

    assert not failures, "".join(failures)
    assert runner.tries > 15


async def test_the_action_of_the_page_streams_a_file(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("path,ms\n/,5\n/slow,250\n")
    names: dict[str, Any] = {"__name__": "operators"}
    first = _BLOCK.search(PAGE.read_text())
    assert first is not None
    exec(first[2], names)

    result = await names["plugin"].execute_action_stream("slowest", {"path": str(tmp_path / "log.csv")})

    assert [chunk async for chunk in result] == [[{"path": "/slow", "ms": "250"}]]


FUNCTIONS = {name for name in op.__all__ if name[0].islower()} - {"opened", "payload_bytes", "words", "worth_retrying"}


@pytest.mark.parametrize("name", sorted(FUNCTIONS - {"stream"}))
def test_the_page_names_every_function(name: str) -> None:
    assert re.search(rf"`(op\.)?{name}\(|`{name}`", PAGE.read_text()), name


def test_every_operator_is_a_method_and_a_function() -> None:
    policies = {"dead_letter", "replace", "skip_failed", "stop"}
    wrappers = {"retrying", "threaded"}

    methods = set(dir(op.StreamTransformer)) | set(dir(op.StreamComposer))

    assert FUNCTIONS - policies - wrappers <= methods
