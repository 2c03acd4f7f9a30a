"""What a file contains beyond its lines: the longest function and the imported modules, found without a parser."""

import re
from collections import deque
from dataclasses import dataclass

NAME_CHARS_MAX = 200
IMPORTS_MAX = 500  # modules that one file's description names

_HEADER_CHARS_MAX = 400  # how far before an opening brace a function's name is looked for
_QUOTED = re.compile(r"\"([^\"\n]+)\"")
_STRUCTURE = re.compile(r"[{};\n]")
_PYTHON_DEF = re.compile(r"([ \t]*)(?:async[ \t]+)?def[ \t]+(\w+)")
_PYTHON_IMPORT = re.compile(r"(?m)^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import\b|import[ \t]+(\w[\w., \t]*))")


@dataclass(frozen=True, slots=True)
class Function:
    """A function by name; ``start_line`` counts from 1, and ``lines`` from its first line to its last."""

    name: str
    lines: int
    start_line: int


@dataclass(frozen=True, slots=True)
class Outline:
    """``imports`` are modules as the file names them, each once, in the order of their first appearance."""

    longest_function: Function | None = None
    imports: tuple[str, ...] = ()


def longest(one: Function | None, other: Function | None) -> Function | None:
    """The longer of two functions; of two equal ones the first in the file."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda function: (-function.lines, function.start_line))


def braced_function(code: str, header_pattern: str) -> Function | None:
    """The longest function whose body is in braces; ``code`` has neither comments nor the content of strings."""
    found: Function | None = None
    opened: list[tuple[str, int]] = []  # of every open brace the function's name, or "", and the line it starts at
    line, header_start = 1, 0
    for mark in _STRUCTURE.finditer(code):
        match mark[0]:
            case "\n":
                line += 1
                continue
            case "{":
                header = code[max(header_start, mark.start() - _HEADER_CHARS_MAX) : mark.start()]
                name, lines_before = _function_name(header, header_pattern)
                opened.append((name, line - lines_before))
            case "}" if opened:
                name, start_line = opened.pop()
                if name:
                    found = longest(found, Function(name, line - start_line + 1, start_line))
        header_start = mark.end()
    return found


def _function_name(header: str, header_pattern: str) -> tuple[str, int]:
    """The name, and how many lines before the header's end it stands."""
    found = deque(re.finditer(header_pattern, header), maxlen=1)
    if not found:
        return "", 0
    return found[0][1][:NAME_CHARS_MAX], header.count("\n", found[0].start(1))


def imported(text: str, pattern: str) -> tuple[str, ...]:
    """The modules that ``pattern`` finds in ``text``, which has no comments and still has its strings."""
    names: dict[str, None] = {}
    for found in re.finditer(pattern, text):
        name = found[found.lastindex or 0]
        names.update(dict.fromkeys(_QUOTED.findall(name) if '"' in name else [name]))
    return bounded_names(names)


def bounded_names(names: dict[str, None]) -> tuple[str, ...]:
    """At most so many names of at most such a length that a description stays small."""
    return tuple(name[:NAME_CHARS_MAX] for name in list(names)[:IMPORTS_MAX])


def python_outline(code: str) -> Outline:
    """The outline of Python that cannot be parsed, by its lines; ``code`` as for :func:`braced_function`."""
    names: dict[str, None] = {}
    for found in _PYTHON_IMPORT.finditer(code):
        listed = found[1] or found[2]
        names.update({part.split()[0]: None for part in listed.split(",") if part.strip()})
    return Outline(_indented_function(code), bounded_names(names))


def _indented_function(code: str) -> Function | None:
    """The longest function that ends where its indentation does."""
    found: Function | None = None
    opened: list[tuple[int, str, int]] = []  # indentation, name and first line of every function we are in
    last = 0  # the last line with code so far
    for number, line in enumerate(code.split("\n"), 1):
        stripped = line.lstrip()
        if not stripped:
            continue
        indentation = len(line) - len(stripped)
        while opened and indentation <= opened[-1][0] and stripped[0] not in ")]}":
            _, name, start = opened.pop()
            found = longest(found, Function(name, last - start + 1, start))
        if definition := _PYTHON_DEF.match(line):
            opened.append((indentation, definition[2][:NAME_CHARS_MAX], number))
        last = number
    for _, name, start in opened:
        found = longest(found, Function(name, last - start + 1, start))
    return found
