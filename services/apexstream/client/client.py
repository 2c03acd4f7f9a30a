"""The Python client: submit tasks, ask about them, cancel them, follow their streams."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from apexstream.client.address import parse_address
from apexstream.client.credentials import TokenSource, authorization, token_source
from apexstream.client.follower import Follower
from apexstream.client.frames import Frame
from apexstream.client.model import Cancelling, DeadLetter, Graph, Offer, PipelineInfo, Queue, Task, Why
from apexstream.client.patience import ReconnectPolicy, retry_after_s
from apexstream.client.position import Position
from apexstream.client.problems import Problem, RemoteError
from apexstream.client.statistics import ActionStats, Stats, StatsOverview
from apexstream.contracts.close_codes import load_close_codes
from apexstream.core.errors import (
    ApexError,
    DataCorruption,
    InvalidParameters,
    InvalidRequest,
    OutcomeUnknown,
    Unavailable,
    UnknownTask,
)
from apexstream.core.ids import check_id, new_id
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import Reschedule, Scheduling
from apexstream.runtime.clock import Clock, SystemClock

REQUEST_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0
RETRY_S_MAX = 30.0  # of all pauses that a request is asked to make
_RETRY_SPREAD = 0.25  # of a pause, at random, so that not all come back at once

_T = TypeVar("_T")


class _Refusal(msgspec.Struct, frozen=True):
    error: Problem


class _Tasks(msgspec.Struct, frozen=True):
    tasks: list[Task]


class _DeadLetters(msgspec.Struct, frozen=True):
    dead_letters: list[DeadLetter]


class _Pipelines(msgspec.Struct, frozen=True):
    pipelines: list[PipelineInfo]


class Client:
    """A connection to one gateway; use it as an async context manager.

    >>> async with Client("http://127.0.0.1:8080") as client:
    ...     task = await client.submit("corpus", "analyze", {"path": "docs"})
    ...     async for frame in client.follow(task.stream_id):
    ...         print(frame)

    Every call raises the :class:`~apexstream.core.errors.ApexError` that the gateway reports, and
    :class:`~apexstream.core.errors.Unavailable` when it cannot be reached. A request that is refused with ``Retry-After``
    was not followed: it is made again then, for ``retry_max_s`` in all. No other is repeated; :meth:`follow` connects again
    by itself. Leaving a stream never cancels its task: :meth:`cancel` does. ``token`` proves who asks; a function is asked
    for it every time, and without either ``APEX_TOKEN`` or the file ``APEX_TOKEN_FILE`` is.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        reconnect: ReconnectPolicy | None = None,
        clock: Clock | None = None,
        token: str | TokenSource | None = None,
        retry_max_s: float = RETRY_S_MAX,
    ) -> None:
        self.address = parse_address(url)
        self._token = token_source(token)
        self._retry_max_s = retry_max_s
        self._reconnect = reconnect or ReconnectPolicy()
        self._clock = clock or SystemClock()
        self._http = httpx.AsyncClient(
            base_url=self.address.http,
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            trust_env=not self.address.loopback,
        )

    async def __aenter__(self) -> Self:
        """Open the connection pool; nothing is sent yet."""
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all HTTP connections."""
        await self._http.aclose()

    async def actions(self) -> Offer:
        """What can be run now."""
        return await self._call("GET", "/actions", Offer)

    async def submit(
        self,
        plugin: str,
        action: str,
        params: Mapping[str, Any] | None = None,
        *,
        tier: str = "",
        task_id: str | None = None,
        options: TaskOptions | None = None,
        scheduling: Scheduling | None = None,
        idempotency_key: str = "",
    ) -> Task:
        """Ask for one run of an action and return the waiting task; ``options`` override what the action declares,
        ``scheduling`` says what it comes after, needs and shares. Submissions with one ``idempotency_key`` are one task.

        Without such a key the client chooses the task's id unless ``task_id`` gives one, so a submission whose answer was lost
        (:class:`~apexstream.core.errors.OutcomeUnknown`, whose ``where`` is the id) can be looked up or made again.
        """
        chosen = (
            new_id(self._clock.now_us() // 1000, os.urandom(10)) if task_id is None else check_id(task_id, "task_id")
        )
        body: dict[str, Any] = {
            "plugin": plugin,
            "action": action,
            "params": params or {},
            "tier": tier,
            "task_id": chosen,
        }
        if options is not None:
            body["options"] = options
        if scheduling is not None:
            body["scheduling"] = scheduling
        if idempotency_key:
            body["idempotency_key"] = idempotency_key
            body["task_id"] = task_id or ""
        try:
            return await self._call("POST", "/tasks", Task, content=_json(body))
        except OutcomeUnknown as problem:
            raise OutcomeUnknown(
                problem.what, where=chosen, hint="Ask for this task, or submit again with the same task_id"
            ) from problem

    async def task(self, task_id: str) -> Task:
        """The state of a task; raises :class:`~apexstream.core.errors.UnknownTask`."""
        return await self._call("GET", _task_path(task_id), Task)

    async def tasks(self, limit: int = 50) -> list[Task]:
        """The newest tasks, newest first."""
        return (await self._call("GET", f"/tasks?limit={limit:d}", _Tasks)).tasks

    async def cancel(self, task_id: str, *, reason: str = "") -> Task:
        """Ask for a task's end; the receipt gives the ``reason``. The state is ``cancelling``, or the final one if it had ended
        already."""
        query = f"?reason={quote(reason, safe='')}" if reason else ""
        return await self._call("DELETE", f"{_task_path(task_id)}{query}", Task)

    async def submit_graph(self, tasks: Sequence[Mapping[str, Any]], *, graph_id: str = "") -> Graph:
        """Submit tasks that come after each other, all or none. Each is a body of ``POST /tasks``, whose ``task_id`` is its
        name in the graph and whose ``scheduling.after`` names others of it."""
        return await self._call("POST", "/graphs", Graph, content=_json({"tasks": tasks, "graph_id": graph_id}))

    async def graph(self, graph_id: str) -> Graph:
        """The tasks of a graph as they stand."""
        return await self._call("GET", f"/graphs/{quote(graph_id, safe='')}", Graph)

    async def cancel_graph(self, graph_id: str) -> Sequence[str]:
        """Ask for the end of all tasks of a graph; gives the ids of those that had not ended."""
        return (await self._call("DELETE", f"/graphs/{quote(graph_id, safe='')}", Cancelling)).cancelling

    async def cancel_label(self, label: str) -> Sequence[str]:
        """Ask for the end of all tasks with a label; gives the ids of those that had not ended."""
        return (await self._call("DELETE", f"/labels/{quote(label, safe='')}", Cancelling)).cancelling

    async def reschedule(self, task_id: str, change: Reschedule) -> Task:
        """Other terms for a waiting task. ``RemoteError`` (``conflict``) if it waits no longer."""
        return await self._call("PATCH", _task_path(task_id), Task, content=msgspec.json.encode(change))

    async def why(self, task_id: str) -> Why:
        """Why a task waits, or why it waited."""
        return await self._call("GET", f"{_task_path(task_id)}/why", Why)

    async def queue(self) -> Queue:
        """What waits in each tier, how long, and how long at most."""
        return await self._call("GET", "/queue", Queue)

    def now_us(self) -> int:
        """The time by this client's clock, microseconds since the epoch."""
        return self._clock.now_us()

    async def pause(self, task_id: str) -> Task:
        """Hold a running task at its next yield. ``RemoteError`` (``conflict``) if it has ended."""
        return await self._call("POST", f"{_task_path(task_id)}/pause", Task)

    async def resume(self, task_id: str) -> Task:
        """Let a paused task go on."""
        return await self._call("POST", f"{_task_path(task_id)}/resume", Task)

    async def forget(self, stream_id: str) -> Task:
        """Erase the stream of a task that has ended; reading it then says that it was erased."""
        return await self._call("DELETE", f"/streams/{quote(stream_id, safe='')}", Task)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Tasks that failed for good, newest first."""
        return (await self._call("GET", "/dead-letters", _DeadLetters)).dead_letters

    async def retry(self, task_id: str) -> Task:
        """Send a dead letter again, as a new task."""
        return await self._call("POST", f"/dead-letters/{quote(task_id, safe='')}/retry", Task)

    async def submit_pipeline(self, definition: Mapping[str, Any], *, pipeline_id: str | None = None) -> PipelineInfo:
        """Start a pipeline (docs/pipelines.md); its output is the stream of its id. With a ``pipeline_id`` it can be asked for
        again when the answer was lost. ``InvalidRequest`` for a definition that could never run, with the place in it."""
        chosen = pipeline_id or new_id(self._clock.now_us() // 1000, os.urandom(10))
        content = msgspec.json.encode({"pipeline_id": chosen, "definition": definition})
        return await self._call("POST", "/pipelines", PipelineInfo, content=content)

    async def pipelines(self) -> Sequence[PipelineInfo]:
        """All pipelines, newest first."""
        return (await self._call("GET", "/pipelines", _Pipelines)).pipelines

    async def pipeline(self, pipeline_id: str) -> PipelineInfo:
        """One pipeline."""
        return await self._call("GET", f"/pipelines/{quote(pipeline_id, safe='')}", PipelineInfo)

    async def cancel_pipeline(self, pipeline_id: str) -> PipelineInfo:
        """End a pipeline's outputs with a receipt; one that has ended is forgotten, and its outputs stay."""
        return await self._call("DELETE", f"/pipelines/{quote(pipeline_id, safe='')}", PipelineInfo)

    async def follow(
        self, stream_id: str, from_seq: int = 0, *, cursor: str = "", view: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[Frame, None]:
        """Every frame of a stream from ``from_seq`` on, in order, none twice and none left out, until its end frame.

        With the ``cursor`` of a frame it goes on behind that frame instead, in this process or another; a :class:`Rewind`
        comes first if something before it was taken back meanwhile. With a ``view`` (docs/pipelines.md) it gets what that
        shows: frames keep their seqs, and a cursor is of the view.

        A stream that does not exist yet is waited for. A lost connection is made again, with exponential backoff and
        full jitter, at the cursor of the last frame; :class:`~apexstream.core.errors.Unavailable` is raised once that
        has failed for ``reconnect.offline_max_s``. A :class:`Rewind` says that later frames replace earlier ones.
        Close the iterator (``contextlib.aclosing``) when you leave it early.
        """
        if from_seq < 0:
            raise InvalidRequest(f"a stream has no seq {from_seq}", where="from_seq", hint="The first one is 0")
        follower = Follower(
            address=self.address,
            stream_id=check_id(stream_id, "stream_id"),
            position=Position(None if cursor else from_seq, cursor, sparse=view is not None),
            view=view,
            policy=self._reconnect,
            clock=self._clock,
            codes=load_close_codes(),
            token=self._token,
        )
        async with aclosing(follower.frames()) as frames:
            async for frame in frames:
                yield frame

    async def stats(self, *, action: str = "", stream: str = "", window: str = "1s", limit: int = 60) -> Stats:
        """What an action (``plugin.action``) or a stream did, in windows of ``window``, the newest ``limit`` of them; see
        :class:`~apexstream.client.StreamingMetricsCollector`. ``RemoteError`` (``unknown_stats``) if nothing is kept of it."""
        query = {"action": action, "stream": stream, "window": window, "limit": str(limit)}
        return await self._call("GET", f"/stats?{urlencode({k: v for k, v in query.items() if v})}", Stats)

    async def all_stats(self) -> Sequence[ActionStats]:
        """Every action in the newest minute that is over."""
        return (await self._call("GET", "/stats/actions", StatsOverview)).actions

    async def ready(self) -> bool:
        """True if the gateway says that it can serve."""
        return (await self._send("GET", "/readyz", None)).status_code == httpx.codes.OK

    async def _call(self, method: str, path: str, shape: type[_T], *, content: bytes | None = None) -> _T:
        response = await self._send(method, path, content)
        left_s = self._retry_max_s
        while response.is_error:
            asked_s = retry_after_s(response.headers.get("retry-after"), self._clock.now_us())
            if asked_s is None or left_s <= 0 or asked_s > left_s:
                break
            pause_s = asked_s * (1 + random.random() * _RETRY_SPREAD)  # noqa: S311 - only spreads load
            left_s -= max(pause_s, 0.001)
            await asyncio.sleep(pause_s)
            response = await self._send(method, path, content)
        if response.is_error:
            raise _refusal(response)
        try:
            return msgspec.json.decode(response.content, type=shape)
        except msgspec.MsgspecError as problem:
            raise DataCorruption(
                f"the answer is not what a gateway sends: {problem}", where=str(response.url), hint="Check the address"
            ) from None

    async def _send(self, method: str, path: str, content: bytes | None) -> httpx.Response:
        headers = authorization(self._token())
        if content is not None:
            headers["content-type"] = "application/json"
        try:
            return await self._http.request(method, path, content=content, headers=headers)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as problem:
            raise Unavailable(
                "no gateway answers",
                where=self.address.http,
                hint="Start one with `apexstream up`, or name its address with --url or APEX_GATEWAY_URL",
            ) from problem
        except httpx.TransportError as problem:
            kind = Unavailable if method == "GET" else OutcomeUnknown
            raise kind(f"no answer: {problem or type(problem).__name__}", where=self.address.http) from problem


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        raise InvalidParameters(f"cannot be written as JSON: {problem}", where="params") from None


def _refusal(response: httpx.Response) -> ApexError:
    try:
        problem = msgspec.json.decode(response.content, type=_Refusal).error.exception()
    except msgspec.MsgspecError:
        # Not the gateway's own answer: a proxy in between, or another server altogether.
        what = f"HTTP {response.status_code} {response.reason_phrase}"
        kind = Unavailable if response.is_server_error else InvalidRequest
        return kind(what, where=str(response.url), hint="Check the gateway's address")
    if isinstance(problem, RemoteError) and response.is_client_error:
        # A code that is not known here, but the status says whose turn it is.
        return InvalidRequest(f"{problem.what} ({problem.remote_code})", where=problem.where, hint=problem.hint)
    return problem


def _task_path(task_id: str) -> str:
    try:
        return f"/tasks/{quote(check_id(task_id, 'task_id'), safe='')}"
    except InvalidRequest as problem:
        # An id that no task can have names no task.
        raise UnknownTask(problem.what, where=problem.where, hint=problem.hint) from None
