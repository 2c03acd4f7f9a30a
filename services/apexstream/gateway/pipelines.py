"""HTTP: pipelines. What was submitted is a record of ``apex.pipelines``; processors do the rest."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.client.model import PipelineInfo
from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError, ChunkDecodeError, InvalidRequest
from apexstream.core.events import Pipeline, StreamState, StreamStatus
from apexstream.core.ids import ID_PATTERN
from apexstream.core.operators import InvalidPipeline
from apexstream.core.pipelines import (
    ID_CHARACTERS_MAX,
    Definition,
    check_pipeline_id,
    jobs_of,
    read_definition,
    streams_of,
)
from apexstream.gateway.access import Verb, principal_of
from apexstream.gateway.access.principal import Principal, sees
from apexstream.gateway.answers import Conflict, answer, parse, read_body
from apexstream.gateway.control import REASON_CHARACTERS_MAX
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.tasks import REASON
from apexstream.log.fetcher import Partition, Record

_log = structlog.get_logger(__name__)
_FINAL = frozenset({"complete", "error", "cancelled"})


class UnknownPipeline(ApexError):
    """No pipeline with this id is known."""

    code = "unknown_pipeline"


_PipelineId = Annotated[
    str, msgspec.Meta(extra_json_schema={"pattern": f"^({ID_PATTERN})?$", "maxLength": ID_CHARACTERS_MAX})
]


class PipelineRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /pipelines``, as far as it is read at once: what is wrong in a definition is told with its place."""

    definition: msgspec.Raw
    pipeline_id: _PipelineId = ""


class PipelineBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /pipelines``, as it is described."""

    definition: Definition
    pipeline_id: _PipelineId = ""


class Listed(msgspec.Struct, frozen=True):
    """What ``GET /pipelines`` answers."""

    pipelines: list[PipelineInfo]


@dataclass(frozen=True, slots=True)
class Known:
    """A pipeline, and the broker's time of its record."""

    pipeline: Pipeline
    definition: Definition
    since_ms: int


class KnownPipelines:
    """Pipelines by id, read from their topic. ``on_stream`` is called with the id of every stream that one will write."""

    def __init__(self, codec: Codec, on_stream: Callable[[str], None]) -> None:
        self._codec = codec
        self._on_stream = on_stream
        self._pipelines: dict[str, Known] = {}
        self._streams: dict[str, str] = {}

    def on_pipelines(self, _: Partition, records: Iterable[Record]) -> None:
        """Reads the topic."""
        for record in records:
            if record.value is None:
                self._forget((record.key or b"").decode("utf-8", "replace"))
                continue
            try:
                pipeline = self._codec.decode(record.value, Pipeline)
                self.add(pipeline, read_definition(pipeline.definition), record.timestamp)
            except (ChunkDecodeError, InvalidPipeline) as problem:
                _log.error("skipped a pipeline that cannot be read", offset=record.offset, error=str(problem))

    def add(self, pipeline: Pipeline, definition: Definition, since_ms: int) -> Known:
        """A pipeline exists, or was cancelled."""
        held = self._pipelines.get(pipeline.pipeline_id)
        known = Known(pipeline, definition, since_ms if held is None else min(held.since_ms, since_ms))
        self._pipelines[pipeline.pipeline_id] = known
        for stream_id in streams_of(pipeline.pipeline_id, definition):
            if stream_id not in self._streams:
                self._streams[stream_id] = pipeline.pipeline_id
                self._on_stream(stream_id)
        return known

    def get(self, pipeline_id: str, tenant: str) -> Known:
        """The pipeline of ``tenant``, or :class:`UnknownPipeline`."""
        known = self._pipelines.get(pipeline_id)
        if known is None or not sees(tenant, known.pipeline.tenant):
            raise UnknownPipeline(f"there is no pipeline {pipeline_id[:60]!r}", where="pipeline_id")
        return known

    def find(self, pipeline_id: str) -> Known | None:
        """The pipeline, if there is one."""
        return self._pipelines.get(pipeline_id)

    def all(self, tenant: str) -> list[Known]:
        """All of ``tenant``'s, newest first."""
        seen = (known for known in self._pipelines.values() if sees(tenant, known.pipeline.tenant))
        return sorted(seen, key=lambda known: known.pipeline.submitted_us, reverse=True)

    def tenant(self, stream_id: str) -> str | None:
        """Whose output it is; None if no pipeline writes the stream."""
        owner = self._streams.get(stream_id)
        return None if owner is None else self._pipelines[owner].pipeline.tenant

    def since_ms(self, stream_id: str) -> int | None:
        """The broker's time before which an output did not exist, milliseconds; None if no pipeline writes the stream."""
        owner = self._streams.get(stream_id)
        return None if owner is None else self._pipelines[owner].since_ms

    def _forget(self, pipeline_id: str) -> None:
        if self._pipelines.pop(pipeline_id, None) is not None:
            self._streams = {stream: owner for stream, owner in self._streams.items() if owner != pipeline_id}


