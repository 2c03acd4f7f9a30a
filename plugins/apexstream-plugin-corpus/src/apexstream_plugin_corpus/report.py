"""What viewers are shown of one file."""

from dataclasses import dataclass, field

from apexstream_plugin_corpus.outline import Function
from apexstream_plugin_corpus.walk import Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all files so far, this one included; ``bytes`` are those on disk, lines those that were read."""

    files: int = 0
    skipped: int = 0
    bytes: int = 0
    lines: int = 0
    code: int = 0
    comment: int = 0
    blank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """The chunk of one file.

    ``path`` is relative, with ``/``; bytes of a name that are no UTF-8 appear as ``\\xNN``. ``bytes`` is the size on disk.
    ``skipped`` is the word for why the content was not analysed, else null; ``note`` says in words what was unusual.
    """

    kind: str = "file"
    path: str
    language: str | None = None
    bytes: int = 0
    lines: int = 0
    code: int = 0
    comment: int = 0
    blank: int = 0
    longest_function: Function | None = None
    imports: tuple[str, ...] = ()
    skipped: Skip | None = None
    note: str | None = None
    totals: Totals = field(default_factory=Totals)
