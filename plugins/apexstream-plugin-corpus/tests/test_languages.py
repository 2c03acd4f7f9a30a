"""What the language table makes of small samples: language, lines by kind, imports, longest function."""

from collections.abc import Callable

import pytest
from apexstream_plugin_corpus.languages import LANGUAGES, Language, language_by_name, language_by_shebang
from apexstream_plugin_corpus.lines import count_lines, without_comments, without_literals
from apexstream_plugin_corpus.outline import braced_function, imported
from apexstream_plugin_corpus.report import FileReport
from hypothesis import given, settings
from hypothesis import strategies as st

Describe = Callable[..., FileReport]
Expected = tuple[
    tuple[int, int, int], tuple[str, ...], tuple[str, int, int] | None
]  # counts, imports, longest function

C = """\
/* A block
   over lines */
#include <stdio.h>
#include "own.h"

int main(int argc, char **argv) {
    char *not_a_comment = "/* no */ // no";  // but this is
    if (argc > 1) {
        return '"';
    }
    return 0; /* and this */
}
"""
GO = """\
package main

import (
\t"fmt"
\tstr "strings"
)
import "os"

// Doc of it.
func (r *T) Name(a int) (int, error) {
\ts := `raw " /* string
// still raw`
\tgo func() {
\t\tfmt.Println(s)
\t}()
\treturn 1, nil
}
"""
RUST = """\
use std::io::{self, Read};
/* outer /* inner */ still
   a comment */
pub fn longest<'a>(x: &'a str) -> &'a str {
    let c = '"'; // a quote
    let raw = r#"a " and // no comment
"#;
    x
}
"""
JAVASCRIPT = """\
import {
  a,
  b,
} from "./first.js";
const fs = require('fs');
/** Doc. */
const arrow = async (x) => {
  return `template // no
    /* comment */`;
};
function named(x) { return 1 }
"""
JAVA = """\
package x;
import java.util.List;
import static java.lang.Math.*;
class A {
    // one
    int f(int x) throws E {
        String s = \"\"\"
            // text
            \"\"\";
        return 1;
    }
}
"""
SHELL = """\
#!/bin/bash
. ./lib.sh
# comment
cat <<EOF
# text of the document
EOF
x=$((1<<N))
# comment
echo "$x" # not a whole line
"""
SQL = """\
-- comment
SELECT '-- no', "/* no */" /* yes
  more */
FROM t;
"""
TOML = '''\
# comment
a = """
# no comment
"""
b = "#"
'''
HTML = """\
<!-- comment
 over lines -->
<p>text</p> <!-- and more -->

"""
LUA = """\
--[[ block
]]
-- line
local x = require("mod") -- after code
"""


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.c", C, ((9, 2, 1), ("stdio.h", "own.h"), ("main", 7, 6))),
        ("a.go", GO, ((14, 1, 2), ("fmt", "strings", "os"), ("Name", 8, 10))),
        ("a.rs", RUST, ((7, 2, 0), ("std::io",), ("longest", 6, 4))),
        ("a.mjs", JAVASCRIPT, ((10, 1, 0), ("./first.js", "fs"), ("arrow", 4, 7))),
        ("A.java", JAVA, ((11, 1, 0), ("java.util.List", "java.lang.Math.*"), ("f", 6, 6))),
        ("run", SHELL, ((6, 3, 0), ("./lib.sh",), None)),
        ("q.SQL", SQL, ((2, 2, 0), (), None)),
        ("a.toml", TOML, ((4, 1, 0), (), None)),
        ("a.html", HTML, ((1, 2, 1), (), None)),
        ("a.lua", LUA, ((1, 3, 0), ("mod",), None)),
        ("a.yaml", "a: 'it''s'\n# c\nb: don't # x\n", ((2, 1, 0), (), None)),
        ("a.json", '{"a": "// no"}\n\n', ((1, 0, 1), (), None)),
        ("a.md", "# Title\n\ntext\n", ((2, 0, 1), (), None)),
        ("a.php", "<?php\n#[Attribute]\n# c\nuse A\\B;\nfunction f($x) {\n}\n", ((5, 1, 0), ("A\\B",), ("f", 2, 5))),
        ("a.rb", "require 'json'\n=begin\nx\n=end\nputs '#{x}'\n", ((2, 3, 0), ("json",), None)),
        ("a.kt", "import a.b\nfun <T> T.name(x: T): T {\n  return x\n}\n", ((4, 0, 0), ("a.b",), ("name", 3, 2))),
        ("a.css", "/* c */\na { b: url('/*') }\n", ((1, 1, 0), (), None)),
        ("a.bat", "@REM c\n:: c\necho x\n", ((1, 2, 0), (), None)),
    ],
)
def test_a_sample_is_counted_and_outlined(describe: Describe, name: str, content: str, expected: Expected) -> None:
    report = describe(name, content)

    longest = report.longest_function
    function = (longest.name, longest.lines, longest.start_line) if longest else None
    assert ((report.code, report.comment, report.blank), report.imports, function) == expected


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("a.py", "Python"),
        ("deep/A.PYI", "Python"),
        ("Makefile", "Make"),
        ("CMakeLists.txt", "CMake"),
        ("notes.txt", "Text"),
        ("a.unheard_of", "Unknown"),
        (".py", "Unknown"),
        ("py", "Unknown"),
        ("a.py/b", "Unknown"),
    ],
)
def test_a_file_name_promises_a_language(name: str, language: str) -> None:
    assert language_by_name(name).name == language


