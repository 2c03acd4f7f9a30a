"""Reads one file to its digest, without following links and without blocking on what is no file."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

BLOCK_BYTES = 1024 * 1024


class Stopped(Exception):
    """The job is no longer wanted."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was read: its bytes and their SHA-256."""

    size_bytes: int
    digest: bytes


def read_digest(path: bytes, read: Callable[[int], None]) -> Content:
    """The digest of the regular file at ``path``. ``read`` is told of every block and may raise :class:`Stopped`.

    Raises :class:`OSError` for what cannot be read, a link or a device included.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "no longer a regular file")
        digest, size, buffer = sha256(), 0, bytearray(BLOCK_BYTES)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
            read(count)
    return Content(size, digest.digest())
