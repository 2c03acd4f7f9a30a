"""Bodies to messages and back: JSON arrays taken apart and put together, bytes cut into chunks, SSE events. Pure."""

import base64
from collections.abc import Iterable, Sequence

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX, RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.gateway.durable.requests import Refused, media_type

PIECE_BYTES_MAX = 256 * 1024  # of one chunk that bytes are cut into
CURSOR_EPOCH_S = 1_728_432_000  # 2024-10-09, where the protocol's interval 0 begins
CURSOR_INTERVAL_S = 20
CURSOR_JITTER_MAX_S = 3_600
RUN_PAYLOAD_BYTES_MAX = RUN_BYTES_MAX  # of one run, unless a single message is larger

_json = msgspec.json.Decoder()
_elements = msgspec.json.Decoder(list[msgspec.Raw])


def is_json(content_type: str) -> bool:
    """Whether a stream of this type keeps messages apart."""
    return media_type(content_type) == "application/json"


def is_text(content_type: str) -> bool:
    """Whether SSE carries the stream as it is, without base64."""
    return is_json(content_type) or media_type(content_type).startswith("text/")


def messages_of(body: bytes, content_type: str, *, creates: bool) -> list[bytes]:
    """The payloads that ``body`` becomes. JSON: the elements of an array, else the value itself; bytes: pieces of at most
    ``PIECE_BYTES_MAX``. Raise :class:`Refused`: 400 for what is not JSON or an empty array (allowed in a creation), 413."""
    if not body:
        return []
    if not is_json(content_type):
        return _pieces(body, text=is_text(content_type))
    try:
        body.decode()  # msgspec does not look into strings that it passes over
        value = _json.decode(body)
        payloads = [bytes(raw).strip() for raw in _elements.decode(body)] if isinstance(value, list) else [body.strip()]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise Refused(400, f"not JSON: {problem}", where="body") from None
    if not payloads and not creates:
        raise Refused(400, "an empty array", where="body", hint="Send at least one message")
    if any(len(payload) > CHUNK_BYTES_MAX for payload in payloads):
        raise Refused(
            413, f"a message of more than {CHUNK_BYTES_MAX} bytes", where="body", hint="Send smaller messages"
        )
    return payloads


def _pieces(body: bytes, *, text: bool) -> list[bytes]:
    """``body`` cut; text between its characters, since a piece may be shown alone."""
    pieces, start = [], 0
    while start < len(body):
        end = min(start + PIECE_BYTES_MAX, len(body))
        if text and end < len(body):
            end = next((at for at in range(end, end - 4, -1) if body[at] & 0xC0 != 0x80), end)
        pieces.append(body[start:end])
        start = end
    return pieces


def chunk_type(content_type: str) -> str:
    """The content type that the chunks of a stream carry: none for JSON."""
    return "" if is_json(content_type) else content_type


def parts_of(payloads: Sequence[bytes]) -> list[Sequence[bytes]]:
    """``payloads`` in parts that fit one run each; at least one, perhaps empty."""
    parts: list[Sequence[bytes]] = []
    start = size = 0
    for at, payload in enumerate(payloads):
        if at > start and (at - start >= RUN_CHUNKS_MAX - 1 or size + len(payload) > RUN_PAYLOAD_BYTES_MAX):
            parts.append(payloads[start:at])
            start, size = at, 0
        size += len(payload)
    parts.append(payloads[start:])
    return parts


def body_of(payloads: Iterable[bytes], content_type: str) -> bytes:
    """What a reader is given for consecutive messages."""
    return b"[%b]" % b",".join(payloads) if is_json(content_type) else b"".join(payloads)


def prefix_of(payloads: Sequence[bytes], content_type: str, count: int) -> list[bytes]:
    """The first ``count`` messages (JSON) or bytes of ``payloads``; raise :class:`Refused` (400) if there are fewer."""
    if is_json(content_type):
        if count > len(payloads):
            raise Refused(400, f"the stream has {len(payloads)} messages there", where="Stream-Fork-Sub-Offset")
        return list(payloads[:count])
    joined = b"".join(payloads)
    if count > len(joined):
        raise Refused(400, f"the stream has {len(joined)} bytes there", where="Stream-Fork-Sub-Offset")
    return _pieces(joined[:count], text=is_text(content_type))


def data_event(payloads: Iterable[bytes], content_type: str) -> bytes:
    """The SSE event that carries consecutive messages. Any line end in them becomes a line of its own."""
    body = body_of(payloads, content_type)
    if not is_text(content_type):
        return b"event: data\ndata:" + base64.b64encode(body) + b"\n\n"
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").encode()
    return b"event: data\ndata:" + text.replace(b"\n", b"\ndata:") + b"\n\n"


def control_event(offset: str, *, cursor: str, up_to_date: bool, closed: bool) -> bytes:
    """The SSE event that follows every data event: where to go on, and whether there is more."""
    control: dict[str, str | bool] = {"streamNextOffset": offset}
    if closed:
        control["streamClosed"] = True
    else:
        control["streamCursor"] = cursor
        if up_to_date:
            control["upToDate"] = True
    return b"event: control\ndata:" + msgspec.json.encode(control) + b"\n\n"


def next_cursor(given: str, now_us: int, random: float) -> str:
    """The ``Stream-Cursor`` for an answer: the number of the present interval, but always beyond the one ``given``, by a
    jitter (``random`` from 0 to 1), so that no cache serves a client the same answer for ever."""
    current = (now_us // 1_000_000 - CURSOR_EPOCH_S) // CURSOR_INTERVAL_S
    if not given.isdecimal() or len(given) > 15 or int(given) < current:
        return str(current)
    jitter_s = 1 + random * (CURSOR_JITTER_MAX_S - 1)
    return str(int(given) + max(1, int(jitter_s // CURSOR_INTERVAL_S)))


def data_chunks(payloads: Iterable[bytes], content_type: str, now_us: int) -> list[Chunk]:
    """Messages as chunks."""
    kind = chunk_type(content_type)
    return [Chunk(Kind.DATA, payload, now_us, kind) for payload in payloads]
