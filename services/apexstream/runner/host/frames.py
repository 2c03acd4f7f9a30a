"""What the runner and a plugin process say to each other over their socket: length-prefixed msgpack, typed and bounded.

The runner trusts nothing that comes from a plugin process: bytes that are not a frame raise :class:`BrokenFrame`, and
whether a frame may come now is for :mod:`link` to judge. Nothing here does I/O.
"""

import struct
from collections.abc import Iterator
from itertools import repeat
from typing import Annotated, Final, Generic, TypeVar

import msgspec

from apexstream.core.chunk import CHECKPOINT_BYTES_MAX, CHUNK_BYTES_MAX, RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.core.coordination import VALUE_BYTES_MAX
from apexstream.plugin.base import ActionSpec
from apexstream.plugin.values import CONTENT_TYPE_CHARS_MAX

FRAME_BYTES_MAX = 2 * 1024 * 1024  # a batch with its largest chunk and checkpoint is well below
CHUNK_COST_MIN = 128  # bytes of credit that a chunk costs at least: what it takes to hold it, however small it is
ACTIONS_MAX = 1000
TEXT_CHARS_MAX = 4000  # of each part of an error
PROGRESS_BYTES_MAX = 16 * 1024
QUESTION_BYTES_MAX = VALUE_BYTES_MAX + 2_000
PATIENCE_S_MAX = 31_536_000.0  # that a rate limit may ask for

_LENGTH: Final = struct.Struct("<I")
_PLAIN: Final = frozenset(range(2))  # the kinds that an action gives: data and progress
_KINDS: Final = {int(kind): kind for kind in (Kind.DATA, Kind.PROGRESS)}

Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
CallNumber = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Payload = Annotated[bytes, msgspec.Meta(max_length=CHUNK_BYTES_MAX)]
_ContentType = Annotated[str, msgspec.Meta(max_length=CONTENT_TYPE_CHARS_MAX)]
_PerChunk = msgspec.Meta(max_length=RUN_CHUNKS_MAX)


class BrokenFrame(Exception):
    """Bytes that the other side can only have sent by mistake or in bad faith."""


