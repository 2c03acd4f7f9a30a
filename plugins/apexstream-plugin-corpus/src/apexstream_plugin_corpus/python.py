"""Python files by the interpreter's own parser: docstrings, functions and imports as the language defines them."""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

from apexstream_plugin_corpus.lines import Counts, without_literals
from apexstream_plugin_corpus.outline import NAME_CHARS_MAX, Function, Outline, bounded_names, longest

# The parser holds the interpreter for the whole file, and costs up to 4 us for each name, number or operator. This bound
# keeps it under half a second for whatever a file may contain; the densest module of the standard library has 62,000.
PARSED_TOKENS_MAX = 120_000
_SURELY_PARSED_CHARS = 64 * 1024
_TOKEN = re.compile(r"\w+|[^\w\s]")

# Two parsers that run at once disturb each other's recursion counter where a garbage collection lets the other thread in
# (python/cpython#106905): "SystemError: AST constructor recursion depth mismatch".
_PARSER = Lock()

_FILE_NAME = "<analysed source>"
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class CannotParse(ValueError):
    """The text is no Python that this interpreter's parser takes; the message says why in a few words."""


def keep_parser_warnings_quiet() -> None:
    """Let warnings about analysed files pass unseen: they are about someone else's code. Asking again changes nothing."""
    warnings.filterwarnings("ignore", module=re.escape(_FILE_NAME))


@dataclass(slots=True)
class Parsed:
    """What the parser tells of one file. ``docstring_lines`` are numbers, from 1, of lines with nothing but a docstring."""

    outline: Outline
    docstring_lines: frozenset[int]

    def count_docstrings(self, counts: Counts, code: str) -> Counts:
        """``counts`` with docstrings as comments; ``code`` is the text without comments."""
        if not self.docstring_lines:
            return counts
        lines = code.split("\n")
        moved = sum(1 for number in self.docstring_lines if lines[number - 1].strip())
        return Counts(code=counts.code - moved, comment=counts.comment + moved, blank=counts.blank)


def parse(text: str, code: str, token_pattern: str) -> Parsed:
    """Parse ``text``, of which ``code`` is without comments. Raises :class:`CannotParse`."""
    if len(text) > _SURELY_PARSED_CHARS and _token_count(text, token_pattern) > PARSED_TOKENS_MAX:
        raise CannotParse(f"too much code to parse at once, over {PARSED_TOKENS_MAX} tokens")
    try:
        tree = _tree(text)
    except SyntaxError as problem:
        raise CannotParse(f"syntax error at line {problem.lineno or 0}: {(problem.msg or '')[:100]}") from None
    except (RecursionError, MemoryError):
        raise CannotParse("nested too deeply to be parsed") from None
    except ValueError as problem:  # null bytes, in Python 3.11
        raise CannotParse(str(problem)[:100]) from None
    return _Reader(code.split("\n")).read(tree)


def _tree(text: str) -> ast.Module:
    with _PARSER:
        try:
            return ast.parse(text, filename=_FILE_NAME)
        except SystemError:
            # Someone else's thread was parsing something too. If that happens again, the report says so.
            return ast.parse(text, filename=_FILE_NAME)


def _token_count(text: str, token_pattern: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(without_literals(text, token_pattern)))


@dataclass(slots=True)
class _Reader:
    """Goes through the statements of a module once. Expressions hold neither functions nor imports and are passed over."""

    lines: list[str]
    _longest: Function | None = None
    _imports: list[tuple[int, str]] = field(default_factory=list)
    _docstring_lines: set[int] = field(default_factory=set)

    def read(self, tree: ast.Module) -> Parsed:
        pending: list[tuple[ast.AST, str]] = [(tree, "")]
        while pending:
            node, scope = pending.pop()
            inner = self._note(node, scope)
            pending += [(child, inner) for child in _children(node)]
        names = dict.fromkeys(name for _, name in sorted(self._imports, key=lambda found: found[0]))
        return Parsed(Outline(self._longest, bounded_names(names)), frozenset(self._docstring_lines))

    def _note(self, node: ast.AST, scope: str) -> str:
        """Take what ``node`` tells, and return the scope of what is in it."""
        if isinstance(node, _DOCUMENTED):
            self._note_docstring(node)
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._note_function(node, scope)
                return f"{scope}{node.name}."[-NAME_CHARS_MAX:]
            case ast.ClassDef():
                return f"{scope}{node.name}."[-NAME_CHARS_MAX:]
            case ast.Import():
                self._imports += [(node.lineno, alias.name) for alias in node.names]
            case ast.ImportFrom():
                self._imports.append((node.lineno, "." * node.level + (node.module or "")))
        return scope

    def _note_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: str) -> None:
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if self._longest is None or lines >= self._longest.lines:
            name = f"{scope}{node.name}"[-NAME_CHARS_MAX:]
            self._longest = longest(self._longest, Function(name, lines, node.lineno))

    def _note_docstring(self, node: ast.AST) -> None:
        match getattr(node, "body", []):
            case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
                self._docstring_lines.update(self._own_lines(docstring))

    def _own_lines(self, docstring: ast.Expr) -> Iterator[int]:
        """The lines that hold nothing but this docstring; ``col_offset`` counts bytes of UTF-8."""
        first, last = docstring.lineno, docstring.end_lineno or docstring.lineno
        shared_start = bool(self._bytes(first)[: docstring.col_offset].strip())
        shared_end = bool(self._bytes(last)[docstring.end_col_offset :].strip())
        own_first = first + 1 if shared_start or (shared_end and first == last) else first
        own_last = last - 1 if shared_end else last
        yield from range(own_first, own_last + 1)

    def _bytes(self, number: int) -> bytes:
        return self.lines[number - 1].encode()


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name in _BODIES:
        yield from getattr(node, name, ())
