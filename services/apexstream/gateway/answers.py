"""HTTP answers that all routes share: JSON, errors by their code, bodies within a limit."""

import math
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from apexstream.core.errors import ApexError, InvalidRequest, LimitReached, Unauthenticated
from apexstream.core.strict_json import check_keys

BODY_BYTES_MAX = 512 * 1024
STATUS = {
    "bad_request": 400,
    "beyond_end": 400,
    "cursor_invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_action": 404,
    "unknown_pipeline": 404,
    "unknown_stats": 404,
    "unknown_task": 404,
    "conflict": 409,
    "cursor_epoch": 410,
    "erased": 410,
    "expired": 410,
    "too_large": 413,
    "invalid_parameters": 422,
    "invalid_pipeline": 422,
    "invalid_view": 422,
    "limit_reached": 429,
    "unavailable": 503,
    "outcome_unknown": 503,
}
"""HTTP status by an error's code; 500 for those that are not here."""

T = TypeVar("T")


class TooLarge(InvalidRequest):
    """The request's body is over ``BODY_BYTES_MAX``."""

    code = "too_large"


class Conflict(ApexError):
    """The request does not fit the state that the task is in."""

    code = "conflict"


def answer(content: Any, status: int = 200) -> Response:
    """``content`` as JSON."""
    return Response(
        msgspec.json.encode(content), status, {"x-content-type-options": "nosniff"}, media_type="application/json"
    )


def refusal(problem: ApexError, status: int | None = None) -> Response:
    """The answer that tells of ``problem``, and in its headers what to do about it."""
    told = answer({"error": problem.as_dict()}, status or STATUS.get(problem.code, 500))
    if isinstance(problem, Unauthenticated):
        told.headers["www-authenticate"] = "Bearer"
    if isinstance(problem, LimitReached):
        told.headers["retry-after"] = str(math.ceil(problem.retry_after_s))
    return told


def parse(body: bytes, kind: type[T]) -> T:
    """A JSON body as a ``kind``; :class:`InvalidRequest` if it is none, or has a key twice."""
    try:
        parsed = msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        raise InvalidRequest(str(problem), where="body") from None
    check_keys(body, "body")
    return parsed


async def read_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> bytes:
    """The whole body; :class:`TooLarge` as soon as it is over ``bytes_max``."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > bytes_max:
            raise TooLarge(f"the body is over {bytes_max} bytes", where="body", hint="Pass large input by reference")
        parts.append(part)
    return b"".join(parts)


async def refuse(_: Request, problem: Exception) -> Response:
    """Starlette's handler of our errors."""
    assert isinstance(problem, ApexError)  # noqa: S101 - how it is registered
    return refusal(problem)


async def refuse_http(_: Request, problem: Exception) -> Response:
    """Starlette's handler of its own errors."""
    assert isinstance(problem, HTTPException)  # noqa: S101 - how it is registered
    codes = {404: "not_found", 405: "method_not_allowed"}
    error = {"code": codes.get(problem.status_code, "bad_request"), "message": problem.detail}
    told = answer({"error": error}, problem.status_code)
    told.headers.update(problem.headers or {})  # a 405 must say what is allowed
    return told


async def fail(_: Request, __: Exception) -> Response:
    """Starlette's handler of what nobody expected."""
    return answer({"error": {"code": "internal", "message": "the gateway failed; its log says why"}}, 500)
