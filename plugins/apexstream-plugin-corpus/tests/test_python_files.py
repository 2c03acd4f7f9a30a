"""Python files, which the interpreter's own parser describes."""

import ast
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from apexstream_plugin_corpus.python import parse
from apexstream_plugin_corpus.report import FileReport

Describe = Callable[..., FileReport]


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        ('"""Doc."""\n', (0, 1, 0)),
        ('"""Doc.\n\nMore\n"""\nx = 1\n', (1, 3, 1)),
        ('class A:\n    """Doc."""\n\n    def f(self):\n        "Doc"\n', (2, 2, 1)),
        ('def f(): "Doc"\n', (1, 0, 0)),
        ('def f(): """Doc\n    more\n    """\n', (1, 2, 0)),
        ('def f():\n    """Doc\n    more"""; x = 1\n', (2, 1, 0)),
        ('def f():\n    """Doc"""  # and a comment\n', (1, 1, 0)),
        ('def f():\n    """D\u00f6c\n    \u20ac"""; x = 1\n', (2, 1, 0)),
        ('x = """\n# no comment\n\n"""\n', (3, 0, 1)),
        ("x = (  # comment\n    # comment\n    1\n)\n", (3, 1, 0)),
        ("x = '# no' # yes\n", (1, 0, 0)),
        ("x = 'it\\'s' # yes\n'''\n# no\n'''\n", (4, 0, 0)),
        ('x = r"\\" # "\n# yes\n', (1, 1, 0)),
        ("x = f'{a!r:#>{w}}'\n# yes\n", (1, 1, 0)),
        ("x = 1 + \\\n    2\n", (2, 0, 0)),
        ("'''\n", (1, 0, 0)),
        ("#!/usr/bin/python\n\n# c\n", (0, 2, 1)),
        ("if x:\n\tpass\n \t \n\f\n", (2, 0, 2)),
    ],
)
def test_lines_are_code_comment_or_blank(describe: Describe, content: str, counts: tuple[int, int, int]) -> None:
    report = describe("a.py", content)

    assert (report.code, report.comment, report.blank) == counts
    assert report.lines == sum(counts)


def test_the_longest_function_has_its_full_name_and_its_own_lines(describe: Describe) -> None:
    report = describe(
        "a.py",
        "def short():\n    pass\n\n@decorated\nclass A:\n    @decorated\n    async def outer(\n        self,\n    ):\n"
        "        def inner():\n            pass\n        return inner\n\n\ndef last(): pass\n",
    )

    longest = report.longest_function
    assert longest is not None
    assert (longest.name, longest.lines, longest.start_line) == ("A.outer", 6, 7)


def test_of_two_equally_long_functions_the_first_is_named(describe: Describe) -> None:
    report = describe("a.py", "def b():\n    pass\n\ndef a():\n    pass\n")

    assert report.longest_function is not None
    assert report.longest_function.name == "b"


def test_functions_are_found_in_every_kind_of_block(describe: Describe) -> None:
    blocks = [
        "if x:",
        " pass",
        "else:",
        " match x:",
        "  case 1:",
        "   try:",
        "    pass",
        "   except E:",
        "    def deep():",
        "     pass",
    ]

    report = describe("a.py", "\n".join(blocks))

    assert report.longest_function is not None
    assert report.longest_function.name == "deep"


def test_imports_are_named_once_in_order_wherever_they_stand(describe: Describe) -> None:
    report = describe(
        "a.py",
        "def f():\n    import late.one\nimport os, sys as s\nfrom . import x\nfrom ..pkg.mod import y, z\nimport os\n"
        "from __future__ import annotations\n'''\nimport not_this\n'''\n",
    )

    assert report.imports == ("late.one", "os", "sys", ".", "..pkg.mod", "__future__")


def test_a_file_with_thousands_of_imports_and_endless_names_stays_small(describe: Describe) -> None:
    names = "".join(f"import {'m' * 300}{number}\n" for number in range(2_000))

    report = describe("a.py", names + f"def {'f' * 5_000}(): pass\n")

    assert len(report.imports) == 500
    assert max(map(len, report.imports)) == 200
    assert report.longest_function is not None
    assert len(report.longest_function.name) == 200


def test_warnings_about_an_analysed_file_are_not_ours(describe: Describe) -> None:
    with warnings.catch_warnings(record=True) as caught:
        report = describe("a.py", "x = '\\d'\ny = 1 is 1\n")

    assert caught == []
    assert report.note is None


def test_only_one_thread_is_in_the_parser_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[int] = [0]
    seen: list[int] = []
    really_parse = ast.parse

    def note_and_parse(*arguments: Any, **named: Any) -> Any:
        inside[0] += 1
        time.sleep(0.001)  # lets any other thread in that is not kept out
        seen.append(inside[0])
        inside[0] -= 1
        return really_parse(*arguments, **named)

    monkeypatch.setattr(ast, "parse", note_and_parse)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: parse("x = 1\n", "x = 1\n", ""), range(20)))

    assert seen == [1] * 20


def test_a_parser_disturbed_by_a_foreign_thread_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbances = iter([SystemError("AST constructor recursion depth mismatch (before=39, after=33)")])
    really_parse = ast.parse

    def answer(*arguments: Any, **named: Any) -> Any:
        for disturbance in disturbances:
            raise disturbance
        return really_parse(*arguments, **named)

    monkeypatch.setattr(ast, "parse", answer)

    assert parse("import os\n", "import os\n", "").outline.imports == ("os",)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a syntax error before Python 3.12")
def test_quotes_nested_in_an_f_string_end_no_string(describe: Describe) -> None:
    report = describe("a.py", 'x = f"{a["#"]}"\n# yes\ny = 1\n')

    assert (report.code, report.comment) == (2, 1)
