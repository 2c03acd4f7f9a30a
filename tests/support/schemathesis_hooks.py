"""Loaded by schemathesis' own process (SCHEMATHESIS_HOOKS)."""

import gc
import os
import re
from typing import Any

import schemathesis

from apexstream.core.ids import ID_PATTERN

# Python 3.11 now and then fails to parse ("AST constructor recursion depth mismatch") when garbage is collected meanwhile,
# and hypothesis parses the source of every lambda that it meets. One run is short enough to go without collections.
gc.disable()

FINISHED = "APEX_FINISHED_STREAM"
"""Names a stream that has ended. Answers that stream are asked of it, since of one that does not exist they may have no end."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Send requests that would be right for any stream to the one that has ended, and let nobody erase it."""
    given, finished = case.path_parameters or {}, os.environ[FINISHED]
    stream_id = str(given.get("task_id", ""))
    if case.path.startswith("/streams/{task_id}/") and re.fullmatch(ID_PATTERN, stream_id):
        given["task_id"] = finished
    elif case.path == "/streams/{task_id}" and stream_id == finished:
        given["task_id"] = "another"
