"""The messages that services exchange on topics, as values; ``schemas/events`` has their Avro form field by field.

Times are microseconds since the epoch and end in ``_us``. Parameters and details are JSON, kept as bytes: the platform
carries them and never looks inside.
"""

from enum import StrEnum

import msgspec

from apexstream.core.tiers import Tier


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: frozen, keyword-only."""


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """A client asked for one run of an action. On the topic of its tier, keyed by ``task_id``."""

    task_id: str
    plugin: str
    action: str
    params: bytes
    tier: Tier
    submitted_us: int
    options: bytes = b""  # JSON of core.options.TaskOptions
    tenant: str = ""  # whose task and stream this is; empty where nobody has to prove who they are
    scheduling: bytes = b""  # JSON of core.scheduling.Scheduling
    members: bytes = b""  # of a graph: JSON array of its tasks, each a TaskSubmitted; the graph itself never runs
    traceparent: str = ""  # W3C trace context of the submission

    def tasks(self) -> "tuple[TaskSubmitted, ...]":
        """The tasks that this record submits: itself, or all members of a graph. One record, so all or none."""
        return _members.decode(self.members) if self.members else (self,)


_members = msgspec.json.Decoder(tuple[TaskSubmitted, ...])


class TaskChange(StrEnum):
    """What happened to a task; :attr:`ends` tells whether it is over."""

    UNKNOWN = "unknown"  # written by a newer version
    ASSIGNED = "assigned"
    STARTED = "started"
    CANCEL_REQUESTED = "cancel_requested"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    RETRYING = "retrying"
    PARKED = "parked"
    PAUSED = "paused"
    RESUMED = "resumed"
    HELD = "held"  # waits for something else than its turn

    @property
    def ends(self) -> bool:
        """True for the changes after which nothing more happens to the task."""
        return self in {TaskChange.COMPLETED, TaskChange.FAILED, TaskChange.CANCELLED}


class TaskEvent(Event, frozen=True, kw_only=True):
    """A change of a task's life and its reason. On ``apex.task-events``, keyed by ``task_id``."""

    task_id: str
    change: TaskChange
    at_us: int
    attempt: int
    by: str  # the service instance that decided or saw it
    reason: str = ""
    detail: bytes = b""  # JSON; for a failure the error as users see it
    action: str = ""  # plugin.action, where a runner says so; what statistics count it as
    tenant: str = ""  # whose task it is, where the action is said


class Assignment(Event, frozen=True, kw_only=True):
    """The dispatcher gives a task to whichever runner owns this partition of ``apex.assignments``."""

    task: TaskSubmitted
    attempt: int
    assigned_us: int
    epoch: int = 0  # of the dispatcher; one that is lower than an earlier record's of the partition is dead


class ActionInfo(Event, frozen=True, kw_only=True):
    """One action as a runner offers it. ``params_schema`` is JSON Schema (2020-12)."""

    plugin: str
    action: str
    summary: str
    streams: bool
    params_schema: bytes
    resume: str = "restart"
    options: bytes = b""  # JSON: the action's defaults


class RunnerState(Event, frozen=True, kw_only=True):
    """What a runner is and can take now. Compacted by ``runner_id``; silent for long means gone."""

    runner_id: str
    at_us: int
    capacity: int  # tasks at once
    partitions: tuple[int, ...]  # of apex.assignments, owned now
    actions: tuple[ActionInfo, ...]
    broken_plugins: tuple[str, ...] = ()  # "name: why it could not be loaded"
    resources: bytes = b""  # JSON of core.scheduling.RunnerResources


class ControlVerb(StrEnum):
    """What a client may ask of a task that exists."""

    UNKNOWN = "unknown"
    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    FORGET = "forget"
    RESCHEDULE = "reschedule"
    PARK = "park"
    THROTTLE = "throttle"  # a reader of its stream says how far it is behind


class ControlCommand(Event, frozen=True, kw_only=True):
    """A client's request about a task, broadcast to whoever holds it. On ``apex.control``, keyed by ``task_id``."""

    task_id: str
    verb: ControlVerb
    at_us: int
    reason: str = ""
    tenant: str = ""
    detail: bytes = b""  # JSON; to reschedule: core.scheduling.Reschedule; to park: the attempt


class QueueState(Event, frozen=True, kw_only=True):
    """What waits and why, as the active dispatcher sees it. On ``apex.queue``, which has one partition and one key."""

    dispatcher: str
    epoch: int
    at_us: int
    state: bytes  # JSON: the body of GET /queue


