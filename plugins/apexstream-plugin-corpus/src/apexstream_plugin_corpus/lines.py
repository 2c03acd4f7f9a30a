"""Counts code, comment and blank lines, given where the comments are."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counts:
    """Lines by kind. A line is blank if it holds only whitespace, wherever it stands; a comment if nothing else is on it."""

    code: int = 0
    comment: int = 0
    blank: int = 0

    @property
    def lines(self) -> int:
        """All lines; the last one counts even without a newline."""
        return self.code + self.comment + self.blank


def without_comments(text: str, token_pattern: str) -> str:
    """``text`` with every comment taken out and every line kept."""

    def replace(token: re.Match[str]) -> str:
        return _line_breaks(token) if token.lastgroup == "comment" else token[0]

    return re.sub(token_pattern, replace, text) if token_pattern else text


def without_literals(text: str, token_pattern: str) -> str:
    """``text`` with comments taken out and strings emptied, every line kept: what is left is structure."""

    def replace(token: re.Match[str]) -> str:
        if token.lastgroup is None:
            return token[0]
        return '""' + _line_breaks(token) if token.lastgroup == "string" else _line_breaks(token)

    return re.sub(token_pattern, replace, text) if token_pattern else text


def _line_breaks(token: re.Match[str]) -> str:
    return "\n" * token[0].count("\n")


def count_lines(text: str, code: str) -> Counts:
    """Count the lines of ``text``, of which ``code`` is what :func:`without_comments` left."""
    blank = _blank_lines(text)
    return Counts(code=text.count("\n") - (empty := _blank_lines(code)), comment=empty - blank, blank=blank)


def _blank_lines(text: str) -> int:
    return sum(1 for line in text.split("\n")[:-1] if not line or line.isspace())
