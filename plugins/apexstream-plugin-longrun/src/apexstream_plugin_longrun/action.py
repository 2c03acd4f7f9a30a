"""The plugin: three long jobs, one for each way to go on after a crash that keeps what was done."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta

from apexstream.plugin import ActionContext, Chunk, InvalidParameters, Plugin
from apexstream_plugin_longrun.digest import DigestTree, Finding, Position
from apexstream_plugin_longrun.listing import Entry, entries_below, shown
from apexstream_plugin_longrun.reading import Stopped
from apexstream_plugin_longrun.sieve import Progress, Segment, segments

WORK_S = 0.05  # work in a thread between two looks at the stream: what a crash costs, and how long a cancel waits
FINDINGS_AT_ONCE = 500
ENTRIES_AT_ONCE = 500
NUMBER_MAX = 10**14

Directory = Annotated[str, Meta(min_length=1, max_length=4000, description="Directory, as the runner sees it.")]

plugin = Plugin("longrun", summary="Long jobs that go on where they were cut off: a digest tree, a prime sieve, a walk")


class Listed(msgspec.Struct, frozen=True):
    """One entry of a walk."""

    path: str
    kind: str
    bytes: int
    depth: int


@plugin.action(resume="checkpointed", max_attempts=20)
async def digest(ctx: ActionContext, path: Directory) -> AsyncGenerator[Finding | Chunk, None]:
    """Digest a directory: SHA-256 of every file, a Merkle root of every directory, and of the whole tree at the end.

    The state travels in the chunk that it belongs to: ``yield Chunk(finding, checkpoint=position)``. Another attempt reads
    on after that finding and gives the same root as one that was never cut off.

    :raises InvalidParameters: ``path`` is no directory that can be listed; nothing was yielded.
    """
    job = _DigestJob(ctx, os.fsencode(path))
    tree = await asyncio.to_thread(job.open)
    try:
        while found := await asyncio.to_thread(job.work, tree):
            *earlier, last = found
            for finding in earlier:
                yield finding
            yield Chunk(last, checkpoint=tree.position())
            await ctx.progress(message=f"{job.read_bytes / 1e6:,.0f} MB read by this attempt, now at {last.path}")
    except Stopped:
        return


@plugin.action(resume="checkpointed", max_attempts=20)
def primes(
    ctx: ActionContext,
    stop: Annotated[int, Meta(ge=0, le=NUMBER_MAX, description="Count the primes below this number.")],
    *,
    start: Annotated[int, Meta(ge=0, le=NUMBER_MAX, description="Begin here.")] = 0,
    segment: Annotated[int, Meta(ge=1000, le=1 << 26, description="Numbers for each chunk.")] = 1 << 20,
    checkpoint_chunks: Annotated[int, Meta(ge=1, description="Keep a state at least every so many chunks …")] = 50,
    checkpoint_s: Annotated[float, Meta(gt=0, description="… or seconds.")] = 2.0,
) -> Iterator[Segment]:
    """Count primes by a segmented sieve, one chunk for each segment.

    A plain generator, which runs in a thread and may compute for as long as it likes. The state is assigned with every
    chunk and kept with those that are due: ``ctx.persistence.every(…)``.
    """
    ctx.persistence.every(chunks=checkpoint_chunks, seconds=checkpoint_s)
    progress = ctx.restored(Progress) or Progress(start, 0)
    for found in segments(progress, stop, segment):
        if ctx.cancellation_token.is_cancelled:
            return
        ctx.persistence.state = progress
        yield found
        ctx.report(100 * (found.high - start) / (stop - start), f"{found.total} primes below {found.high}")


@plugin.action(resume="deterministic")
async def walk(ctx: ActionContext, path: Directory) -> AsyncGenerator[Listed, None]:
    """List everything below a directory, in an order that every run finds again.

    It keeps no state: another attempt runs again, and what is published already is skipped. That is right where a run
    always gives the same and is cheap; a directory that changes meanwhile is neither.

    :raises InvalidParameters: ``path`` is no directory that can be listed; nothing was yielded.
    """
    entries = entries_below(os.fsencode(path))
    while found := await asyncio.to_thread(_take, entries, path):
        for entry in found:
            yield Listed(shown(entry.path), entry.kind, entry.size_bytes, entry.depth)
        if ctx.cancellation_token.is_cancelled:
            return


class _DigestJob:
    """The part of ``digest`` that runs in threads, one step at a time."""

    def __init__(self, ctx: ActionContext, root: bytes) -> None:
        self.read_bytes = 0
        self._ctx = ctx
        self._root = root

    def open(self) -> DigestTree:
        """Where the stream goes on, or the start."""
        try:
            return DigestTree(self._root, self._ctx.restored(Position), self._read)
        except OSError as problem:
            raise _no_directory("digest", shown(self._root), problem) from None

    def work(self, tree: DigestTree) -> list[Finding]:
        """Findings of about ``WORK_S``, at least one unless all is done. Raises :class:`Stopped` once cancelled."""
        found: list[Finding] = []
        until = time.monotonic() + WORK_S
        for finding in islice(tree, FINDINGS_AT_ONCE):
            found.append(finding)
            if time.monotonic() >= until:
                break
        return found

    def _read(self, size_bytes: int) -> None:
        self.read_bytes += size_bytes
        if self._ctx.cancellation_token.is_cancelled:
            raise Stopped


def _take(entries: Iterator[Entry], path: str) -> list[Entry]:
    try:
        return list(islice(entries, ENTRIES_AT_ONCE))
    except OSError as problem:
        raise _no_directory("walk", path, problem) from None


def _no_directory(action: str, path: str, problem: OSError) -> InvalidParameters:
    return InvalidParameters(
        f"{path[:200]!r} cannot be listed: {problem.strerror}",
        where=f"longrun.{action} $.path",
        hint="Give a directory on the machine that runs the plugin",
    )