@pytest.mark.parametrize(
    ("line", "language"),
    [
        (b"#!/usr/bin/python3.11 -u\n", "Python"),
        (b"#!/usr/bin/env python\n", "Python"),
        (b"#! /usr/bin/env -S LANG=C /opt/python3 -u\n", "Python"),
        (b"#!/bin/sh", "Shell"),
        (b"#!/usr/bin/env\n", "Unknown"),
        (b"#!\n", "Unknown"),
        (b"# !/bin/sh\n", "Unknown"),
        (b"#!/opt/\xff\xfe\n", "Unknown"),
    ],
)
def test_a_shebang_names_a_language(line: bytes, language: str) -> None:
    assert language_by_shebang(line).name == language


# Languages that share all their patterns behave alike: one of each kind.
KINDS = {(language.tokens, language.imports, language.function): language for language in LANGUAGES}.values()
FRAGMENTS = [*"\"'`/*#-<>![](){};=\\\n\t ar1", "/*", "*/", '"""', "'''", "<!--", "<<E\n", "E\n", "=begin\n", 'r#"']
HOSTILE = [
    "/*",
    '"',
    "'",
    '"""',
    "`",
    "{",
    "}",
    "(",
    "import (",
    "from ",
    "fn a(",
    "f(x) {",
    "f(((",
    "<<A\n",
    "=a\n",
    "\\",
]


@settings(max_examples=150, deadline=None)
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=60))
def test_no_text_confuses_the_counter_of_any_language(fragments: list[str]) -> None:
    text = "".join(fragments) + "\n"
    for language in KINDS:
        code, bare = without_comments(text, language.tokens), without_literals(text, language.tokens)

        counts = count_lines(text, code)

        assert counts.lines == text.count("\n") == code.count("\n") == bare.count("\n")
        assert min(counts.code, counts.comment) >= 0
        assert counts.blank == sum(1 for line in text.split("\n")[:-1] if not line.strip())
        _outline(language, code, bare)


@pytest.mark.parametrize("opener", HOSTILE)
def test_a_repeated_opener_costs_linear_time_in_every_language(opener: str) -> None:
    text = (
        opener * (30_000 // len(opener)) + "\n"
    )  # a quadratic pattern would take minutes here, a linear one milliseconds
    for language in KINDS:
        _outline(language, without_comments(text, language.tokens), without_literals(text, language.tokens))


def _outline(language: Language, code: str, bare: str) -> None:
    if language.function:
        braced_function(bare, language.function)
    if language.imports:
        imported(code, language.imports)
