"""Who was in which team since when: a CSV file with the columns ``author``, ``team``, ``since`` (a date)."""

import csv
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

ROWS_MAX = 100_000
COLUMNS = {"author", "team", "since"}


class BadTable(Exception):
    """The file is no such table; the text says where."""


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """From ``t`` on (seconds since the epoch) ``author`` (an address) is in ``team``."""

    t: int
    author: str
    team: str


def memberships(lines: Iterable[str]) -> list[Membership]:
    """The rows by time. Raises :class:`BadTable`."""
    rows = csv.DictReader(lines)
    missing = COLUMNS - set(rows.fieldnames or ())
    if missing:
        raise BadTable(f"columns {', '.join(sorted(missing))} are missing")
    found: list[Membership] = []
    for row in rows:
        if len(found) >= ROWS_MAX:
            raise BadTable(f"more than {ROWS_MAX} rows")
        found.append(_membership(row, rows.line_num))
    return sorted(found, key=lambda row: row.t)


def _membership(row: dict[str, str], line: int) -> Membership:
    try:
        since = datetime.fromisoformat(row["since"].strip()).replace(tzinfo=UTC)
        return Membership(t=int(since.timestamp()), author=row["author"].strip().lower(), team=row["team"].strip())
    except (ValueError, AttributeError, OverflowError) as problem:
        raise BadTable(f"line {line}: {problem}") from None
