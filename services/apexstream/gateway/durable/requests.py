"""The headers of the Durable Streams protocol to values, or a refusal that says what is wrong with them. Pure."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from apexstream.core.errors import ApexError
from apexstream.gateway.durable.producers import Producer

PRODUCER_ID_CHARACTERS_MAX = 100  # with PRODUCERS_MAX of them a checkpoint stays under its limit
STREAM_SEQ_CHARACTERS_MAX = 256
TTL_MAX_S = 3_000_000_000  # a hundred years
DEFAULT_CONTENT_TYPE = "application/octet-stream"
CONTENT_TYPE_CHARACTERS_MAX = 200

_CODES = {
    400: "bad_request",
    403: "stale_epoch",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "gone",
    413: "too_large",
}
_CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+\s*(;[\x20-\x7e]*)?")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_DIGITS = re.compile(r"[0-9]+")
_SAFE_INTEGER_MAX = (1 << 53) - 1  # what JavaScript's numbers hold
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class Refused(ApexError):
    """A request that the protocol answers with ``status`` and, besides the usual ones, ``headers``."""

    def __init__(
        self,
        status: int,
        what: str,
        *,
        code: str = "",
        where: str = "",
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code or _CODES[status]  # type: ignore[misc]  # one class, many codes: they are answered alike
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """Where a new stream begins: at ``offset`` of ``path`` (None: its end), plus ``sub`` bytes or messages. ``sub`` is None
    where the request does not say."""

    path: str
    offset: str | None
    sub: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Create:
    """``PUT``: what the stream is to be. ``content_type`` is empty where a fork inherits it."""

    content_type: str
    ttl_s: int | None
    expires_at: str
    expires_us: int
    closed: bool
    fork: Fork | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """``POST``: what comes with the body. ``content_type`` is empty if the request has none."""

    content_type: str
    closes: bool
    stream_seq: str | None
    producer: Producer | None


def media_type(content_type: str) -> str:
    """The content type without its parameters, in lower case: what two of them are compared by."""
    return content_type.partition(";")[0].strip().lower()


def read_create(headers: Mapping[str, str]) -> Create:
    """The headers of a ``PUT``; ``headers`` looks names up in any case and gives texts. Raise :class:`Refused` (400)."""
    ttl, expires_at = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise Refused(400, "both Stream-TTL and Stream-Expires-At", where="Stream-TTL", hint="Send one of them")
    fork = _fork(headers)
    return Create(
        content_type=_content_type(headers, "" if fork else DEFAULT_CONTENT_TYPE),
        ttl_s=None if ttl is None else _ttl(ttl),
        expires_at=expires_at or "",
        expires_us=0 if expires_at is None else _time_us(expires_at),
        closed=_closed(headers),
        fork=fork,
    )


def read_append(headers: Mapping[str, str]) -> Append:
    """The headers of a ``POST``, as for :func:`read_create`."""
    seq = headers.get("stream-seq")
    if seq is not None and not 0 < len(seq) <= STREAM_SEQ_CHARACTERS_MAX:
        raise Refused(400, f"1 to {STREAM_SEQ_CHARACTERS_MAX} characters are allowed", where="Stream-Seq")
    return Append(
        content_type=headers.get("content-type", "").strip(),
        closes=_closed(headers),
        stream_seq=seq,
        producer=_producer(headers),
    )


def _closed(headers: Mapping[str, str]) -> bool:
    return headers.get("stream-closed", "").strip().lower() == "true"


def _content_type(headers: Mapping[str, str], default: str) -> str:
    given = headers.get("content-type", "").strip()
    fits = len(given) <= CONTENT_TYPE_CHARACTERS_MAX and _CONTENT_TYPE.fullmatch(given)
    return given if fits else default


def _ttl(text: str) -> int:
    if _NUMBER.fullmatch(text) is None or len(text) > 10 or int(text) > TTL_MAX_S:
        raise Refused(
            400, f"{text[:40]!r} is not a number of seconds", where="Stream-TTL", hint="Digits only, such as 3600"
        )
    return int(text)


def _time_us(text: str) -> int:
    if _RFC3339.fullmatch(text) is not None:
        with contextlib.suppress(ValueError, OverflowError):
            return int(datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp() * 1e6)
    raise Refused(
        400, f"{text[:40]!r} is not a time", where="Stream-Expires-At", hint="RFC 3339, such as 2030-01-31T12:00:00Z"
    )


def _fork(headers: Mapping[str, str]) -> Fork | None:
    path, offset = headers.get("stream-forked-from"), headers.get("stream-fork-offset")
    sub = headers.get("stream-fork-sub-offset")
    if sub is not None and (path is None or _NUMBER.fullmatch(sub) is None or len(sub) > 15):
        raise Refused(
            400, f"{sub[:40]!r} is not a number of bytes or messages of a fork", where="Stream-Fork-Sub-Offset",
            hint="Digits only, together with Stream-Forked-From",
        )  # fmt: skip
    if path is None:
        if offset is not None:
            raise Refused(400, "needs Stream-Forked-From", where="Stream-Fork-Offset")
        return None
    count = None if sub is None else int(sub)
    if count and offset is None:
        raise Refused(400, "needs Stream-Fork-Offset", where="Stream-Fork-Sub-Offset")
    return Fork(path=path, offset=offset, sub=count)


def _producer(headers: Mapping[str, str]) -> Producer | None:
    given = [headers.get(name) for name in ("producer-id", "producer-epoch", "producer-seq")]
    name, epoch, seq = given
    if name is None and epoch is None and seq is None:
        return None
    if name is None or epoch is None or seq is None:
        raise Refused(
            400, "Producer-Id, Producer-Epoch and Producer-Seq come together or not at all", where="Producer-Id"
        )
    if not 0 < len(name) <= PRODUCER_ID_CHARACTERS_MAX:
        raise Refused(400, f"1 to {PRODUCER_ID_CHARACTERS_MAX} characters are allowed", where="Producer-Id")
    return Producer(name, _safe_integer(epoch, "Producer-Epoch"), _safe_integer(seq, "Producer-Seq"))


def _safe_integer(text: str, where: str) -> int:
    if _DIGITS.fullmatch(text) is None or len(text) > 16 or int(text) > _SAFE_INTEGER_MAX:
        raise Refused(400, f"{text[:40]!r} is not a number from 0 to 2^53-1", where=where)
    return int(text)
