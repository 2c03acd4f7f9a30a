"""HTTP of the Durable Streams protocol: ``/ds/<path>``, and tasks' streams to read at ``/ds/streams/<task_id>``."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import ApexError
from apexstream.core.events import PathState
from apexstream.core.ids import check_id
from apexstream.gateway.access import Principal, Verb
from apexstream.gateway.answers import STATUS, TooLarge
from apexstream.gateway.cursors import Cursors, Position
from apexstream.gateway.durable.messages import body_of, control_event, data_event, is_text, next_cursor
from apexstream.gateway.durable.producers import (
    Accepted,
    Closed,
    Decision,
    Duplicate,
    Gap,
    NewEpochNotAtZero,
    OldStreamSeq,
    Producer,
    Stale,
    WrongType,
)
from apexstream.gateway.durable.reading import Batch, Engine, Layout, Part, Rewound, TaskMessages, follow, read, tail
from apexstream.gateway.durable.requests import Append, Refused, read_append, read_create
from apexstream.gateway.durable.streams import Appended, Described, DurableStreams

PREFIX = "/ds/"
TASKS = "streams/"
APPEND_BYTES_MAX = 4 * 1024 * 1024
DROPPED_BYTES_MAX = 16 * APPEND_BYTES_MAX
PATH_CHARACTERS_MAX = 1_000
SSE_LIFETIME_S = 60.0  # then the client comes back, which lets proxies share what they have
SSE_BEAT_S = 15.0
_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
_START, _NOW = "-1", "now"
_TASK_MESSAGES = TaskMessages()

Who = Callable[[Request], Principal]
"""Who asks."""
Check = Callable[[Principal, str], None]
"""Raises :class:`UnknownTask` unless a task's stream is there, and is the principal's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readable:
    """What is read: how it lies, what its tokens are bound to, and what answers say of it. ``state`` is None for a task's."""

    layout: Layout
    stream_id: str
    view: str
    content_type: str
    state: PathState | None


