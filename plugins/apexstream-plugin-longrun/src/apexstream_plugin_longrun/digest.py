"""A digest tree over a directory: SHA-256 of every file, a Merkle root of every directory, resumable after any of them.

Directories are finished after what is in them. A directory's leaves are its entries in the order of their names' bytes:
``kind, 0, name, 0, digest``, so that its root says what it contains, and the last root what the whole tree does.
"""

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec

from apexstream_plugin_longrun.listing import DEPTH_MAX, Kind, below, kind_of, names, shown
from apexstream_plugin_longrun.merkle import MerkleTree
from apexstream_plugin_longrun.reading import read_digest


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished entry. ``digest`` is the SHA-256 of a file's content or a link's target, or the root of a directory, in
    hex; ``note`` says why there is none. ``files`` and ``bytes`` of a directory are those of all that is below it."""

    kind: str
    path: str
    bytes: int = 0
    files: int = 0
    digest: str | None = None
    note: str = ""


class Level(msgspec.Struct, array_like=True):
    """An unfinished directory: the entry that was looked at last, and what is known of the finished ones."""

    name: bytes
    last: bytes = b""
    count: int = 0
    peaks: list[bytes] = []
    files: int = 0
    size_bytes: int = 0


class Position(msgspec.Struct, array_like=True):
    """All that is needed to go on: the unfinished directories from the root down."""

    levels: list[Level]


class _Directory:
    """A directory in work."""

    __slots__ = ("files", "last", "name", "path", "rest", "size_bytes", "tree")

    def __init__(self, path: bytes, name: bytes, level: Level | None = None) -> None:
        known = level or Level(name)
        self.path = path
        self.name = name
        self.last = known.last
        self.tree = MerkleTree(known.count, known.peaks)
        self.files = known.files
        self.size_bytes = known.size_bytes
        self.rest: list[bytes] = []  # names that follow, the next one last

    def list(self) -> None:
        """Find out what follows; raises :class:`OSError`."""
        self.rest = [name for name in reversed(names(self.path)) if name > self.last]

    def finish(self, kind: Kind, name: bytes, digest: bytes, *, files: int, size_bytes: int) -> None:
        """Add an entry."""
        self.tree.add(b"\x00".join((kind.encode(), name, digest)))
        self.last = name
        self.files += files
        self.size_bytes += size_bytes

    def level(self) -> Level:
        """What of it goes into a state."""
        return Level(self.name, self.last, self.tree.count, list(self.tree.peaks), self.files, self.size_bytes)


class DigestTree:
    """Iterates over the findings below ``root``, its own last. :meth:`position` after any of them is where another one
    goes on, with the same findings as if nothing had happened, as long as the files are the same."""

    def __init__(self, root: bytes, position: Position | None, read: Callable[[int], None]) -> None:
        """``read`` is told the size of every block that was read, and may raise to stop. Raises :class:`OSError` if
        ``root`` cannot be listed."""
        self._root = root
        self._read = read
        self._open: list[_Directory] = []
        levels = position.levels if position is not None else [Level(b"")]
        for level in levels:
            path = below(self._open[-1].path, level.name) if self._open else root
            self._open.append(_Directory(path, level.name, level))
        self._open[0].list()
        for directory in self._open[1:]:
            try:
                directory.list()
            except OSError:  # it vanished meanwhile: then nothing more is in it
                directory.rest = []

    def position(self) -> Position:
        """After the finding that came last."""
        return Position([directory.level() for directory in self._open])

    def __iter__(self) -> "DigestTree":
        """Itself."""
        return self

    def __next__(self) -> Finding:
        """The next finding."""
        while self._open:
            directory = self._open[-1]
            if not directory.rest:
                return self._close()
            found = self._look_at(directory, directory.rest.pop())
            if found is not None:
                return found
        raise StopIteration

    def _look_at(self, directory: _Directory, name: bytes) -> Finding | None:
        """The finding of an entry; None if it is a directory, which was opened, or has vanished."""
        path = below(directory.path, name)
        try:
            kind = kind_of(os.lstat(path).st_mode)
            if kind is Kind.DIRECTORY:
                return self._enter(path, name)
            if kind is Kind.FILE:
                content = read_digest(path, self._read)
                return self._add(kind, name, content.digest, size_bytes=content.size_bytes)
            if kind is Kind.LINK:
                return self._add(kind, name, sha256(os.readlink(path)).digest())  # noqa: PTH115 - bytes
        except FileNotFoundError:
            return None
        except OSError as problem:
            return self._add(Kind.OTHER, name, None, note=problem.strerror or type(problem).__name__)
        return self._add(kind, name, None, note="not a regular file, not read")

    def _enter(self, path: bytes, name: bytes) -> Finding | None:
        if len(self._open) >= DEPTH_MAX:
            return self._add(Kind.OTHER, name, None, note=f"more than {DEPTH_MAX} directories deep, not entered")
        inside = _Directory(path, name)
        inside.list()
        self._open[-1].last = name  # who goes on from here goes on within it
        self._open.append(inside)
        return None

    def _add(self, kind: Kind, name: bytes, digest: bytes | None, *, size_bytes: int = 0, note: str = "") -> Finding:
        directory = self._open[-1]
        files = int(kind is Kind.FILE)
        directory.finish(kind, name, digest or b"", files=files, size_bytes=size_bytes)
        path = self._shown(below(directory.path, name))
        return Finding(kind=kind, path=path, bytes=size_bytes, digest=digest.hex() if digest else None, note=note)

    def _close(self) -> Finding:
        done = self._open.pop()
        root = done.tree.root()
        if self._open:
            self._open[-1].finish(Kind.DIRECTORY, done.name, root, files=done.files, size_bytes=done.size_bytes)
        fields: dict[str, Any] = {"bytes": done.size_bytes, "files": done.files, "digest": root.hex()}
        return Finding(kind="directory" if self._open else "tree", path=self._shown(done.path), **fields)

    def _shown(self, path: bytes) -> str:
        return shown(path[len(self._root) :].lstrip(b"/")) or "."
