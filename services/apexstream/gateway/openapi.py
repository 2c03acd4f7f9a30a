"""The HTTP routes as an OpenAPI 3.1 document, made from the routes themselves and the structs that they take and give.

A handler says with :func:`operation` what it takes and answers; the rest (path, method, summary) is read from its route and
docstring. The streaming protocols have documents of their own and are not in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from starlette.routing import BaseRoute, Route

from apexstream.client.problems import Problem
from apexstream.core.ids import ID_PATTERN

_REFS: Final = "#/components/schemas/{name}"
_MARK: Final = "__operation__"
_ID: Final = {"type": "string", "pattern": f"^{ID_PATTERN}$"}

F = TypeVar("F", bound=Callable[..., Any])


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was not followed."""

    error: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a handler takes and gives: struct types by status, the body's struct, JSON Schemas of query parameters, and the
    statuses that it refuses with."""

    answers: Mapping[int, Any]
    body: Any = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refusals: tuple[int, ...] = ()
    public: bool = False


def operation(
    answers: Mapping[int, Any],
    *,
    body: Any = None,
    query: Mapping[str, Mapping[str, Any]] | None = None,
    refusals: tuple[int, ...] = (),
    public: bool = False,
) -> Callable[[F], F]:
    """Describe a handler; see :class:`Operation`."""
    described = Operation(answers=answers, body=body, query=query or {}, refusals=refusals, public=public)

    def mark(handler: F) -> F:
        setattr(handler, _MARK, described)
        return handler

    return mark


def described(routes: Iterable[BaseRoute]) -> Iterator[tuple[Route, Operation]]:
    """The routes whose handlers describe themselves."""
    for route in routes:
        found = getattr(route.endpoint, _MARK, None) if isinstance(route, Route) else None
        if isinstance(route, Route) and found is not None:
            yield route, found


def document(routes: Iterable[BaseRoute], version: str) -> dict[str, Any]:
    """The document of those ``routes`` that describe themselves."""
    known = list(described(routes))
    kinds = [Refusal]
    for _, found in known:
        kinds += [kind for kind in (*found.answers.values(), found.body) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFS)
    schema_of = {id(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route, found in known:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            paths.setdefault(route.path, {})[method.lower()] = _described(route, found, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ApexStream gateway", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
        "security": [{"token": []}],
    }


def _described(route: Route, found: Operation, schema_of: Mapping[int, Any]) -> dict[str, Any]:
    refusals = set(found.refusals) | (set() if found.public else {401, 403, 429, 503})
    answers = {
        str(status): {"description": "done", "content": _json(schema_of[id(kind)])}
        for status, kind in sorted(found.answers.items())
    }
    answers |= {
        str(status): {"description": "refused", "content": _json(schema_of[id(Refusal)])}
        for status in sorted(refusals - set(found.answers))
    }
    text = (route.endpoint.__doc__ or "").partition(": ")[2].partition("\n")[0]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": text.rstrip(),
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": _ID} for name in route.param_convertors),
            *({"name": name, "in": "query", "schema": dict(schema)} for name, schema in found.query.items()),
        ],
        "responses": answers,
    }
    if found.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schema_of[id(found.body)])}
    if found.public:
        operation["security"] = []
    return operation


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
