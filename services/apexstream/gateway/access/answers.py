"""An error as an HTTP answer: its status, its JSON, and the headers that tell a client what to do about it."""

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.responses import Response

from apexstream.core.errors import ApexError, LimitReached, Unauthenticated

STATUS: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_action": 404,
    "unknown_task": 404,
    "conflict": 409,
    "too_large": 413,
    "invalid_parameters": 422,
    "limit_reached": 429,
    "unavailable": 503,
    "outcome_unknown": 503,
}


def refusal(problem: ApexError, status: int | None = None) -> Response:
    """The answer that carries ``problem``."""
    headers = {"x-content-type-options": "nosniff"}
    if isinstance(problem, Unauthenticated):
        headers["www-authenticate"] = "Bearer"
    if isinstance(problem, LimitReached):
        headers["retry-after"] = str(math.ceil(problem.retry_after_s))
    body = msgspec.json.encode({"error": problem.as_dict()})
    return Response(body, status or STATUS.get(problem.code, 500), headers, media_type="application/json")
