"""The plugin: the ``analyze`` action, which turns a directory into a stream of reports."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from apexstream.plugin import ActionContext, InvalidParameters, Plugin
from apexstream_plugin_corpus.analysis import analyse
from apexstream_plugin_corpus.globs import Selection
from apexstream_plugin_corpus.python import keep_parser_warnings_quiet
from apexstream_plugin_corpus.report import FileReport
from apexstream_plugin_corpus.summary import Summary, Tally
from apexstream_plugin_corpus.walk import Entry, Walk

FILES_MAX = 500_000  # files that one analysis lists before it starts; some 200 bytes of memory each
FILE_BYTES_DEFAULT = 4 * 1024 * 1024
NOT_SOURCE = ("__pycache__", ".git", ".hg", ".svn", ".venv", "node_modules", "site-packages")

_LISTED_AT_ONCE = 2_000  # entries listed between two looks at the cancellation token
_IN_WORK = 2  # files at once: the next one is read while the last report is being sent; parsing itself takes turns

Glob = Annotated[str, Meta(min_length=1, max_length=500)]

plugin = Plugin("corpus", summary="Counts and describes the source files of a directory, one chunk per file")


@plugin.action
async def analyze(
    ctx: ActionContext,
    path: Annotated[str, Meta(min_length=1, description="Directory to analyse, as the runner sees it.")],
    *,
    include: Annotated[
        tuple[Glob, ...],
        Meta(
            max_length=100,
            description="Take only files that one of these matches. Without a slash a pattern matches any component of a"
            " path (*.py), with one it starts at the directory (Lib/**/*.py). Empty: take all.",
        ),
    ] = (),
    exclude: Annotated[
        tuple[Glob, ...], Meta(max_length=100, description="Leave these out; wins over include.")
    ] = NOT_SOURCE,
    limit: Annotated[int, Meta(ge=0, description="Stop after so many files; 0: no limit.")] = 0,
    follow_symlinks: Annotated[
        bool, Meta(description="Read what symbolic links point to; no loop is followed.")
    ] = False,
    max_file_bytes: Annotated[
        int, Meta(ge=1024, le=64 * 1024 * 1024, description="Bytes of a larger file that are read; the rest is not.")
    ] = FILE_BYTES_DEFAULT,
) -> AsyncGenerator[FileReport | Summary, None]:
    """Analyse a directory of source files: one chunk per file with running totals, then a summary.

    Files come in the order of their path components, so a second run over the same files gives the same stream. Whatever
    cannot be read or is no text gives its chunk all the same, with ``skipped`` saying why.

    :raises InvalidParameters: ``path`` is no directory that can be listed, or has too many files; nothing was yielded.
    """
    keep_parser_warnings_quiet()
    entries = await _listing(ctx, Walk(Path(path), Selection.of(include, exclude), follow_symlinks), limit)
    describe = partial(analyse, Path(path), bytes_max=max_file_bytes, follow_symlinks=follow_symlinks)
    progress = _Progress.over(entries, max_file_bytes)
    tally = Tally()
    async with aclosing(_in_order(entries, describe)) as reports:
        async for entry, report in reports:
            if ctx.cancellation_token.is_cancelled:
                return
            yield replace(report, totals=tally.add(report))
            if (percentage := progress.after(entry)) is not None:
                await ctx.progress(percentage, f"{tally.totals.files} of {len(entries)} files: {report.path}")
    if not ctx.cancellation_token.is_cancelled:
        yield tally.summary()


async def _listing(ctx: ActionContext, walk: Walk, limit: int) -> list[Entry]:
    """All files that are to be analysed, or the first of them if the task was cancelled meanwhile."""
    entries: list[Entry] = []
    wanted = min(limit or FILES_MAX + 1, FILES_MAX + 1)
    upcoming = iter(walk)
    try:
        while not ctx.cancellation_token.is_cancelled and (
            part := await asyncio.to_thread(_take, upcoming, min(_LISTED_AT_ONCE, wanted - len(entries)))
        ):
            entries += part
    except (OSError, ValueError) as problem:  # of the directory itself: what is below it becomes an entry that says so
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise InvalidParameters(
            f"{str(walk.root)[:200]!r} cannot be listed: {reason}",
            where="corpus.analyze $.path",
            hint="Give a directory on the machine that runs the plugin",
        ) from None
    if len(entries) > FILES_MAX:
        raise InvalidParameters(
            f"more than {FILES_MAX} files",
            where="corpus.analyze $.path",
            hint="Narrow it with include or exclude, or set limit",
        )
    return entries


def _take(upcoming: Iterator[Entry], count: int) -> list[Entry]:
    return list(islice(upcoming, count))


async def _in_order(
    entries: list[Entry], describe: Callable[[Entry], FileReport]
) -> AsyncGenerator[tuple[Entry, FileReport], None]:
    """Describe the entries in threads, a few at a time, and yield each with its report in the order given."""
    upcoming = iter(entries)
    in_work: deque[tuple[Entry, asyncio.Task[FileReport]]] = deque()
    try:
        while True:
            for entry in islice(upcoming, _IN_WORK - len(in_work)):
                in_work.append((entry, asyncio.create_task(asyncio.to_thread(describe, entry))))
            if not in_work:
                return
            entry, task = in_work.popleft()
            yield entry, await task
    finally:
        for _, task in in_work:
            task.cancel()
        await asyncio.gather(*(task for _, task in in_work), return_exceptions=True)


@dataclass(slots=True)
class _Progress:
    """How much is done, by the bytes that are read. A file of no bytes counts as one, so that it moves things too."""

    bytes_max: int
    total: int
    done: int = 0
    shown: int = 0  # whole percents: more than a hundred updates would tell a viewer nothing

    @classmethod
    def over(cls, entries: Iterable[Entry], bytes_max: int) -> "_Progress":
        """Nothing done yet of ``entries``, of each of which at most ``bytes_max`` are read."""
        return cls(bytes_max, sum(_weight(entry, bytes_max) for entry in entries))

    def after(self, entry: Entry) -> float | None:
        """The percentage with ``entry`` done; None if no whole percent was passed."""
        self.done += _weight(entry, self.bytes_max)
        whole = 100 * self.done // self.total
        if whole == self.shown:
            return None
        self.shown = whole
        return round(100 * self.done / self.total, 1)


def _weight(entry: Entry, bytes_max: int) -> int:
    return 1 + min(entry.size, bytes_max)
