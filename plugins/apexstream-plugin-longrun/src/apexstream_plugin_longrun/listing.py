"""What is in a directory, in an order that every run finds again: by the bytes of the names."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

DEPTH_MAX = 200  # directories within each other; keeps a state within its size


class Kind(StrEnum):
    """What an entry of a directory is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"  # a device, socket or FIFO: never opened


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. ``path`` is relative to the root that was listed, as the file system has it."""

    path: bytes
    kind: Kind
    size_bytes: int
    depth: int


def names(directory: bytes) -> list[bytes]:
    """The names in a directory, sorted. Raises :class:`OSError`."""
    return sorted(os.listdir(directory))  # noqa: PTH208 - bytes, which pathlib does not take


def below(directory: bytes, name: bytes) -> bytes:
    """The path of an entry."""
    return directory + name if directory.endswith(b"/") else directory + b"/" + name


def kind_of(mode: int) -> Kind:
    """The kind of what has this mode."""
    for kind, test in ((Kind.FILE, stat.S_ISREG), (Kind.DIRECTORY, stat.S_ISDIR), (Kind.LINK, stat.S_ISLNK)):
        if test(mode):
            return kind
    return Kind.OTHER


def entries_below(root: bytes) -> Iterator[Entry]:
    """Everything below ``root``, a directory before what is in it. What vanishes or cannot be listed meanwhile is left out.

    Raises :class:`OSError` if ``root`` itself cannot be listed.
    """
    levels = [(b"", iter(names(root)))]
    while levels:
        prefix, rest = levels[-1]
        name = next(rest, None)
        if name is None:
            levels.pop()
            continue
        path = prefix + name
        try:
            status = os.lstat(below(root, path))
            kind = kind_of(status.st_mode)
            inside = names(below(root, path)) if kind is Kind.DIRECTORY and len(levels) < DEPTH_MAX else None
        except OSError:
            continue
        yield Entry(path, kind, status.st_size if kind is Kind.FILE else 0, len(levels))
        if inside is not None:
            levels.append((path + b"/", iter(inside)))


def shown(path: bytes) -> str:
    """``path`` as text; bytes that are no UTF-8 appear as ``\\\\xNN``."""
    return path.decode("utf-8", "backslashreplace")
