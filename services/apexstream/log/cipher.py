"""Payloads and checkpoints that only holders of a stream's key can read: AES-256-GCM, a new data key for every attempt.

The nonce is the seq, which an attempt never writes twice, so no key meets a nonce again; whatever an older attempt wrote at
that seq is under another key. Stream, attempt and seq are authenticated: a chunk that was moved, reordered or copied
from elsewhere does not open. The data key travels in the attempt's claim, wrapped by the stream's own key, which a
:class:`KeyProvider` holds and can destroy: then nothing of the stream can be read any more, wherever copies lie.
"""

import base64
import binascii
import os
import sqlite3
import threading
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import ChunkDecodeError, Erased, InvalidConfiguration
from apexstream.runtime.settings import Settings

KEY_PROVIDERS = "apexstream.keys"  # group of entry points: functions that take Settings and give a KeyProvider
KEY_BYTES = 32
SEAL_BYTES = 16  # that a sealed payload has more than the plain one
_NONCE_BYTES = 12
_CHUNK, _CHECKPOINT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"  # what a nonce begins with
_MARK = "sealed:"  # content types of sealed chunks: sealed:<attempt>:<content type>


class KeyProvider(Protocol):
    """Holds one key a stream. Calls may block for a network round trip; callers cache what :meth:`unwrap` gives."""

    def wrap(self, stream_id: str, data_key: bytes) -> bytes:
        """``data_key`` under the stream's key, which is made if there is none. Raises :class:`Erased` if it was destroyed."""

    def unwrap(self, stream_id: str, wrapped: bytes) -> bytes:
        """The inverse. Raises :class:`Erased` if the key was destroyed, ``ChunkDecodeError`` if ``wrapped`` is not its work."""

    def destroy(self, stream_id: str) -> None:
        """Forget the stream's key for ever. Doing so again changes nothing."""


