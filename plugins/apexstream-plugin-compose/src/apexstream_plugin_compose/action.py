"""The plugin: the two inputs as streams of their own, and what comes of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from apexstream.plugin import ActionContext, InvalidParameters, Plugin
from apexstream_plugin_compose import composed, history
from apexstream_plugin_compose.history import Commit, NoHistory
from apexstream_plugin_compose.people import BadTable, Membership, memberships

Path = Annotated[str, Meta(min_length=1, max_length=4000, description="Path, as the runner sees it.")]
Days = Annotated[int, Meta(ge=1, le=3650, description="Length of a window.")]
Lateness = Annotated[int, Meta(ge=0, le=36_500, description="How much older a commit may be than one before it.")]

plugin = Plugin("compose", summary="The history of a Git repository by team and week, in both forms of the operators")
plugin.function(composed.credited)


@plugin.action(resume="deterministic")
async def commits(ctx: ActionContext, repository: Path) -> AsyncGenerator[Commit, None]:
    """Every commit of a repository but merges, oldest first, as its history tells.

    :raises InvalidParameters: ``repository`` is none that Git can read.
    """
    async with aclosing(_read(repository)) as found:
        async for commit in found:
            yield commit
            if ctx.cancellation_token.is_cancelled:
                return


@plugin.action(resume="deterministic")
async def people(table: Path) -> AsyncGenerator[Membership, None]:
    """Who was in which team since when, by time: the rows of a CSV file with the columns author, team, since.

    :raises InvalidParameters: ``table`` is no such file.
    """
    for row in await asyncio.to_thread(_table, table):
        yield row


@plugin.action(resume="deterministic")
async def activity(
    ctx: ActionContext, repository: Path, table: Path, days: Days = 7, lateness_days: Lateness = 30
) -> AsyncGenerator[dict[str, Any], None]:
    """What each team did in each window: the operators in a plugin. The pipeline in README.md gives the same.

    :raises InvalidParameters: ``repository`` or ``table`` cannot be read.
    """
    late = 0

    def count(_: object) -> None:
        nonlocal late
        late += 1

    rows = await asyncio.to_thread(_table, table)
    windows = composed.activity(
        _plain(repository), [_fields(row) for row in rows], days=days, lateness_days=lateness_days, late=count
    )
    async with windows.opened() as found:
        async for window in found:
            yield window
            if ctx.cancellation_token.is_cancelled:
                return
    await ctx.progress(100, f"{late} commits came too late to count")


async def _plain(repository: str) -> AsyncGenerator[dict[str, Any], None]:
    async with aclosing(_read(repository)) as found:
        async for commit in found:
            yield _fields(commit)


async def _read(repository: str) -> AsyncGenerator[Commit, None]:
    try:
        async with aclosing(history.commits(repository)) as found:
            async for commit in found:
                yield commit
    except NoHistory as problem:
        raise InvalidParameters(
            f"{repository[:200]!r} has no history that can be read: {problem}",
            where="compose $.repository",
            hint="Give a Git repository on the machine that runs the plugin",
        ) from None


def _table(path: str) -> list[Membership]:
    try:
        with open(path, encoding="utf-8", newline="") as lines:  # noqa: PTH123 - the path is the user's text
            return memberships(lines)
    except (BadTable, OSError, UnicodeError) as problem:
        raise InvalidParameters(
            f"{path[:200]!r} is no table of people: {problem}",
            where="compose $.table",
            hint="A CSV file with the columns author, team, since (2024-03-01)",
        ) from None


def _fields(row: Commit | Membership) -> dict[str, Any]:
    return msgspec.structs.asdict(row)