class DeadLetter(Event, frozen=True, kw_only=True):
    """A task that failed for good. On ``apex.dead-letters``, keyed by ``task_id``; a tombstone means it was sent again."""

    task_id: str
    plugin: str
    action: str
    params: bytes
    tier: Tier
    options: bytes
    attempts: int
    error_class: str
    error: bytes
    reason: str
    at_us: int
    tenant: str = ""
    scheduling: bytes = b""  # JSON of core.scheduling.Scheduling


class StreamStatus(StrEnum):
    """What reading a stream gives."""

    UNKNOWN = "unknown"  # written by a newer version
    OPEN = "open"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"  # its time to live is over, its content gone
    ERASED = "erased"  # somebody asked for that


class SegmentRef(Event, frozen=True, kw_only=True):
    """Where a segment, or an index page of segments, lies in the stream's partition of ``apex.segments``.

    ``count`` chunks from ``first_seq`` on are the stream's; a segment may hold more that a rewind took back.
    """

    offset: int
    number: int
    first_seq: int
    count: int
    size_bytes: int  # of the record's value
    index: bool = False


class Segment(Event, frozen=True, kw_only=True):
    """A sealed run of consecutive chunks after the fold, or an index page. Keyed ``stream_id/number``.

    ``data`` is the zstd-compressed value of a :class:`SegmentChunks`, or with ``index`` of a :class:`SegmentPage`;
    ``raw_bytes`` is its size before compression, ``digest`` the SHA-256 of ``data``.
    """

    stream_id: str
    number: int  # unique in the partition: the archiver's epoch in the high bits, its count of segments in the low 40
    first_seq: int
    count: int
    index: bool
    raw_bytes: int
    data: bytes
    digest: bytes


class SegmentChunks(Event, frozen=True, kw_only=True):
    """The chunks of a segment by column, which compresses better and is read without an object a chunk."""

    kinds: bytes  # core.chunk.Kind, a byte each
    sizes: bytes  # of the payloads, 4 bytes each, little-endian
    times: bytes  # event time in µs less that of the chunk before, 8 bytes each, little-endian, signed
    content_types: tuple[str, ...]  # all that occur
    content_type_of: bytes  # position in content_types, a byte each
    payloads: bytes  # one after the other


class SegmentPage(Event, frozen=True, kw_only=True):
    """Positions of consecutive segments, or of pages of them, of a stream that has very many."""

    segments: tuple[SegmentRef, ...]


class ClaimSaid(Event, frozen=True, kw_only=True):
    """What the claim of an attempt said, see :mod:`apexstream.core.claims`."""

    attempt: int
    payload: bytes


class Rewound(Event, frozen=True, kw_only=True):
    """The ``number``-th rewind of a stream went back to ``seq``, and no later one as far."""

    number: int
    seq: int


class StreamState(Event, frozen=True, kw_only=True):
    """The fold's state of a stream at ``offset`` of its chunk partition, and where its content is sealed.

    ``segments`` hold exactly the chunks before ``next_seq``. On ``apex.streams``, keyed by ``stream_id``.
    """

    stream_id: str
    status: StreamStatus
    epoch: int  # of the archiver that wrote it; does not count after a claim with a higher one
    offset: int
    attempt: int
    writer: str
    fenced: bool
    next_seq: int
    data_count: int
    hash: bytes
    checkpoint: bytes | None
    checkpoint_seq: int
    checkpoint_hash: bytes
    checkpoint_data_count: int
    checkpoint_attempt: int
    claims: tuple[ClaimSaid, ...]
    rewinds: int  # how often the stream was rewound …
    rewound_to: int  # … the lowest seq it went back to …
    rewound_from: int  # … and the highest one it went back from: who has read less or more has nothing to forget
    segments: tuple[SegmentRef, ...]
    payload_bytes: int
    created_us: int
    updated_us: int
    ended_us: int
    expires_us: int
    options: bytes = b""
    tenant: str = ""  # whose stream this is; stays when the content is gone
    rewound: tuple[Rewound, ...] = ()  # what the fold keeps of rewinds; versions 1 and 2 have rewound_to alone


class ArchiveProgress(Event, frozen=True, kw_only=True):
    """How far an archiver is with a partition. The first one of an ``epoch`` claims the partition for ``archiver``.

    On the same partition of ``apex.streams``, keyed ``!<partition>``. Everything of ``apex.chunks`` before ``sealed_to``
    is in the states before this record; every record of ``apex.segments`` before ``segments_to`` is referred to or has
    a tombstone; commands of ``apex.control`` before ``control_to`` are obeyed.
    """

    partition: int
    epoch: int
    archiver: str
    sealed_to: int
    segments_to: int
    control_to: int
    at_us: int