class LocalKeys:
    """Keys in a file of this machine, for all processes of one installation on it. The file is the secret: mode 0600."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        if path.stat().st_mode & 0o077:
            raise InvalidConfiguration("others may read the file of keys", where=str(path), hint=f"chmod 600 {path}")
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=10.0, check_same_thread=False, isolation_level=None)
        self._db.execute("pragma secure_delete = on")  # a destroyed key must not survive in free pages
        self._db.execute("create table if not exists key (stream_id text primary key, secret blob) without rowid")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def wrap(self, stream_id: str, data_key: bytes) -> bytes:
        """See :class:`KeyProvider`."""
        with self._lock:
            self._db.execute("insert or ignore into key values (?, ?)", (stream_id, os.urandom(KEY_BYTES)))
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self._secret(stream_id)).encrypt(nonce, data_key, stream_id.encode())

    def unwrap(self, stream_id: str, wrapped: bytes) -> bytes:
        """See :class:`KeyProvider`."""
        secret = self._secret(stream_id)
        try:
            return AESGCM(secret).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], stream_id.encode())
        except (InvalidTag, ValueError):
            raise ChunkDecodeError("auth_failed", "the data key does not open", where=stream_id) from None

    def destroy(self, stream_id: str) -> None:
        """See :class:`KeyProvider`. The row stays, empty, so that the key is not made anew."""
        with self._lock:
            self._db.execute("insert into key values (?, null) on conflict do update set secret = null", (stream_id,))

    def _secret(self, stream_id: str) -> bytes:
        with self._lock:
            row = self._db.execute("select secret from key where stream_id = ?", (stream_id,)).fetchone()
        if row is None or row[0] is None:
            raise Erased("the stream's key was destroyed", where=stream_id)
        return bytes(row[0])


class AttemptCipher:
    """Seals and opens what one attempt writes."""

    __slots__ = ("_aead", "_attempt", "_bound", "_mark")

    def __init__(self, stream_id: str, attempt: int, data_key: bytes) -> None:
        self._aead = AESGCM(data_key)
        self._attempt = attempt
        self._bound = f"{stream_id}\n{attempt}\n".encode()
        self._mark = f"{_MARK}{attempt}:"

    def seal(self, first_seq: int, chunks: Sequence[Chunk]) -> list[Chunk]:
        """``chunks`` with sealed payloads; fences and ends stay as they are, they say nothing of the content."""
        return [
            Chunk(
                chunk.kind,
                self._encrypt(_CHUNK, seq, chunk.payload),
                chunk.event_time_us,
                self._mark + chunk.content_type,
            )
            if chunk.kind <= Kind.PROGRESS
            else chunk
            for seq, chunk in enumerate(chunks, first_seq)
        ]

    def open(self, seq: int, chunk: Chunk) -> Chunk:
        """A sealed chunk as it was; ``ChunkDecodeError`` (``auth_failed``) if this attempt did not seal it at ``seq``."""
        content_type = chunk.content_type.removeprefix(self._mark)
        return Chunk(chunk.kind, self._decrypt(_CHUNK, seq, chunk.payload), chunk.event_time_us, content_type)

    def seal_state(self, next_seq: int, state: bytes) -> bytes:
        """A checkpoint that covers everything before ``next_seq``."""
        return self._encrypt(_CHECKPOINT, next_seq, state)

    def open_state(self, next_seq: int, sealed: bytes) -> bytes:
        """The inverse."""
        return self._decrypt(_CHECKPOINT, next_seq, sealed)

    def _encrypt(self, domain: bytes, seq: int, data: bytes) -> bytes:
        nonce = domain + seq.to_bytes(8, "big")
        return self._aead.encrypt(nonce, data, self._bound)

    def _decrypt(self, domain: bytes, seq: int, data: bytes) -> bytes:
        try:
            return self._aead.decrypt(domain + seq.to_bytes(8, "big"), data, self._bound)
        except (InvalidTag, ValueError):
            where = self._bound.decode().partition("\n")[0]
            raise ChunkDecodeError(
                "auth_failed", f"seq {seq} of attempt {self._attempt} does not open", where=where
            ) from None


def sealed_by(chunk: Chunk) -> int | None:
    """The attempt under whose key ``chunk`` is sealed; None if it is plain."""
    if not chunk.content_type.startswith(_MARK):
        return None
    attempt = chunk.content_type[len(_MARK) :].partition(":")[0]
    return int(attempt) if attempt.isdecimal() else None


class StreamOpener:
    """Opens whatever a stream holds, plain or sealed, by any of its attempts. Unwrapped keys are kept as long as this is."""

    __slots__ = ("_ciphers", "_keys", "_stream_id")

    def __init__(self, stream_id: str, keys: KeyProvider | None) -> None:
        self._stream_id = stream_id
        self._keys = keys
        self._ciphers: dict[int, AttemptCipher] = {}

    def open(self, claims: Sequence[tuple[int, bytes]], first_seq: int, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        """``chunks`` as they were yielded; ``claims`` is what the fold kept of them. Raises :class:`Erased` if the key is gone,
        ``ChunkDecodeError`` (``auth_failed``) for bytes that do not open, :class:`InvalidConfiguration` without keys."""
        if not any(chunk.content_type.startswith(_MARK) for chunk in chunks):
            return chunks
        return [self._open(claims, seq, chunk) for seq, chunk in enumerate(chunks, first_seq)]

    def _open(self, claims: Sequence[tuple[int, bytes]], seq: int, chunk: Chunk) -> Chunk:
        attempt = sealed_by(chunk)
        if attempt is None:
            return chunk
        cipher = self._ciphers.get(attempt)
        if cipher is None:
            cipher = self._ciphers[attempt] = self._cipher(claims, attempt)
        return cipher.open(seq, chunk)

    def _cipher(self, claims: Sequence[tuple[int, bytes]], attempt: int) -> AttemptCipher:
        wrapped = claimed_key(dict(claims).get(attempt, b""))
        if wrapped is None:
            raise ChunkDecodeError("auth_failed", f"no key for attempt {attempt}", where=self._stream_id)
        if self._keys is None:
            raise InvalidConfiguration(
                "the stream is encrypted and this process has no keys",
                where=self._stream_id,
                hint="Set APEX_ENCRYPTION",
            )
        return AttemptCipher(self._stream_id, attempt, self._keys.unwrap(self._stream_id, wrapped))


def key_words(wrapped_key: bytes) -> str:
    """A wrapped data key as :class:`ClaimWords` carry it."""
    return base64.b64encode(wrapped_key).decode()


def claimed_key(payload: bytes) -> bytes | None:
    """The wrapped data key in a claim's payload; None for a stream that is not encrypted."""
    if not payload:
        return None
    try:
        key = msgspec.json.decode(payload, type=ClaimWords).key
        return base64.b64decode(key, validate=True) if key else None
    except (msgspec.DecodeError, binascii.Error):
        raise ChunkDecodeError("bad_logical", "a claim whose payload cannot be read") from None


def key_provider(settings: Settings) -> KeyProvider | None:
    """Who holds the keys if streams are to be encrypted, None if they are not. Raises :class:`InvalidConfiguration`."""
    if settings.encryption == "off":
        return None
    if settings.encryption == "local":
        return LocalKeys(settings.home_path / "keys.db")
    found = {entry.name: entry for entry in entry_points(group=KEY_PROVIDERS)}
    if settings.encryption not in found:
        known = ", ".join(sorted({"off", "local", *found}))
        hint = f"Known here are {known}; another is installed as an entry point of the group {KEY_PROVIDERS}"
        raise InvalidConfiguration(f"no key provider {settings.encryption!r}", where="APEX_ENCRYPTION", hint=hint)
    try:
        provider: KeyProvider = found[settings.encryption].load()(settings)
    except Exception as problem:  # another's code
        why = f"the key provider {settings.encryption!r} did not start: {problem!r}"
        raise InvalidConfiguration(why, where="APEX_ENCRYPTION", hint="See its documentation") from problem
    return provider
