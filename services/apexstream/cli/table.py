"""Tables for people: aligned on a terminal, tab-separated in a pipe so that ``cut`` and ``awk`` can read them."""

import sys
from collections.abc import Iterable, Sequence

from apexstream.cli.output import printable, write_data


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write ``rows`` under ``columns`` to standard output."""
    cells = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for line in (columns, *cells):
            write_data("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in cells:
        table.add_row(*map(Text, line))
    console = Console(file=sys.stdout)
    with console.capture() as captured:
        console.print(table)
    write_data(captured.get().rstrip("\n"))
