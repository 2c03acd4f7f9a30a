"""Opens one file, reads at most so many bytes of it and turns them into text. Never blocks on what is not a file."""

import codecs
import os
import re
import stat
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

HEAD_BYTES = 8192  # what is looked at to tell text from binary, and for a shebang or a declared encoding

_BOMS = (  # UTF-32 first: its little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Codecs that a declaration may not choose: their cost grows with the square of the length, they warn, or always fail.
_REFUSED = frozenset({"punycode", "idna", "undefined", "unicode-escape", "unicode_escape"})
_CONTROL = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f]")


class NotAFile(OSError):
    """The path was a regular file when it was listed and now is something else."""


@dataclass(frozen=True, slots=True)
class Raw:
    """The first bytes of a file of ``size`` bytes; ``data`` is shorter than ``size`` if the bound cut it."""

    data: bytes
    size: int

    @property
    def partial(self) -> bool:
        """True if the file has more than was read."""
        return len(self.data) < self.size


@dataclass(frozen=True, slots=True)
class Text:
    """Decoded content: lines end in ``\\n`` alone, the last one included, and there is no byte order mark."""

    content: str
    notes: tuple[str, ...] = ()


class SourceFile:
    """An open regular file, read in two steps, so that a binary one costs no more than its head."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self.head = self._read(b"", HEAD_BYTES)

    def read(self, bytes_max: int) -> Raw:
        """The file from its start, ``bytes_max`` bytes at the most. Call it once."""
        data = self._read(self.head, bytes_max + 1)  # one more than wanted shows whether there is more
        size = max(self._size, len(data))
        return Raw(data[:bytes_max], size)

    def _read(self, start: bytes, bytes_max: int) -> bytes:
        parts, missing = [start], bytes_max - len(start)
        while missing > 0 and (part := os.read(self._descriptor, min(missing, 1 << 20))):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


@contextmanager
def open_source(path: Path, *, follow_symlinks: bool = False) -> Iterator[SourceFile]:
    """Open ``path`` for reading; raise :class:`OSError` as the system does, :class:`NotAFile` if it is no regular file."""
    # The file may have been replaced since it was listed: neither wait for a FIFO's writer nor become a terminal's owner.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY | (0 if follow_symlinks else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAFile(f"{path} is no regular file any more")
        yield SourceFile(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def is_binary(head: bytes, *, known_language: bool) -> bool:
    """Whether ``head``, the first bytes of a file, is not text.

    A name that promises source code gets the benefit of the doubt: only what has NUL bytes *and* is no UTF-8 is binary.
    """
    if any(head.startswith(mark) for mark, _ in _BOMS):
        return False
    if known_language:
        return b"\0" in head and not _is_utf8(head)
    return b"\0" in head or (_CONTROL.search(head) is not None and not _is_utf8(head))


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return True


def decode(raw: Raw, *, may_declare: bool) -> Text:
    """Decode by byte order mark, by a declaration such as ``# coding: latin-1`` if the language ``may_declare`` one, as
    UTF-8, and where nothing fits as Latin-1, which always does. A note says whenever it was not as declared or UTF-8."""
    data = raw.data[: raw.data.rfind(b"\n") + 1] or raw.data if raw.partial else raw.data
    notes = [f"partial: the first {len(data)} of {raw.size} bytes"] if raw.partial else []
    for encoding in _candidates(data, may_declare=may_declare, notes=notes):
        content = _decoded(data, encoding, whole=not raw.partial)
        if content is not None:
            return Text(_normalised(content), tuple(notes))
        notes.append(f"not {encoding}")
    notes.append("read as latin-1")
    return Text(_normalised(data.decode("latin-1")), tuple(notes))


def _candidates(data: bytes, *, may_declare: bool, notes: list[str]) -> Iterator[str]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            yield encoding
            return
    declared = _declared(data[:HEAD_BYTES], notes) if may_declare else "utf-8"
    if declared != "utf-8":
        yield declared
    yield "utf-8"


def _declared(head: bytes, notes: list[str]) -> str:
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(head).readline)
    except SyntaxError as problem:
        if "unknown encoding" in str(problem):
            notes.append(str(problem)[:100])
        return "utf-8"
    if codecs.lookup(encoding).name in _REFUSED:
        notes.append(f"encoding {encoding} refused")
        return "utf-8"
    return encoding


def _decoded(data: bytes, encoding: str, *, whole: bool) -> str | None:
    for cut in range(1 if whole else 4):  # the bound may have cut a character, which has four bytes at the most
        try:
            return data[: len(data) - cut].decode(encoding)
        except (UnicodeError, LookupError):  # LookupError: a codec that does not give text, such as rot13
            continue
    return None


def _normalised(content: str) -> str:
    content = content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not content.isascii():
        # utf-7 and the like can produce lone surrogates, which no JSON can carry.
        content = content.encode("utf-8", "replace").decode("utf-8")
    return content if not content or content.endswith("\n") else content + "\n"
