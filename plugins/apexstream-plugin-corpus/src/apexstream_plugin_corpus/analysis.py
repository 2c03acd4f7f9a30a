"""Describes one file: its language, lines, longest function and imports, or why it could not be looked into."""

from dataclasses import dataclass, replace
from pathlib import Path

from apexstream_plugin_corpus.languages import UNKNOWN, Language, language_by_name, language_by_shebang
from apexstream_plugin_corpus.lines import Counts, count_lines, without_comments, without_literals
from apexstream_plugin_corpus.outline import Outline, braced_function, imported, python_outline
from apexstream_plugin_corpus.python import CannotParse, parse
from apexstream_plugin_corpus.reading import NotAFile, SourceFile, decode, is_binary, open_source
from apexstream_plugin_corpus.report import FileReport
from apexstream_plugin_corpus.walk import Entry, Skip


@dataclass(frozen=True, slots=True)
class _Contents:
    """What is in a text. ``note`` says where it is less exact than usual."""

    counts: Counts
    outline: Outline
    note: str = ""


def analyse(root: Path, entry: Entry, *, bytes_max: int, follow_symlinks: bool = False) -> FileReport:
    """Describe the file that ``entry`` lists, reading at most ``bytes_max`` bytes of it. Raises nothing: whatever a file
    may be, there is one report of it."""
    path, note = _shown(entry.path)
    report = FileReport(path=path, bytes=entry.size, skipped=entry.skipped, note=_joined(note, entry.note))
    if entry.skipped is not None:
        return report
    try:
        with open_source(root / entry.path, follow_symlinks=follow_symlinks) as source:
            return _described(report, source, bytes_max)
    except (FileNotFoundError, NotADirectoryError):
        return _skipped(report, Skip.VANISHED)
    except NotAFile:
        return _skipped(report, Skip.SPECIAL, "no regular file any more, not read")
    except OSError as problem:
        return _skipped(report, Skip.UNREADABLE, problem.strerror or type(problem).__name__)
    except Exception as problem:  # one file that this plugin cannot cope with must not end a stream of thousands
        return _skipped(report, Skip.FAILED, f"{type(problem).__name__}: {problem}"[:200])


def _described(report: FileReport, source: SourceFile, bytes_max: int) -> FileReport:
    language = language_by_name(report.path)
    if language is UNKNOWN:
        language = language_by_shebang(source.head)
    if is_binary(source.head, known_language=language is not UNKNOWN):
        return _skipped(report, Skip.BINARY)
    raw = source.read(bytes_max)
    text = decode(raw, may_declare=language.may_declare_encoding)
    contents = _contents(text.content, language)
    return replace(
        report,
        language=language.name,
        bytes=raw.size,
        lines=contents.counts.lines,
        code=contents.counts.code,
        comment=contents.counts.comment,
        blank=contents.counts.blank,
        longest_function=contents.outline.longest_function,
        imports=contents.outline.imports,
        note=_joined(report.note, *text.notes, contents.note),
    )


def _contents(text: str, language: Language) -> _Contents:
    code = without_comments(text, language.tokens)
    counts = count_lines(text, code)
    if language.name == "Python":
        return _python_contents(text, code, counts, language.tokens)
    function = (
        braced_function(without_literals(text, language.tokens), language.function) if language.function else None
    )
    return _Contents(counts, Outline(function, imported(code, language.imports) if language.imports else ()))


def _python_contents(text: str, code: str, counts: Counts, token_pattern: str) -> _Contents:
    try:
        parsed = parse(text, code, token_pattern)
    except CannotParse as problem:
        outline = python_outline(without_literals(text, token_pattern))
        return _Contents(counts, outline, f"{problem}; docstrings count as code, functions and imports by lines")
    return _Contents(parsed.count_docstrings(counts, code), parsed.outline)


def _shown(path: str) -> tuple[str, str]:
    """``path`` as JSON can carry it, and a note if that is not exactly the name on disk."""
    try:
        path.encode()
    except UnicodeEncodeError:
        escaped = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return escaped, "file name is not UTF-8"
    return path, ""


def _skipped(report: FileReport, why: Skip, note: str = "") -> FileReport:
    return replace(report, skipped=why, note=_joined(report.note, note))


def _joined(*notes: str | None) -> str | None:
    return "; ".join(filter(None, notes)) or None
