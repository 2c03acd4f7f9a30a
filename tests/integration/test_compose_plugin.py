"""The compose plugin's two forms over one repository: what the chain gives in a plugin is what the pipeline gives on Kafka."""

import subprocess
from pathlib import Path
from typing import Any

import msgspec
from apexstream_plugin_compose.action import plugin
from apexstream_plugin_compose.composed import activity
from apexstream_plugin_compose.pipeline import definition
from tests.support.jobs import Log, processing, values
from tests.support.pipelines import chunks_of

from apexstream.core.chunk import Kind

DAY_S = 86_400
PEOPLE = "author,team,since\na@x,engines,2023-01-01\nb@x,compilers,2023-11-10\na@x,compilers,2023-12-01\n"


def repository(folder: Path) -> str:
    """300 commits of three people in order, but every seventh clock is ten days slow."""
    said = []
    for number in range(300):
        time = 1_699_000_000 + number * DAY_S // 4 - (10 * DAY_S if number % 7 == 3 else 0)
        who, body = f"N <{'abc'[number * 5 % 3]}@x> {time} +0000", "line\n" * (number % 23 + 1)
        said.append(f"commit refs/heads/main\ncommitter {who}\ndata 1\nm\nM 644 inline f{number % 4}\n")
        said.append(f"data {len(body)}\n{body}\n")
    subprocess.run(["git", "init", "-q", "-b", "main", folder], check=True)
    subprocess.run(["git", "-C", folder, "fast-import", "--quiet"], input="".join(said).encode(), check=True)
    return str(folder)


async def listed(action: str, **params: Any) -> list[Any]:
    """What an action yields, as JSON has it."""
    return [msgspec.to_builtins(each) async for each in plugin.execute_action_stream(action, params)]


async def test_the_plugins_operators_and_the_pipeline_on_kafka_agree(kafka: str, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text(PEOPLE)
    commits = await listed("commits", repository=repository(tmp_path / "repository"))
    people = await listed("people", table=str(table))
    late: list[dict[str, Any]] = []
    chain = activity(commits, people, days=7, lateness_days=5, late=late.append)
    wanted = [msgspec.json.encode(each) for each in await chain.to_list()]

    async with Log.open(kafka) as log, processing(log.settings):
        await log.submit("activity", **definition("commits", "people", days=7, lateness_days=5))
        await log.whole("commits", chunks_of(commits), run_size=17)
        await log.whole("people", chunks_of(people))
        content = await log.until("activity")
        came_late = await log.until("activity.late0")

    assert [chunk.payload for chunk in content.chunks if chunk.kind is Kind.DATA] == wanted
    assert content.fold.closed is Kind.COMPLETE
    assert values(came_late) == late
    assert len(commits) == 300
    assert late
    assert sum(each["commits"] for each in values(content)) == 300 - len(late)
