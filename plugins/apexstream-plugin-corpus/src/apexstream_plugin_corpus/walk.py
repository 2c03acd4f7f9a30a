"""Lists the files below a directory in a stable order, without opening any of them."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from apexstream_plugin_corpus.globs import Selection

_SPECIAL = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class Skip(StrEnum):
    """Why a file is listed and counted, but not analysed."""

    BINARY = "binary"
    FAILED = "failed"  # a defect of this plugin; the note says which
    SPECIAL = "special"  # a FIFO, socket or device: opening one may block, or do something
    SYMLINK = "symlink"
    UNREADABLE = "unreadable"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as the walk saw it.

    ``path`` is relative, with ``/``, exactly as the file system gives it, so it may hold lone surrogates. ``size`` is in
    bytes, 0 for what has none. With ``skipped`` set the file must not be opened. ``directory`` is set for a directory
    that could not be listed.
    """

    path: str
    size: int = 0
    skipped: Skip | None = None
    note: str = ""
    directory: bool = False


@dataclass(slots=True)
class Walk:
    """Iterates over every file below ``root`` that ``selection`` takes, as :class:`Entry`, in the order of their path
    components. Directories that cannot be listed appear as one skipped entry.

    Symbolic links are entries of their own unless ``follow_symlinks``; then a directory behind a link is entered only if
    it has not been entered before, so that no loop is followed.
    """

    root: Path
    selection: Selection = field(default_factory=Selection)
    follow_symlinks: bool = False
    _entered: set[tuple[int, int]] = field(default_factory=set)

    def __iter__(self) -> Iterator[Entry]:
        """Each entry once. An explicit stack, so that no depth of directories meets the recursion limit."""
        self._entered = {_identity(self.root.stat())}
        open_directories = [iter(_listed(self.root))]
        prefixes = [""]
        while open_directories:
            child = next(open_directories[-1], None)
            if child is None:
                open_directories.pop()
                prefixes.pop()
                continue
            path = prefixes[-1] + child.name
            if self.selection.excludes(path):
                continue
            found = self._look_at(path, child)
            if isinstance(found, Entry):
                if found.directory or self.selection.takes(path):  # what is lost with a directory is never lost unseen
                    yield found
            else:
                open_directories.append(iter(found))
                prefixes.append(f"{path}/")

    def _look_at(self, path: str, child: os.DirEntry[str]) -> "Entry | list[os.DirEntry[str]]":
        """What ``child`` is: an entry, or a directory's sorted children."""
        try:
            if child.is_symlink():
                return self._look_behind(path, child)
            if child.is_dir(follow_symlinks=False):
                return self._enter(path, child)
            return _entry(path, child.stat(follow_symlinks=False))
        except FileNotFoundError:
            return Entry(path, skipped=Skip.VANISHED)
        except OSError as problem:
            return Entry(path, skipped=Skip.UNREADABLE, note=_reason(problem))

    def _look_behind(self, path: str, link: os.DirEntry[str]) -> "Entry | list[os.DirEntry[str]]":
        if not self.follow_symlinks:
            return Entry(path, skipped=Skip.SYMLINK, note="symbolic link, not followed")
        try:
            status = link.stat()
        except OSError as problem:
            return Entry(path, skipped=Skip.SYMLINK, note=f"broken symbolic link: {_reason(problem)}")
        if not stat.S_ISDIR(status.st_mode):
            return _entry(path, status)
        if _identity(status) in self._entered:
            return Entry(path, skipped=Skip.SYMLINK, note="symbolic link to a directory that was already entered")
        return self._enter(path, link)

    def _enter(self, path: str, directory: os.DirEntry[str]) -> "Entry | list[os.DirEntry[str]]":
        try:
            children = _listed(directory.path)
            if self.follow_symlinks:
                self._entered.add(_identity(directory.stat()))
        except FileNotFoundError:
            return Entry(path, skipped=Skip.VANISHED, note="directory", directory=True)
        except OSError as problem:
            note = f"directory cannot be listed: {_reason(problem)}"
            return Entry(path, skipped=Skip.UNREADABLE, note=note, directory=True)
        return children


def _listed(directory: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as children:
        return sorted(children, key=lambda child: child.name)


def _entry(path: str, status: os.stat_result) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        return Entry(path, status.st_size)
    return Entry(path, skipped=Skip.SPECIAL, note=f"{_SPECIAL.get(kind, 'not a regular file')}, not opened")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _reason(problem: OSError) -> str:
    return problem.strerror or type(problem).__name__
