"""The transformation as operators: what ``pipeline.definition`` says, in a plugin."""

from collections.abc import Callable
from typing import Any

from apexstream.plugin import StreamComposer, StreamTransformer
from apexstream.plugin import operators as op

DAY_S = 86_400
NOBODY = "(no team)"
_US = 1_000_000


def credited(pair: dict[str, Any]) -> dict[str, Any]:
    """A commit and what the table says of its author: what of them is counted. Both forms call it."""
    commit = pair["left"]
    team = pair["right"]["team"] if "right" in pair else NOBODY
    return {"t": commit["t"], "team": team, "added": commit["added"], "deleted": commit["deleted"]}


def activity(
    commits: op.Source[dict[str, Any]],
    people: op.Source[dict[str, Any]],
    *,
    days: int,
    lateness_days: int,
    late: Callable[[dict[str, Any]], object],
) -> StreamTransformer[dict[str, Any]]:
    """What each team did in each window of ``days``, as the windows close. ``late`` gets commits that came too late."""
    return (
        StreamComposer()
        .lookup(
            commits,
            people,
            key_of=lambda each: each["author"],
            time_of=lambda each: each["t"],
            how="left",
            lateness=lateness_days * DAY_S,
            late=late,
        )
        .map(_pair)
        .map(credited)
        .window(op.Tumbling(days * DAY_S), time_of=lambda each: each["t"], key_of=lambda each: each["team"])
        .map(_counted)
    )


def _pair(joined: op.Joined[Any, Any]) -> dict[str, Any]:
    found = {} if joined.right is op.MISSING else {"right": joined.right}
    return {"key": joined.key, "left": joined.left, **found}


def _counted(window: op.Window[dict[str, Any]]) -> dict[str, Any]:
    return {
        "key": window.key,
        "start": int(window.start) * _US,
        "end": int(window.end) * _US,
        "commits": len(window.elements),
        "added": sum(each["added"] for each in window.elements),
        "deleted": sum(each["deleted"] for each in window.elements),
        "largest": max(each["added"] for each in window.elements),
    }