class Pipeline(Event, frozen=True, kw_only=True):
    """A pipeline that was submitted. On ``apex.pipelines``, keyed by ``pipeline_id``; a tombstone forgets one that has ended.

    ``definition`` is JSON (``core.pipelines.Definition``). ``cancelled_us`` 0: nobody asked it to stop.
    """

    pipeline_id: str
    definition: bytes
    submitted_us: int
    cancelled_us: int = 0
    reason: str = ""
    tenant: str = ""  # whose it is, and whose its inputs must be


class PipelineRow(Event, frozen=True, kw_only=True):
    """A row of a job's state after step ``step`` of the job (None: gone), and before it. On ``apex.pipeline-state``."""

    step: int
    data: bytes | None
    before: bytes | None = None


class Scope(StrEnum):
    """What statistics are about."""

    UNKNOWN = "unknown"  # written by a newer version
    ACTION = "action"
    STREAM = "stream"


class WindowStats(Event, frozen=True, kw_only=True):
    """What happened to a stream, or to all streams of an action, in a window of time, as one partition has it. On ``apex.stats``.

    Windows of one name, width and start in other partitions add up. ``width_s`` 0 is all of a stream so far.
    """

    scope: Scope
    name: str  # plugin.action, or the stream's id
    action: str  # plugin.action that writes the stream; empty if none does
    tenant: str
    width_s: int
    start_us: int
    chunks: int = 0  # data chunks, by event time
    payload_bytes: int = 0
    latency_count: int = 0  # runs of chunks whose way from yield to log is in latency_sum_us
    latency_sum_us: int = 0
    latency_max_us: int = 0
    gap_max_us: int = 0  # the longest time between two chunks of a stream
    claims: int = 0
    rewinds: int = 0
    started: int = 0  # this and the next five: tasks of an action, as task events say; of a stream only how it ended
    retried: int = 0
    parked: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    chunks_to: int = -1  # offset of the last record of apex.chunks that is in here
    events_to: int = -1  # the same of apex.task-events
    attempt: int = 0  # where width_s is 0: who may write the stream, and how far it is
    writer: str = ""
    next_seq: int = 0
    last_us: int = 0


class PathStatus(StrEnum):
    """What a path of the Durable Streams protocol is."""

    UNKNOWN = "unknown"  # written by a newer version
    LIVE = "live"
    GONE = "gone"  # deleted or expired, but forks of it still read its content
    DELETED = "deleted"


class PathState(Event, frozen=True, kw_only=True):
    """The stream that a path names, and its configuration. On ``apex.paths``, keyed by ``path``.

    A state counts only if its ``version`` is higher than that of the one before it in the log: of two changes made from the
    same state, the first wins. Its content is the fork's source ``parent_stream_id`` up to ``fork_seq``, if it has one, then
    the stream ``stream_id``.
    """

    path: str
    version: int
    change_id: str  # of the change that made it, so that who made it finds out whether it counts
    status: PathStatus
    stream_id: str
    content_type: str
    ttl_s: int  # since the last access; -1: none
    expires_at: str  # as the client wrote it
    expires_us: int  # what that means; 0: never
    created_us: int
    accessed_us: int  # no earlier than the last access less a sixteenth of ttl_s
    changed_us: int
    parent_path: str = ""
    parent_stream_id: str = ""
    fork_seq: int = 0
    fork_sub: int = 0  # bytes or messages of the source after fork_seq that the stream begins with


class CoordinationAct(StrEnum):
    """What a task does to others of its scope."""

    UNKNOWN = "unknown"  # written by a newer version
    SIGNAL = "signal"
    GIVE_UP = "give_up"  # waiting for a signal
    ARRIVE = "arrive"
    LEAVE = "leave"  # a barrier that has not opened
    READ = "read"
    PUT = "put"


class TicketUsed(Event, frozen=True, kw_only=True):
    """A one-time ticket was shown. On ``apex.tickets``, keyed by its nonce: of several uses of one nonce the first counts."""

    nonce: str
    use: str
    until_us: int


class CoordinationEvent(Event, frozen=True, kw_only=True):
    """Something that a task did to its scope. On ``apex.coordination``, keyed by the scope (``core.coordination``).

    ``op`` names the place in the task at which it did so, the same in every attempt: of two events of one place the first in the
    log counts. ``value`` is JSON.
    """

    scope: str
    act: CoordinationAct
    name: str
    task_id: str
    op: str
    attempt: int
    at_us: int
    value: bytes = b""
    parties: int = 0  # of a barrier
    version: int = -1  # that a put expects; -1: any
