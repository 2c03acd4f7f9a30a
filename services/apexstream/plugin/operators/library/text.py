"""Text in pieces of any size, into lines, CSV rows and counts of tokens."""

import codecs
import csv
import re
from collections.abc import AsyncGenerator, Callable, Sized
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

from apexstream.plugin.errors import PermanentError
from apexstream.plugin.operators.calls import above
from apexstream.plugin.operators.errors import Overflow
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")

LINE_CHARS_MAX = 1 << 20


def lines(
    source: Source[str] | Source[bytes],
    *,
    keep_ends: bool = False,
    encoding: str = "utf-8",
    line_chars_max: int = LINE_CHARS_MAX,
) -> Stream[str]:
    r"""The lines of text that comes in pieces of any size; ``\n`` and ``\r\n`` end a line, and nothing else does.

    Bytes are decoded as ``encoding``, across pieces. The last line needs no end. Raises :class:`UnicodeDecodeError`, and
    :class:`~apexstream.plugin.operators.Overflow` for a line of more than ``line_chars_max`` characters.
    """
    above(0, line_chars_max=line_chars_max)
    codecs.lookup(encoding)  # what is wrong is said now

    async def run(guard: Guard | None) -> AsyncGenerator[str, None]:
        decoder = codecs.getincrementaldecoder(encoding)()
        cutter = _Cutter(line_chars_max, keep_ends=keep_ends)
        pieces: Source[Any] = source
        async with opened(pieces, guard) as elements:
            async for piece in elements:
                for line in cutter.cut(piece if isinstance(piece, str) else decoder.decode(piece)):
                    yield line
        for line in cutter.cut(decoder.decode(b"", final=True), last=True):
            yield line

    return Stream(run, source)


class _Cutter:
    """Keeps the line that is not complete, in the pieces it came in, so that a long one costs no more than its length."""

    def __init__(self, line_chars_max: int, *, keep_ends: bool) -> None:
        self._line_chars_max = line_chars_max
        self._keep_ends = keep_ends
        self._rest: list[str] = []
        self._chars = 0

    def cut(self, piece: str, *, last: bool = False) -> list[str]:
        """The lines that ``piece`` completes."""
        found = piece.split("\n")
        self._hold(found[0])
        complete: list[str] = []
        for line in found[1:]:
            complete.append(self._end("\n"))
            self._hold(line)
        if last and self._chars:
            complete.append(self._end(""))
        return complete

    def _hold(self, part: str) -> None:
        self._rest.append(part)
        self._chars += len(part)
        if self._chars > self._line_chars_max:
            raise Overflow(f"a line has more than {self._line_chars_max} characters", hint="Raise line_chars_max")

    def _end(self, end: str) -> str:
        line = "".join(self._rest) + end
        self._rest, self._chars = [], 0
        return line if self._keep_ends or not end else line.removesuffix("\n").removesuffix("\r")


class BadRow(PermanentError):
    """A row of CSV is malformed, or has not as many fields as the header."""

    code = "bad_row"


@overload
def csv_rows(
    source: Source[str] | Source[bytes],
    *,
    header: Literal[True] = ...,
    delimiter: str = ...,
    encoding: str = ...,
    row_chars_max: int = ...,
) -> Stream[dict[str, str]]: ...
@overload
def csv_rows(
    source: Source[str] | Source[bytes],
    *,
    header: Literal[False],
    delimiter: str = ...,
    encoding: str = ...,
    row_chars_max: int = ...,
) -> Stream[list[str]]: ...
def csv_rows(
    source: Source[str] | Source[bytes],
    *,
    header: bool = True,
    delimiter: str = ",",
    encoding: str = "utf-8",
    row_chars_max: int = LINE_CHARS_MAX,
) -> Stream[Any]:
    """The rows of CSV that comes in pieces of any size: dicts named by the first row, or without ``header`` lists.

    Quoted fields may hold delimiters, doubled quotes and line ends; empty lines are no rows. Raises :class:`BadRow`, with the
    number of the line at which the row begins, from 1.
    """
    above(0, row_chars_max=row_chars_max)
    text = lines(source, keep_ends=True, encoding=encoding, line_chars_max=row_chars_max)

    async def run(guard: Guard | None) -> AsyncGenerator[Any, None]:
        reader = _Rows(delimiter, row_chars_max)
        names: list[str] | None = None
        async with opened(text, guard) as elements:
            async for line in elements:
                row = reader.add(line)
                if not row:
                    continue
                if header and names is None:
                    names = reader.header(row)
                else:
                    yield row if names is None else reader.named(names, row)
        reader.check_complete()

    return Stream(run, text)