class DurableRoutes:
    """The handlers."""

    def __init__(
        self,
        streams: DurableStreams,
        engine: Engine,
        cursors: Cursors,
        *,
        who: Who,
        check: Check,
        now_us: Callable[[], int],
        random: Callable[[], float],
        long_poll_s: float,
    ) -> None:
        self._streams = streams
        self._engine = engine
        self._cursors = cursors
        self._who = who
        self._check = check
        self._now_us = now_us
        self._random = random
        self._long_poll_s = long_poll_s

    def routes(self) -> list[BaseRoute]:
        """The one route."""
        return [Route("/ds/{path:path}", self.serve, methods=list(_METHODS))]

    async def serve(self, request: Request) -> Response:
        """Any request below ``/ds/``."""
        try:
            response = await self._serve(request)
        except ApexError as problem:
            response = _refusal(problem)
        response.headers.setdefault("x-content-type-options", "nosniff")
        response.headers["cross-origin-resource-policy"] = "cross-origin"
        return response

    async def _serve(self, request: Request) -> Response:
        path = _path(_raw_path(request))
        principal = self._who(request)
        if path.startswith(TASKS):
            return await self._serve_task(request, principal, path.removeprefix(TASKS))
        key = f"{principal.home}:{path}"
        match request.method:
            case "PUT":
                principal.require(Verb.WRITE, f"ds/{path}")
                return await self._create(request, principal.home, key)
            case "POST":
                principal.require(Verb.WRITE, f"ds/{path}")
                return await self._append(request, principal.home, key)
            case "DELETE":
                principal.require(Verb.ERASE, f"ds/{path}")
                await self._streams.delete(key)
                return Response(None, 204)
            case "HEAD":
                principal.require(Verb.READ, f"ds/{path}")
                return self._head(await self._streams.describe(key))
            case _:
                principal.require(Verb.READ, f"ds/{path}")
                return await self._read_path(request, key)

    # Writing.

    async def _create(self, request: Request, tenant: str, key: str) -> Response:
        wanted = read_create(request.headers)
        source_key = f"{tenant}:{_source(wanted.fork.path)}" if wanted.fork else ""
        described = await self._streams.create(key, tenant, wanted, source_key, await _body(request))
        headers = self._described(described)
        if described.created:
            headers["location"] = f"{request.base_url}{_raw_path(request).removeprefix('/')}"
        return Response(None, 201 if described.created else 200, headers)

    async def _append(self, request: Request, tenant: str, key: str) -> Response:
        wanted = read_append(request.headers)
        body = await _body(request)
        done = await self._streams.append(key, tenant, wanted, body)
        return _appended(wanted, done, closes_only=not body)

    def _head(self, described: Described) -> Response:
        state = described.state
        headers = self._described(described) | {"cache-control": "no-store"}
        if state.ttl_s >= 0:
            headers["stream-ttl"] = str(state.ttl_s)
        if state.expires_at:
            headers["stream-expires-at"] = state.expires_at
        return Response(None, 200, headers)

    def _described(self, described: Described) -> dict[str, str]:
        headers = {
            "content-type": described.state.content_type,
            "stream-next-offset": described.offset,
            "stream-id": described.state.stream_id,
        }
        return headers | ({"stream-closed": "true"} if described.closed else {})

    # Reading.

    async def _read_path(self, request: Request, key: str) -> Response:
        state = await self._streams.find(key)
        readable = _Readable(
            layout=self._streams.layout(state),
            stream_id=state.stream_id,
            view="fork" if state.parent_stream_id else "",
            content_type=state.content_type,
            state=state,
        )
        return await self._read(request.query_params, request.headers, readable)

    async def _serve_task(self, request: Request, principal: Principal, task_id: str) -> Response:
        check_id(task_id, "task_id")
        principal.require(Verb.READ, task_id)
        if request.method not in {"GET", "HEAD"}:
            raise Refused(405, "a task's stream is written by its plugin only", where="method", hint="GET or HEAD")
        self._check(principal, task_id)
        readable = _Readable(
            layout=Layout(
                parts=(Part(stream_id=task_id, base=0, end=None),),
                encoding=_TASK_MESSAGES,
                ends_show=True,
                tenant=principal.tenant,
            ),
            stream_id=task_id,
            view="",
            content_type="application/json",
            state=None,
        )
        if request.method == "GET":
            return await self._read(request.query_params, request.headers, readable)
        batch = await tail(self._engine, readable.layout)
        return Response(None, 200, self._told(readable, batch, at_tail=True) | {"cache-control": "no-store"})

    async def _read(self, query: QueryParams, headers: Mapping[str, str], readable: _Readable) -> Response:
        offset, live = _offset(query), query.get("live")
        if live not in {None, "long-poll", "sse"}:
            raise Refused(400, f"{live[:40]!r} is neither long-poll nor sse", where="live")
        if live is not None and offset is None:
            raise Refused(400, "a live read says where it begins", where="offset", hint="-1, now, or an offset")
        try:
            response = await self._read_as(live, offset or _START, query.get("cursor", ""), headers, readable)
        except Rewound as problem:
            told = {"stream-next-offset": self._token(readable, problem.position)}
            raise Refused(
                410, problem.what, code=problem.code, where="offset", hint=problem.hint, headers=told
            ) from None
        if readable.state is not None:
            await self._streams.touch(readable.state)
        return response

    async def _read_as(
        self, live: str | None, offset: str, cursor: str, headers: Mapping[str, str], readable: _Readable
    ) -> Response:
        if live is None and offset == _NOW:
            return self._answer(readable, await self._end(readable), {"cache-control": "no-store"})
        position = await self._position(readable, offset)
        if live == "sse":
            return await self._events(readable, position, cursor)
        batch = await self._batch(readable, position, 0.0 if live is None else self._long_poll_s)
        if live is None:
            return self._tagged(readable, position, batch, headers.get("if-none-match", ""), {})
        more = {"stream-cursor": next_cursor(cursor, self._now_us(), self._random())}
        if not batch.messages:
            return Response(None, 204, self._told(readable, batch, at_tail=True) | more)
        return self._tagged(readable, position, batch, headers.get("if-none-match", ""), more)

    async def _batch(self, readable: _Readable, position: Position, wait_s: float) -> Batch:
        if readable.state is not None:
            return await self._streams.read(readable.state, position, wait_s)
        return await read(self._engine, readable.layout, position, wait_s)

    async def _end(self, readable: _Readable) -> Batch:
        state = readable.state
        found = await (tail(self._engine, readable.layout) if state is None else self._streams.end(state))
        return replace(found, messages=())  # what came meanwhile is behind it

    async def _position(self, readable: _Readable, offset: str) -> Position:
        if offset == _START:
            return Position(0)
        if offset == _NOW:
            return (await self._end(readable)).position
        if readable.state is not None:
            return self._streams.position(readable.state, offset)
        return self._cursors.read(offset, readable.stream_id)

    def _token(self, readable: _Readable, position: Position) -> str:
        return self._cursors.mint(readable.stream_id, position, readable.view)

    def _told(self, readable: _Readable, batch: Batch, *, at_tail: bool = False) -> dict[str, str]:
        headers = {
            "stream-next-offset": self._token(readable, batch.position),
            "stream-id": readable.stream_id,
            "content-type": readable.content_type,
        }
        if batch.up_to_date or at_tail:
            headers["stream-up-to-date"] = "true"
        if batch.closed:
            headers["stream-closed"] = "true"
        return headers

    def _answer(self, readable: _Readable, batch: Batch, more: Mapping[str, str]) -> Response:
        body = body_of(batch.messages, readable.content_type)
        return Response(body, 200, {**self._told(readable, batch), **more})

    def _tagged(
        self, readable: _Readable, position: Position, batch: Batch, known: str, more: Mapping[str, str]
    ) -> Response:
        """The answer with its ETag; 304 for whoever has just that. A page that more can be added to is asked for again."""
        closed = ":c" if batch.closed else ""
        tag = f'"{readable.stream_id}:{position.seq}:{position.rewinds}:{batch.position.seq}{closed}"'
        cache = "private, no-cache" if batch.up_to_date else "private, max-age=60, stale-while-revalidate=300"
        headers = {"etag": tag, "cache-control": cache, **more}
        if tag in {word.strip().removeprefix("W/") for word in known.split(",")}:
            return Response(None, 304, headers)
        return self._answer(readable, batch, headers)

    async def _events(self, readable: _Readable, position: Position, cursor: str) -> Response:
        """What is there is looked at before anything is answered, so that what is wrong with it has a status."""
        if readable.state is not None:
            await self._streams.settled(readable.state)
        batches = follow(self._engine, readable.layout, position, lifetime_s=SSE_LIFETIME_S, beat_s=SSE_BEAT_S)
        first = await anext(batches)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", "stream-id": readable.stream_id}
        if not is_text(readable.content_type):
            headers["stream-sse-data-encoding"] = "base64"
        response = StreamingResponse(self._sse(readable, first, batches, cursor), 200, headers)
        response.headers["content-type"] = "text/event-stream"
        return response

    async def _sse(
        self, readable: _Readable, first: Batch, batches: AsyncGenerator[Batch, None], cursor: str
    ) -> AsyncIterator[bytes]:
        """A stream that is deleted or rewound meanwhile just ends: whoever comes back is told."""
        try:
            yield self._event(readable, first, cursor)
            async for batch in batches:
                if readable.state is not None:
                    await self._streams.touch(readable.state)
                yield self._event(readable, batch, cursor)
        except ApexError:
            return
        finally:
            await batches.aclose()

    def _event(self, readable: _Readable, batch: Batch, cursor: str) -> bytes:
        control = control_event(
            self._token(readable, batch.position),
            cursor=next_cursor(cursor, self._now_us(), self._random()),
            up_to_date=batch.up_to_date,
            closed=batch.closed,
        )
        return data_event(batch.messages, readable.content_type) + control if batch.messages else control


