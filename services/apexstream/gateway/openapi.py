"""The HTTP routes as an OpenAPI 3.1 document, made from the routes themselves and the structs that they take and give.

A handler says with :func:`operation` what it takes and answers; the rest (path, method, summary) is read from its route and
docstring. WebSockets, Durable Streams and MCP have documents of their own and are not in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from starlette.routing import BaseRoute, Route

from apexstream.client.problems import Problem
from apexstream.core.ids import ID_PATTERN

EVENTS: Final = "text/event-stream"
_REFS: Final = "#/components/schemas/{name}"
_MARK: Final = "__operation__"
_ID: Final = {"type": "string", "pattern": f"^{ID_PATTERN}$"}
_PIECES: Final = {
    EVENTS: {"type": "object", "properties": {"id": {"type": "string"}, "data": {"type": "string"}}},
}
"""What an answer is made of that goes on, by its media type: tools look at each event by itself."""

F = TypeVar("F", bound=Callable[..., Any])


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was not followed."""

    error: Problem


@dataclass(frozen=True, slots=True)
class Streaming:
    """An answer that goes on for as long as its stream does, in one of these media types."""

    media_types: tuple[str, ...]


Schemas = Mapping[str, Mapping[str, Any]]
"""JSON Schemas of parameters by name; those with ``"required": True`` beside their type must be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a handler takes and gives: by status the struct of its answer, :class:`Streaming`, or None for no content; the body's
    struct, its parameters but for ids in the path, and the statuses that it refuses with."""

    answers: Mapping[int, Any]
    body: Any = None
    path: Schemas = field(default_factory=dict)
    query: Schemas = field(default_factory=dict)
    headers: Schemas = field(default_factory=dict)
    refusals: tuple[int, ...] = ()
    public: bool = False


def operation(answers: Mapping[int, Any], **more: Any) -> Callable[[F], F]:
    """Describe a handler; see :class:`Operation`."""
    described = Operation(answers=answers, **more)

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
    kinds: list[Any] = [Refusal]
    for _, found in known:
        kinds += [kind for kind in (*found.answers.values(), found.body) if isinstance(kind, type)]
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
    answers = {str(status): _answer(kind, schema_of) for status, kind in sorted(found.answers.items())}
    answers |= {
        str(status): {"description": "refused", "content": _json(schema_of[id(Refusal)])}
        for status in sorted(refusals - set(found.answers))
    }
    text = (route.endpoint.__doc__ or "").partition(": ")[2].partition("\n")[0]
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": text.rstrip(),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": dict(found.path.get(name, _ID))}
                for name in route.param_convertors
            ),
            *_parameters(found.query, "query"),
            *_parameters(found.headers, "header"),
        ],
        "responses": answers,
    }
    if found.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schema_of[id(found.body)])}
    if found.public:
        operation["security"] = []
    return operation


def parameters_of(kind: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """The fields of a struct that a query is read into, as parameters."""
    _, components = msgspec.json.schema_components([kind], ref_template=_REFS)
    described = components[kind.__name__]
    return {
        name: {**_given(schema), **({"required": True} if name in described.get("required", ()) else {})}
        for name, schema in described["properties"].items()
    }


def _given(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a parameter is that is there."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return {word: value for word, value in kinds[0].items() if word != "default"}


def _parameters(schemas: Schemas, place: str) -> Iterator[dict[str, Any]]:
    for name, schema in schemas.items():
        bare = {word: value for word, value in schema.items() if word != "required"}
        yield {"name": name, "in": place, "required": bool(schema.get("required")), "schema": bare}


def _answer(kind: Any, schema_of: Mapping[int, Any]) -> dict[str, Any]:
    if kind is None:
        return {"description": "there is nothing"}
    if isinstance(kind, Streaming):
        content = {
            media_type: {"schema": _PIECES.get(media_type, {"type": "string"})} for media_type in kind.media_types
        }
        return {"description": "goes on for as long as the stream does", "content": content}
    return {"description": "done", "content": _json(schema_of[id(kind)])}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
