"""The commits of a Git repository, oldest first, read from ``git log`` as it writes them."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator

import msgspec

LINE_BYTES_MAX = 1 << 20
STOP_TIMEOUT_S = 5.0
_SUBJECT_CHARACTERS = 100
_COMMIT, _FIELD = "\x1e", "\x1f"
_FORMAT = f"%x1e%H%x1f%aE%x1f%ct%x1f%<({_SUBJECT_CHARACTERS},trunc)%s"
# Nothing that a repository's own configuration names is to be run.
_SAFE = ("-c", "core.fsmonitor=false", "-c", "log.showSignature=false", "-c", "core.quotePath=true")
_LOG = ("log", "--reverse", "--no-merges", "--numstat", "--no-ext-diff", "--no-textconv", f"--format={_FORMAT}")


class NoHistory(Exception):
    """Git cannot read the repository; the text says why."""


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """``t``: when it was committed, seconds since the epoch. ``added`` and ``deleted`` are lines, of texts only."""

    t: int
    id: str
    author: str
    subject: str
    files: int = 0
    added: int = 0
    deleted: int = 0


class _Reader:
    """Puts lines together to commits."""

    def __init__(self) -> None:
        self._fields: list[str] | None = None
        self._files = self._added = self._deleted = 0

    def take(self, line: str) -> Commit | None:
        """The commit that ``line`` shows to be whole: that before it."""
        if line.startswith(_COMMIT):
            commit, self._fields = self.end(), line[1:].split(_FIELD, 3)
            self._files = self._added = self._deleted = 0
            return commit
        added, _, rest = line.partition("\t")
        if rest:
            deleted = rest.partition("\t")[0]
            self._files += 1
            self._added += int(added) if added.isdigit() else 0  # "-": not a text
            self._deleted += int(deleted) if deleted.isdigit() else 0
        return None

    def end(self) -> Commit | None:
        """The last commit."""
        if self._fields is None:
            return None
        commit_id, author, time, subject = self._fields
        return Commit(
            t=int(time),
            id=commit_id,
            author=author.lower(),
            subject=subject.rstrip(),
            files=self._files,
            added=self._added,
            deleted=self._deleted,
        )


async def commits(repository: str) -> AsyncGenerator[Commit, None]:
    """All commits of ``repository`` but merges. Raises :class:`NoHistory`."""
    git = shutil.which("git", path=os.environ.get("PATH", os.defpath))
    if git is None:
        raise NoHistory("git is not installed where the plugin runs")
    process = await asyncio.create_subprocess_exec(
        git, "-C", repository, *_SAFE, *_LOG, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=LINE_BYTES_MAX
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - asked for above
    complaint = asyncio.create_task(process.stderr.read(LINE_BYTES_MAX))
    reader = _Reader()
    try:
        async for line in process.stdout:
            commit = reader.take(line.decode("utf-8", "replace").rstrip("\n"))
            if commit is not None:
                yield commit
        if await process.wait() != 0:
            raise NoHistory((await complaint).decode("utf-8", "replace").strip()[:500] or "git failed")
        last = reader.end()
        if last is not None:
            yield last
    finally:
        await _stop(process, complaint)


async def _stop(process: asyncio.subprocess.Process, complaint: asyncio.Task[bytes]) -> None:
    if process.returncode is None:
        process.kill()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    complaint.cancel()
    await asyncio.gather(complaint, return_exceptions=True)