def _raw_path(request: Request) -> str:
    raw: bytes = request.scope["raw_path"]
    return raw.decode("ascii", "replace")


def _path(raw: str) -> str:
    """The stream's name: what follows the prefix, as it stands in the URL, so that no two URLs name one stream."""
    path = raw.removeprefix(PREFIX)
    if not path or len(path) > PATH_CHARACTERS_MAX or path.startswith("__ds/"):
        raise Refused(404, "there is no such stream", where="path", hint=f"1 to {PATH_CHARACTERS_MAX} characters")
    return path


def _source(path: str) -> str:
    """The name in ``Stream-Forked-From``: a path of this server, or one below the prefix."""
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else path.removeprefix("/")


def _offset(query: QueryParams) -> str | None:
    given = query.getlist("offset")
    if len(given) > 1 or given == [""]:
        raise Refused(400, "give one offset", where="offset", hint="-1, now, or one as the gateway gave it")
    return given[0] if given else None


async def _body(request: Request) -> bytes:
    """The whole body. One that is too large is read on and dropped for a while: a client that is cut off while it sends
    never sees the answer."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size <= APPEND_BYTES_MAX:
            parts.append(part)
        else:
            parts.clear()
        if size > DROPPED_BYTES_MAX:
            break
    if size > APPEND_BYTES_MAX:
        raise TooLarge(f"the body is over {APPEND_BYTES_MAX} bytes", where="body", hint="Append it in parts")
    return b"".join(parts)


def _appended(wanted: Append, done: Appended, *, closes_only: bool) -> Response:
    headers = {"stream-next-offset": done.offset} | ({"stream-closed": "true"} if done.closed else {})
    status, text, more = _outcome(done.decision, wanted.producer, closes_only=closes_only)
    if closes_only and done.closed and isinstance(done.decision, Closed) and wanted.producer is None:
        return Response(None, 204, headers)  # closed is what was asked for
    if status < 300:
        return Response(None, status, headers | more)
    raise Refused(status, text, where="path", headers=headers | more)


def _outcome(decision: Decision, producer: Producer | None, *, closes_only: bool) -> tuple[int, str, dict[str, str]]:
    epoch, seq = (0, 0) if producer is None else (producer.epoch, producer.seq)
    match decision:
        case Accepted():
            known = {} if producer is None else {"producer-epoch": str(epoch), "producer-seq": str(seq)}
            return (204 if producer is None or closes_only else 200), "", known
        case Duplicate(last_epoch, last_seq):
            return 204, "", {"producer-epoch": str(last_epoch), "producer-seq": str(last_seq)}
        case Stale(newer):
            return 403, "a newer epoch of this producer has written", {"producer-epoch": str(newer)}
        case NewEpochNotAtZero():
            return 400, "a new epoch begins with Producer-Seq 0", {}
        case Gap(expected):
            told = {"producer-expected-seq": str(expected), "producer-received-seq": str(seq)}
            return 409, "appends before this one are missing", told
        case OldStreamSeq(last):
            return 409, f"Stream-Seq is not after {last!r}", {}
        case Closed():
            return 409, "the stream is closed", {}
        case WrongType():
            return 409, "the content type is not the stream's", {}


def _refusal(problem: ApexError) -> Response:
    headers = {"cache-control": "no-store"}
    if isinstance(problem, Refused):
        status, headers = problem.status, headers | problem.headers
    else:
        status = STATUS.get(problem.code, 500)
    body = msgspec.json.encode({"error": problem.as_dict()})
    return Response(body, status, headers, media_type="application/json")
