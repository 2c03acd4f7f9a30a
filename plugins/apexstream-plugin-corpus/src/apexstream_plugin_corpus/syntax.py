"""How comments and strings look in a family of languages: the parts that patterns in the language table are made of.

A token pattern finds comments (group ``comment``) and everything in which a comment mark means nothing (group ``string``).
Every alternative ends somewhere whatever follows it, and none backtracks, so scanning is linear in the text. It needs a
text whose last character is a newline.
"""

import re
from collections.abc import Sequence

_NESTING_MAX = 4  # levels of nested block comments that are understood


def tokens(comments: Sequence[str], strings: Sequence[str] = (), *, starts: str = "") -> str:
    """One pattern for all comments and strings of a language. Longer openers must come before their own beginnings.

    ``starts`` are the characters that any of them can begin with; everything else is then skipped in runs, which is three
    times as fast.
    """
    groups = [rf"[^{re.escape(starts)}]++"] if starts else []
    if strings:
        groups.append(f"(?P<string>{'|'.join(strings)})")
    groups.append(f"(?P<comment>{'|'.join(comments)})")
    return f"(?m:{'|'.join(groups)})"


def to_line_end(mark: str) -> str:
    """A comment from ``mark``, wherever it stands, to the end of the line."""
    return rf"{re.escape(mark)}[^\n]*+"


def whole_line(marks: str) -> str:
    """A line that holds nothing but a comment; ``marks`` is a pattern. For languages where the mark also has other uses
    within a line, and where only whole lines matter to a count."""
    return rf"^[ \t]*+(?:{marks})[^\n]*+"


def block(opening: str, closing: str) -> str:
    """A comment between two marks, or to the end of the text."""
    return rf"{re.escape(opening)}(?s:.*?)(?:{re.escape(closing)}|\Z)"


def nested_block(opening: str, closing: str) -> str:
    """A comment that may hold others of its kind. Both marks have two characters."""
    start, end = re.escape(opening), re.escape(closing)
    inner = rf"(?s:(?!{start}|{end}).)"
    body = rf"(?s:(?!{end}).)*+"
    for _ in range(_NESTING_MAX - 1):
        body = rf"(?:{inner}|{start}{body}(?:{end}|\Z))*+"
    return rf"{start}{body}(?:{end}|\Z)"


def quoted(quote: str) -> str:
    """A string on one line with backslash escapes; a missing end is the end of the line."""
    return rf"{quote}(?:[^{quote}\\\n]|(?s:\\.))*+(?:{quote}|(?=\n)|\Z)"


def long_quoted(quote: str) -> str:
    """A string over many lines with backslash escapes, between quotes of one or several equal characters."""
    first = quote[0]
    inner = rf"[^{first}\\]|(?s:\\.)"
    if len(quote) > 1:
        inner += rf"|{first}(?!{first * (len(quote) - 1)})"
    return rf"{quote}(?:{inner})*+(?:{quote}|\Z)"


def raw_quoted(opening: str, closing: str) -> str:
    """A string over many lines without escapes; both ends are patterns, and ``closing`` may refer to a group."""
    return rf"{opening}(?s:.*?)(?:{closing}|\Z)"