class _Rows:
    """A row that may go over several lines."""

    def __init__(self, delimiter: str, row_chars_max: int) -> None:
        self._delimiter = delimiter
        self._row_chars_max = row_chars_max
        self._open: list[str] = []
        self._chars = 0
        self._quoted = False
        self._line = 0
        self._begins_at = 1

    def add(self, line: str) -> list[str] | None:
        """The row that ``line`` completes; an empty one for an empty line, None if it goes on."""
        self._line += 1
        if not self._open:
            self._begins_at = self._line
        self._quoted = _ends_quoted(line, self._delimiter, quoted=self._quoted)
        self._open.append(line)
        self._chars += len(line)
        if self._chars > self._row_chars_max:
            raise Overflow(f"a row has more than {self._row_chars_max} characters", where=self._where)
        if self._quoted:
            return None
        text, self._open, self._chars = "".join(self._open), [], 0
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except csv.Error as problem:
            raise self._bad(str(problem)) from problem

    def header(self, row: list[str]) -> list[str]:
        if len(set(row)) < len(row):
            raise self._bad("the header names a field twice")
        return row

    def named(self, names: list[str], row: list[str]) -> dict[str, str]:
        if len(row) != len(names):
            raise self._bad(f"{len(row)} fields, and the header has {len(names)}")
        return dict(zip(names, row, strict=True))

    def check_complete(self) -> None:
        if self._open:
            raise self._bad("a quoted field is not closed")

    def _bad(self, what: str) -> BadRow:
        return BadRow(what, where=self._where, hint="Mend the file, or say which delimiter it has")

    @property
    def _where(self) -> str:
        return f"line {self._begins_at}"


def _ends_quoted(line: str, delimiter: str, *, quoted: bool) -> bool:
    """Whether a line that begins inside a quoted field, or at the start of one, ends inside a quoted field."""
    place = 0
    while place < len(line) or quoted:
        if not quoted and line[place] == '"':
            quoted, place = True, place + 1
        if quoted:
            end = line.find('"', place)
            if end < 0:
                return True
            place = end + 1
            if line.startswith('"', place):  # doubled: the field goes on
                place += 1
                continue
            quoted = False
        place = line.find(delimiter, place) + 1
        if place == 0:
            return False
    return False


_WORDS = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words, and each other visible character by itself. An estimate of a language model's tokens, not their number."""
    return _WORDS.findall(text)


@dataclass(frozen=True, slots=True)
class Counted(Generic[T]):
    """An element, the tokens in it, and those up to and with it."""

    element: T
    tokens: int
    total: int


def count_tokens(source: Source[str], tokenize: Callable[[str], Sized] = words) -> Stream[Counted[str]]:
    """Every piece of text with its number of tokens, as ``tokenize`` finds them: give a model's own to count that model's.
    Pieces are counted one by one: a token that goes over two of them counts twice.
    """

    async def run(guard: Guard | None) -> AsyncGenerator[Counted[str], None]:
        total = 0
        async with opened(source, guard) as elements:
            async for text in elements:
                tokens = len(tokenize(text))
                total += tokens
                yield Counted(text, tokens, total)

    return Stream(run, source)
