"""Trees of real files for the tests."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from apexstream_plugin_corpus.analysis import analyse
from apexstream_plugin_corpus.python import keep_parser_warnings_quiet
from apexstream_plugin_corpus.report import FileReport
from apexstream_plugin_corpus.walk import Walk

Describe = Callable[..., FileReport]
NOBODY = 65534


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Write ``content`` to a file, find it by a walk and return its report."""
    keep_parser_warnings_quiet()

    def describe(name: str, content: bytes | str = b"", *, bytes_max: int = 1 << 22) -> FileReport:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        (entry,) = Walk(tmp_path)
        return analyse(tmp_path, entry, bytes_max=bytes_max)

    return describe


@pytest.fixture
def as_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Let this thread read files as an ordinary user, even where the tests run as root; ``.`` is ``tmp_path``."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def as_nobody() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        libc = ctypes.CDLL(None, use_errno=True)
        libc.setfsuid(NOBODY)
        try:
            yield
        finally:
            libc.setfsuid(0)

    return as_nobody