class KnownStreams(Protocol):
    """What is known of streams that pipelines do not write."""

    def since_ms(self, stream_id: str) -> int | None: ...
    def tenant(self, stream_id: str) -> str | None: ...


class Origins:
    """What is known of any stream before anything of it was read: of ``others``, of what pipelines write, of what is sealed."""

    def __init__(
        self, others: KnownStreams, pipelines: KnownPipelines, state: Callable[[str], StreamState | None]
    ) -> None:
        self._others = others
        self._pipelines = pipelines
        self._state = state

    def since_ms(self, stream_id: str) -> int | None:
        """When it began (milliseconds since the epoch), or before; None: nothing is known."""
        since = self._others.since_ms(stream_id)
        return self._pipelines.since_ms(stream_id) if since is None else since

    def tenant(self, stream_id: str) -> str | None:
        """Whose it is; None: nothing is known."""
        tenant = self._others.tenant(stream_id)
        return self._pipelines.tenant(stream_id) if tenant is None else tenant

    def status(self, stream_id: str) -> StreamStatus | None:
        """How it stands, as far as it is sealed."""
        state = self._state(stream_id)
        return None if state is None else state.status


StatusOf = Callable[[str], StreamStatus | None]
"""How a stream has ended, as far as that is known."""


class Pipelines:
    """The handlers. ``refused`` says why pipelines cannot be used here at all, if they cannot."""

    def __init__(self, parts: Parts, known: KnownPipelines, status_of: StatusOf, refused: str = "") -> None:
        self._known = known
        self._registry = parts.registry
        self._ownership = parts.ownership
        self._access = parts.access
        self._publish = parts.publish
        self._clock = parts.clock
        self._new_id = parts.new_task_id
        self._status_of = status_of
        self._refused = refused

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/pipelines", self.submit, methods=["POST"], name="submit_pipeline"),
            Route("/pipelines", self.list, name="pipelines"),
            Route("/pipelines/{pipeline_id}", self.show, name="pipeline"),
            Route("/pipelines/{pipeline_id}", self.cancel, methods=["DELETE"], name="cancel_pipeline"),
        ]

    @operation({202: PipelineInfo, 200: PipelineInfo}, body=PipelineBody, refusals=(400, 404, 409, 413, 422))
    async def submit(self, request: Request) -> Response:
        """``POST /pipelines``: accepted once it is durable. The same id and definition again give the pipeline that exists."""
        principal = principal_of(request)
        principal.require(Verb.SUBMIT)
        if self._refused:
            raise InvalidRequest(self._refused, where="pipelines")
        wanted = parse(await read_body(request), PipelineRequest)
        definition = read_definition(wanted.definition)
        pipeline_id = check_pipeline_id(wanted.pipeline_id or self._new_id())
        held = self._known.find(pipeline_id)
        if held is not None and held.definition == definition and sees(principal.tenant, held.pipeline.tenant):
            return answer(self._shown(held), 200)
        self._access.submitting(principal)
        self._check_inputs(definition, principal)
        self._check_free(pipeline_id, definition, held)
        pipeline = Pipeline(
            pipeline_id=pipeline_id,
            definition=bytes(wanted.definition),
            submitted_us=self._clock.now_us(),
            tenant=principal.home,
        )
        await self._publish("pipelines", pipeline_id, pipeline)
        known = self._known.add(pipeline, definition, pipeline.submitted_us // 1000)
        return answer(self._shown(known), 202)

    @operation({200: Listed})
    async def list(self, request: Request) -> Response:
        """``GET /pipelines``: all, newest first."""
        principal = principal_of(request)
        principal.require(Verb.READ)
        seen = (
            known for known in self._known.all(principal.tenant) if principal.may(Verb.READ, known.pipeline.pipeline_id)
        )
        return answer({"pipelines": [self._shown(known) for known in seen]})

    @operation({200: PipelineInfo}, refusals=(400, 404))
    async def show(self, request: Request) -> Response:
        """``GET /pipelines/{id}``: a pipeline as it stands."""
        return answer(self._shown(self._asked(request, Verb.READ)))

    @operation({202: PipelineInfo, 200: PipelineInfo}, query={"reason": REASON}, refusals=(400, 404))
    async def cancel(self, request: Request) -> Response:
        """``DELETE /pipelines/{id}``: its outputs end with a receipt. One that has ended is forgotten; its outputs stay."""
        known = self._asked(request, Verb.CONTROL)
        shown = self._shown(known)
        pipeline_id = known.pipeline.pipeline_id
        if shown["status"] in _FINAL:
            await self._publish("pipelines", pipeline_id, None)
            return answer(shown, 200)
        reason = request.query_params.get("reason", "cancelled by request")[:REASON_CHARACTERS_MAX]
        cancelled = msgspec.structs.replace(known.pipeline, cancelled_us=self._clock.now_us(), reason=reason)
        await self._publish("pipelines", pipeline_id, cancelled)
        return answer({**shown, "status": "cancelling", "reason": reason}, 202)

    def _asked(self, request: Request, verb: Verb) -> Known:
        pipeline_id, principal = str(request.path_params["pipeline_id"]), principal_of(request)
        principal.require(verb, pipeline_id)
        return self._known.get(pipeline_id, principal.tenant)

    def _check_inputs(self, definition: Definition, principal: Principal) -> None:
        """Those that are known must be the principal's to read; of the others the processors know when they are written."""
        for entry in definition.inputs:
            principal.require(Verb.READ, entry.stream)
            if self._ownership.owner(entry.stream) is not None:
                self._ownership.check(principal, entry.stream)

    def _check_free(self, pipeline_id: str, definition: Definition, held: Known | None) -> None:
        outputs = set(streams_of(pipeline_id, definition))
        if held is not None or any(
            self._registry.since_ms(stream) is not None or self._status_of(stream) is not None for stream in outputs
        ):
            raise Conflict(
                "a pipeline, task or stream of this id exists", where="pipeline_id", hint="Choose another id"
            )
        for at, entry in enumerate(definition.inputs):
            if entry.stream in outputs:
                raise InvalidPipeline("it would read what it writes", where=f"$.inputs[{at}].stream")

    def _shown(self, known: Known) -> dict[str, Any]:
        pipeline, definition = known.pipeline, known.definition
        shown = {
            "pipeline_id": pipeline.pipeline_id,
            "status": self._status(known),
            "submitted_us": pipeline.submitted_us,
            "streams": list(streams_of(pipeline.pipeline_id, definition)),
            "definition": msgspec.Raw(pipeline.definition),
        }
        return {**shown, "reason": pipeline.reason} if pipeline.cancelled_us else shown

    def _status(self, known: Known) -> str:
        ends = [self._status_of(job) for job in jobs_of(known.pipeline.pipeline_id, known.definition)]
        closed = [end for end in ends if end not in {None, StreamStatus.OPEN}]
        if len(closed) < len(ends):
            return "cancelling" if known.pipeline.cancelled_us else "running"
        for bad in (StreamStatus.ERROR, StreamStatus.CANCELLED):
            if bad in closed:
                return str(bad)
        return "complete"
