"""The transformation as a pipeline: what ``composed.activity`` does, on Kafka."""

from typing import Any

from apexstream_plugin_compose.composed import DAY_S


def definition(commits: str, people: str, *, days: int = 7, lateness_days: int = 30) -> dict[str, Any]:
    """The definition (docs/pipelines.md) for the streams ``commits`` and ``people`` of the actions of these names."""
    return {
        "inputs": [
            {"stream": commits, "time": "$.t", "unit": "s", "key": "$.author"},
            {"stream": people, "time": "$.t", "unit": "s", "key": "$.author"},
        ],
        "combine": {"op": "lookup", "how": "left", "lateness_s": lateness_days * DAY_S},
        "operators": [
            {"op": "map", "function": "compose:credited"},
            {
                "op": "window",
                "kind": "tumbling",
                "size_s": days * DAY_S,
                "key": "$.team",
                "give": {
                    "commits": "count",
                    "added": "sum $.added",
                    "deleted": "sum $.deleted",
                    "largest": "max $.added",
                },
            },
        ],
    }