class Frame(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of all frames. An array whose first element says which; the order of fields is the format."""


class Setup(Frame, tag=0):
    """First to the child: what it is. ``entry`` is the plugin's entry point, ``module:object``; limits None: none."""

    plugin: str
    entry: str
    environment: dict[str, str]
    memory_bytes: int | None = None
    cpu_s: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    processes: int | None = None


class Start(Frame, tag=1):
    """Run an action; ``call`` names it from now on. ``credit`` is what it may yield at first."""

    call: int
    task_id: str
    attempt: int
    action: str
    params: bytes
    data_count: int
    next_seq: int
    checkpoint: bytes | None
    credit: int
    traceparent: str = ""


class Credit(Frame, tag=2):
    """The call may yield this much more, see :func:`cost`."""

    call: int
    amount: int


class Cancel(Frame, tag=3):
    """Set the call's cancellation token."""

    call: int
    reason: str


class Interrupt(Frame, tag=4):
    """Cancel the call's task."""

    call: int


class Park(Frame, tag=5):
    """Stop the call at its next yield."""

    call: int


class Pause(Frame, tag=6):
    """Hold the call at its next yield, or let it go on."""

    call: int
    paused: bool


class Answered(Frame, tag=8):
    """The answer to the question ``number`` of the call: ``core.coordination.Answer`` as msgpack."""

    call: int
    number: int
    answer: bytes


class Pace(Frame, tag=9):
    """The call may yield so many chunks a second; 0: as many as it can."""

    call: int
    rate: float


class Ping(Frame, tag=7):
    """Answer with a :class:`Pong` of the same number."""

    number: int


class OfferedAction(msgspec.Struct, array_like=True, frozen=True):
    """One action of the plugin and whether it streams."""

    spec: ActionSpec
    streams: bool


class Described(Frame, tag=16):
    """First from the child: the plugin's actions, or why it could not be loaded."""

    actions: Annotated[list[OfferedAction], msgspec.Meta(max_length=ACTIONS_MAX)]
    broken: Text = ""


class Batch(Frame, tag=17):
    """The next chunks of a call: payloads and event times (µs), one each a chunk.

    ``kinds`` has a byte for each chunk, or is empty if all are data; ``content_types`` likewise, empty if all are JSON.
    ``checkpoint`` is the state after the first ``covered`` chunks.
    """

    call: CallNumber
    payloads: Annotated[list[_Payload], _PerChunk]
    times: Annotated[list[_Time], _PerChunk]
    kinds: Annotated[bytes, _PerChunk] = b""
    content_types: Annotated[list[_ContentType], _PerChunk] = []
    checkpoint: Annotated[bytes, msgspec.Meta(max_length=CHECKPOINT_BYTES_MAX)] | None = None
    covered: CallNumber = 0

    @property
    def payload_bytes(self) -> int:
        """Sum of all payloads."""
        return sum(map(len, self.payloads))

    def check(self, payload_bytes: int) -> None:
        """Raise :class:`BrokenFrame` where the fields do not agree or are more than one batch may have."""
        count = len(self.payloads)
        if not count or len(self.times) != count:
            raise BrokenFrame("a batch without chunks, or with times for others")
        if (self.kinds and len(self.kinds) != count) or not _PLAIN.issuperset(self.kinds):
            raise BrokenFrame("a batch with kinds that an action cannot give")
        if self.content_types and len(self.content_types) != count:
            raise BrokenFrame("a batch with content types for other chunks")
        if payload_bytes - len(self.payloads[-1]) >= RUN_BYTES_MAX:
            raise BrokenFrame("a batch of too many bytes")
        if (self.checkpoint is None) != (self.covered == 0) or self.covered > count:
            raise BrokenFrame("a checkpoint that covers no chunk of its batch")

    def chunks(self) -> list[Chunk]:
        """The chunks as everyone else knows them."""
        if not self.kinds and not self.content_types:
            return list(map(Chunk, repeat(Kind.DATA), self.payloads, self.times))
        kinds = [_KINDS[kind] for kind in self.kinds] if self.kinds else repeat(Kind.DATA)
        return list(map(Chunk, kinds, self.payloads, self.times, self.content_types or repeat("")))


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The JSON form of an error."""

    code: Text
    message: Text = ""
    where: Text = ""
    hint: Text = ""
    retry_after_s: Annotated[float, msgspec.Meta(ge=0, le=PATIENCE_S_MAX)] | None = None


class Ended(Frame, tag=18):
    """The call is over; ``ending`` and ``error_class`` are words of ``port.Ending`` and ``core.options.ErrorClass``."""

    call: CallNumber
    ending: Annotated[str, msgspec.Meta(max_length=20)]
    error: Problem | None = None
    error_class: Annotated[str, msgspec.Meta(max_length=20)] = ""


class Pong(Frame, tag=19):
    """The child's event loop runs."""

    number: CallNumber


class Asked(Frame, tag=20):
    """The call asks something of other tasks: ``core.coordination.Question`` as msgpack. ``number`` is the question's."""

    call: CallNumber
    number: CallNumber
    question: Annotated[bytes, msgspec.Meta(max_length=QUESTION_BYTES_MAX)]


ToChild = Setup | Start | Credit | Cancel | Interrupt | Park | Pause | Ping | Answered | Pace
FromChild = Described | Batch | Ended | Pong | Asked

Message = TypeVar("Message")

_encoder = msgspec.msgpack.Encoder()
to_child_decoder: Final[msgspec.msgpack.Decoder[ToChild]] = msgspec.msgpack.Decoder(ToChild)
from_child_decoder: Final[msgspec.msgpack.Decoder[FromChild]] = msgspec.msgpack.Decoder(FromChild)


def shortened(text: str) -> str:
    """``text`` as it may be sent: of bounded length, without the lone surrogates that odd file names bring."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"


def cost(payload_bytes: int, count: int, checkpoint: bytes | None) -> int:
    """Bytes of credit that a batch uses up: what is held for it until the log has taken it."""
    return max(payload_bytes, CHUNK_COST_MIN * count) + len(checkpoint or b"")


def encode(frame: Frame) -> bytearray:
    """The frame with its length before it."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(frame, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return buffer


class Frames(Generic[Message]):
    """Cuts what a socket gives into frames. Holds less than one frame."""

    __slots__ = ("_decoder", "_kept", "_wanted")

    def __init__(self, decoder: msgspec.msgpack.Decoder[Message]) -> None:
        self._decoder = decoder
        self._kept = bytearray()
        self._wanted = _LENGTH.size

    def feed(self, data: bytes) -> Iterator[Message]:
        """The frames that are complete with ``data``. Raises :class:`BrokenFrame`."""
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted:
                return
            data, self._kept = bytes(self._kept), bytearray()
        view, at, end = memoryview(data), 0, len(data)
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > FRAME_BYTES_MAX:
                raise BrokenFrame(f"a frame of {length} bytes, more than the {FRAME_BYTES_MAX} allowed")
            after = at + _LENGTH.size + length
            if after > end:
                self._wanted = after - at
                break
            yield self._decode(view[at + _LENGTH.size : after])
            at = after
        else:
            self._wanted = _LENGTH.size
        self._kept += view[at:]

    def _decode(self, body: memoryview) -> Message:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, ValueError) as problem:
            raise BrokenFrame(f"no frame: {problem}") from None
