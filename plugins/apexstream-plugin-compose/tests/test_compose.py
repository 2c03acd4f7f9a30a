"""The plugin's form: commits as Git has them, people as the file has them, windows as a few lines over all of it."""

import asyncio
import json
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apexstream_plugin_compose import history
from apexstream_plugin_compose.action import plugin
from apexstream_plugin_compose.composed import DAY_S, NOBODY, activity
from apexstream_plugin_compose.history import NoHistory, commits
from apexstream_plugin_compose.people import BadTable, memberships
from apexstream_plugin_compose.pipeline import definition

from apexstream.plugin import InvalidParameters

START_S = 1_700_000_000
AUTHORS = ("ada@example.org", "Grace@example.org", "alan@example.org", "kay@example.org")


def imported(folder: Path, times: list[int], seed: int = 1) -> Path:
    """A repository with a commit at each of ``times``, in this order."""
    draw, said = random.Random(seed), []
    for number, time in enumerate(times):
        who = f"Somebody <{draw.choice(AUTHORS)}> {time} +0000"
        text, body = f"Change {number}\n\nWhy.\n", "line\n" * draw.randint(1, 40)
        said.append(f"commit refs/heads/main\nauthor {who}\ncommitter {who}\ndata {len(text)}\n{text}")
        said.append(f"M 100644 inline file{number % 5}\ndata {len(body)}\n{body}\n")
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    subprocess.run(["git", "-C", folder, "fast-import", "--quiet"], input="".join(said).encode(), check=True)
    return folder


def times_of(count: int, seed: int = 2) -> list[int]:
    """Mostly rising, as clocks of several people are."""
    draw = random.Random(seed)
    return [START_S + number * DAY_S // 3 - draw.randint(0, 2 * DAY_S) for number in range(count)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("repository"), times_of(120))


TABLE = """author,team,since
ada@example.org,engines,2023-01-01
GRACE@example.org,compilers,2023-11-01
ada@example.org,compilers,2023-11-25
alan@example.org,machines,2023-12-01
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    path.write_text(TABLE)
    return path


async def run(action: str, **params: Any) -> list[Any]:
    return [each async for each in plugin.execute_action_stream(action, params)]


def as_git_counts(repository: Path) -> Iterator[tuple[str, int]]:
    """(id, added lines) of each commit, by another road."""
    listed = subprocess.run(["git", "-C", repository, "rev-list", "--reverse", "main"], capture_output=True, check=True)
    for commit in listed.stdout.decode().split():
        said = subprocess.run(
            ["git", "-C", repository, "show", "--shortstat", "--format=", commit], capture_output=True, check=True
        )
        found = re.search(r"(\d+) insertion", said.stdout.decode())
        yield commit, int(found[1]) if found else 0


async def test_commits_are_those_of_the_repository(repository: Path) -> None:
    found = await run("commits", repository=str(repository))
    assert [(each.id, each.added) for each in found][::10] == list(as_git_counts(repository))[::10]
    assert [each.t for each in found] == times_of(120)
    assert [each.subject for each in found] == [f"Change {number}" for number in range(120)]
    assert {each.author for each in found} == {author.lower() for author in AUTHORS}


def expected(found: list[history.Commit], days: int) -> list[dict[str, Any]]:
    """Every commit in its window, over the whole history."""
    rows = memberships(TABLE.splitlines())
    size, windows = days * DAY_S, {}
    for commit in found:
        teams = [row.team for row in rows if row.author == commit.author and row.t <= commit.t]
        windows.setdefault((commit.t // size * size, (teams or [NOBODY])[-1]), []).append(commit)
    return [
        {"key": team, "start": start * 10**6, "end": (start + size) * 10**6, "commits": len(inside)}
        | {"added": sum(each.added for each in inside), "deleted": sum(each.deleted for each in inside)}
        | {"largest": max(each.added for each in inside)}
        for (start, team), inside in windows.items()
    ]


@pytest.mark.parametrize("days", [1, 7])
async def test_windows_are_those_of_the_whole_history(repository: Path, table: Path, days: int) -> None:
    found = await run("commits", repository=str(repository))
    windows = await run("activity", repository=str(repository), table=str(table), days=days)
    assert sorted(windows, key=str) == sorted(expected(found, days), key=str)
    assert [each["end"] for each in windows] == sorted(each["end"] for each in windows)
    assert {each["key"] for each in windows} == {"engines", "compilers", "machines", NOBODY}


async def test_a_commit_is_counted_or_late_and_never_both(repository: Path) -> None:
    late: list[dict[str, Any]] = []
    found = [
        {"t": each.t, "author": each.author, "added": 1, "deleted": 0}
        for each in await run("commits", repository=str(repository))
    ]
    windows = await activity(found, [], days=1, lateness_days=0, late=late.append).to_list()
    assert late
    assert sum(each["commits"] for each in windows) + len(late) == 120


async def test_leaving_early_ends_git(repository: Path) -> None:
    reading = commits(str(repository))
    assert (await anext(reading)).subject == "Change 0"
    async with asyncio.timeout(60):
        await reading.aclose()


async def test_what_is_no_repository_or_no_table_is_refused(tmp_path: Path, table: Path) -> None:
    with pytest.raises(NoHistory):
        await anext(commits(str(tmp_path / "nothing")))
    with pytest.raises(InvalidParameters, match="no history"):
        await run("commits", repository=str(tmp_path))
    with pytest.raises(InvalidParameters, match="no table"):
        await run("people", table=str(tmp_path / "nothing"))
    with pytest.raises(InvalidParameters, match="no history"):
        await run("activity", repository=str(tmp_path), table=str(table))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\n", "author, since, team"),
        ("author,team,since\nx,y,yesterday\n", "line 2"),
        ("author,team,since\nx\n", "line 2"),
        ("", "missing"),
    ],
)
def test_a_table_that_is_none_says_where(text: str, problem: str) -> None:
    with pytest.raises(BadTable, match=problem):
        memberships(text.splitlines())


async def test_people_come_by_time(table: Path) -> None:
    found = await run("people", table=str(table))
    assert [each.t for each in found] == sorted(each.t for each in found)
    assert [each.team for each in found] == ["engines", "compilers", "compilers", "machines"]


def test_the_definition_in_the_readme_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    found = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert found
    assert json.loads(found[1]) == definition("commits", "people")
