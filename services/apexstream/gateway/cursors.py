"""Cursors: the tokens with which a reader of any protocol comes back, signed so that nobody can make up another.

A token is text that sorts as the stream does, and needs no escaping in a URL, an SSE id or a header.
"""

import base64
import contextlib
import hmac
import os
import re
import tempfile
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from apexstream.core.errors import ApexError, InvalidConfiguration
from apexstream.runtime.settings import Settings

CURSOR_CHARACTERS_MAX = 56
SEQ_MAX = 10**16 - 1
_TAG_BYTES = 16
_MARK_BYTES = 4
# The last character carries 2 bits: one text for each cursor.
_SHAPE = re.compile(r"(\d{16})_(0|[1-9a-f][0-9a-f]{0,15})_([A-Za-z0-9_-]{21}[AQgw])", re.ASCII)


class CursorRefused(ApexError):
    """A cursor that cannot be honoured. ``cursor_invalid``: malformed, forged, or of another stream or view;
    ``cursor_epoch``: of another log than the one that is there now."""

    def __init__(self, code: str, what: str, *, where: str = "cursor", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code  # type: ignore[misc]  # one class, two codes: who handles one handles the other


@dataclass(frozen=True, slots=True)
class Position:
    """Where a reader is: the seq that it wants next, and of how many rewinds of the stream it has been told.

    ``rewinds`` is :data:`apexstream.core.fold.UNTOLD` for a reader that gives a bare seq; no cursor says that.
    """

    seq: int
    rewinds: int = 0


class StreamCursors:
    """Mints cursors of one stream and view: a microsecond each."""

    __slots__ = ("_keyed", "_mark")

    def __init__(self, keyed: "blake2b", mark: int) -> None:
        self._keyed = keyed
        self._mark = mark

    def mint(self, seq: int, rewinds: int) -> str:
        """The token of ``Position(seq, rewinds)``."""
        place = f"{seq:016d}_{rewinds:x}"
        tag = int.from_bytes(self.digest(place), "big") ^ self._mark
        return f"{place}_{base64.urlsafe_b64encode(tag.to_bytes(_TAG_BYTES, 'big'))[:22].decode()}"

    def digest(self, place: str) -> bytes:
        """What proves that a gateway wrote ``place``."""
        keyed = self._keyed.copy()
        keyed.update(place.encode())
        return keyed.digest()


class Cursors:
    """Mints and reads cursors. ``key`` (16 to 64 bytes) is shared by all gateways, ``epoch`` names the log of chunks.

    The last 4 bytes of a tag also carry a mark of the epoch, so that a cursor of another log is told from a forged one.
    """

    def __init__(self, key: bytes, epoch: str) -> None:
        if not 16 <= len(key) <= blake2b.MAX_KEY_SIZE:
            raise ValueError("a cursor key has 16 to 64 bytes")
        self._key = key
        self._mark = blake2b(epoch.encode(), digest_size=_MARK_BYTES, key=key, person=b"epoch").digest()

    def of(self, stream_id: str, view: str = "") -> StreamCursors:
        """What mints the cursors of a stream, or of a filtered ``view`` of it."""
        bound = f"{len(stream_id)}:{stream_id}{view}\n".encode()
        return StreamCursors(blake2b(bound, digest_size=_TAG_BYTES, key=self._key), int.from_bytes(self._mark, "big"))

    def mint(self, stream_id: str, position: Position, view: str = "") -> str:
        """The token for ``position``; valid in every protocol."""
        if not 0 <= position.seq <= SEQ_MAX or position.rewinds < 0:
            raise ValueError(f"no cursor can say {position}")
        return self.of(stream_id, view).mint(position.seq, position.rewinds)

    def read(self, token: str, stream_id: str, view: str = "") -> Position:
        """The position in ``token``; :class:`CursorRefused` if it is not one of this stream, view and log."""
        shape = _SHAPE.fullmatch(token)
        if shape is None:
            raise CursorRefused("cursor_invalid", "not a cursor", hint="Use one as the gateway gave it")
        seq, rewinds, tag = shape.groups()
        said = base64.urlsafe_b64decode(tag + "==")
        proof = self.of(stream_id, view).digest(f"{seq}_{rewinds}")
        if not hmac.compare_digest(said[:-_MARK_BYTES], proof[:-_MARK_BYTES]):
            raise CursorRefused("cursor_invalid", "not a cursor of this stream", hint="Use one as the gateway gave it")
        mark = bytes(a ^ b for a, b in zip(said[-_MARK_BYTES:], proof[-_MARK_BYTES:], strict=True))
        if not hmac.compare_digest(mark, self._mark):
            raise CursorRefused("cursor_epoch", "a cursor of a log that is no more", hint="Read from the beginning")
        return Position(int(seq), int(rewinds, 16))


def shared_key(settings: Settings) -> bytes:
    """The key that all gateways of an installation sign with: that of ``APEX_CURSOR_KEY_FILE``, else one that is made in
    ``APEX_HOME`` and serves the gateways of this machine."""
    named = bool(settings.cursor_key_file)
    path = Path(settings.cursor_key_file).expanduser() if named else settings.home_path / "cursor.key"
    if not named and not path.exists():
        _make(path)
    try:
        key = path.read_bytes().strip()
    except OSError as problem:
        raise InvalidConfiguration(
            f"the key of cursors cannot be read: {problem.strerror}", where=str(path), hint="See APEX_CURSOR_KEY_FILE"
        ) from problem
    if not 16 <= len(key) <= blake2b.MAX_KEY_SIZE:
        raise InvalidConfiguration(
            f"a key of {len(key)} bytes; it needs 16 to 64", where=str(path), hint="openssl rand -hex 32 > the file"
        )
    return key


def _make(path: Path) -> None:
    """Whole or not at all, and only one of several gateways that start at once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix="cursor-") as draft:  # mode 0600
        draft.write(os.urandom(32).hex().encode())
        draft.flush()
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)
