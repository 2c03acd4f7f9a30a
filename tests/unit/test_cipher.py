"""Sealed payloads open for their own place only, and never again once the key is destroyed."""

import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import ChunkDecodeError, Erased, InvalidConfiguration
from apexstream.log.cipher import (
    AttemptCipher,
    LocalKeys,
    StreamOpener,
    claimed_key,
    key_provider,
    key_words,
    sealed_by,
)
from apexstream.runtime.settings import Settings

KEY = os.urandom(32)


def sealed(payload: bytes = b"secret", seq: int = 5) -> Chunk:
    (chunk,) = AttemptCipher("s", 2, KEY).seal(seq, [Chunk(Kind.DATA, payload, 1, "text/plain")])
    return chunk


@given(st.binary(max_size=200), st.integers(0, 2**60), st.sampled_from(["", "text/plain", "image/png"]))
def test_what_was_sealed_opens_as_it_was(payload: bytes, seq: int, content_type: str):
    cipher = AttemptCipher("s", 2, KEY)
    plain = Chunk(Kind.PROGRESS, payload, 7, content_type)
    (chunk,) = cipher.seal(seq, [plain])
    assert len(payload) < 4 or payload not in chunk.payload
    assert sealed_by(chunk) == 2
    assert cipher.open(seq, chunk) == plain
    assert cipher.open_state(seq, cipher.seal_state(seq, payload)) == payload


@pytest.mark.parametrize(
    ("stream_id", "attempt", "key", "seq"),
    [("other", 2, KEY, 5), ("s", 3, KEY, 5), ("s", 2, os.urandom(32), 5), ("s", 2, KEY, 6)],
    ids=["other stream", "other attempt", "wrong key", "other seq"],
)
def test_a_chunk_in_the_wrong_place_does_not_open(stream_id: str, attempt: int, key: bytes, seq: int):
    with pytest.raises(ChunkDecodeError) as caught:
        AttemptCipher(stream_id, attempt, key).open(seq, sealed())
    assert caught.value.reason == "auth_failed"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [lambda b: bytes([b[0] ^ 1]) + b[1:], lambda b: b[:-1], lambda b: b"", lambda b: b + b"x"]
)
def test_changed_bytes_do_not_open(change):
    chunk = sealed()
    with pytest.raises(ChunkDecodeError, match="auth_failed"):
        AttemptCipher("s", 2, KEY).open(5, Chunk(chunk.kind, change(chunk.payload), 1, chunk.content_type))


def test_a_checkpoint_is_not_a_chunk():
    cipher = AttemptCipher("s", 2, KEY)
    with pytest.raises(ChunkDecodeError):
        cipher.open(5, Chunk(Kind.DATA, cipher.seal_state(5, b"state"), 0))


def test_ends_and_plain_chunks_are_left_alone():
    end = Chunk(Kind.COMPLETE, b"{}", 0)
    assert AttemptCipher("s", 1, KEY).seal(0, [end]) == [end]
    assert sealed_by(end) is None
    assert sealed_by(Chunk(Kind.DATA, b"", 0, "sealed:x:")) is None


def test_a_data_key_comes_back_from_the_claim(tmp_path: Path):
    keys = LocalKeys(tmp_path / "keys.db")
    payload = ClaimWords(key=key_words(keys.wrap("s", KEY))).encode()
    assert LocalKeys(tmp_path / "keys.db").unwrap("s", claimed_key(payload)) == KEY
    assert claimed_key(b"") is None
    for junk in (b"{", b'{"key":"%"}', b"[]"):
        with pytest.raises(ChunkDecodeError):
            claimed_key(junk)


def test_a_wrapped_key_of_another_stream_does_not_open(tmp_path: Path):
    keys = LocalKeys(tmp_path / "keys.db")
    wrapped = keys.wrap("a", KEY)
    keys.wrap("b", KEY)
    with pytest.raises(ChunkDecodeError, match="auth_failed"):
        keys.unwrap("b", wrapped)


def test_a_destroyed_key_is_gone_for_every_process_and_is_not_made_again(tmp_path: Path):
    path = tmp_path / "keys.db"
    keys, other = LocalKeys(path), LocalKeys(path)
    wrapped = keys.wrap("s", KEY)
    secret = keys._secret("s")
    keys.destroy("s")
    keys.destroy("s")
    for holder in (keys, other):
        with pytest.raises(Erased):
            holder.unwrap("s", wrapped)
        with pytest.raises(Erased):
            holder.wrap("s", KEY)
    keys.close()
    other.close()
    assert secret not in path.read_bytes()


def test_a_file_of_keys_that_others_may_read_is_refused(tmp_path: Path):
    path = tmp_path / "keys.db"
    path.touch(mode=0o644)
    path.chmod(0o644)
    with pytest.raises(InvalidConfiguration, match="chmod 600"):
        LocalKeys(path)


def test_an_opener_reads_plain_and_sealed_chunks_of_all_attempts(tmp_path: Path):
    keys, other = LocalKeys(tmp_path / "keys.db"), os.urandom(32)
    claims = [
        (attempt, ClaimWords(key=key_words(keys.wrap("s", key))).encode()) for attempt, key in ((1, KEY), (2, other))
    ]
    plain = [Chunk(Kind.DATA, bytes([number]), number) for number in range(3)]
    stored = [
        *AttemptCipher("s", 1, KEY).seal(0, plain[:1]),
        *AttemptCipher("s", 2, other).seal(1, plain[1:2]),
        plain[2],
    ]
    assert list(StreamOpener("s", keys).open(claims, 0, stored)) == plain
    with pytest.raises(InvalidConfiguration, match="APEX_ENCRYPTION"):
        StreamOpener("s", None).open(claims, 0, stored)
    with pytest.raises(ChunkDecodeError, match="no key for attempt 1"):
        StreamOpener("s", keys).open([], 0, stored)
    keys.destroy("s")
    with pytest.raises(Erased):
        StreamOpener("s", keys).open(claims, 0, stored)
    assert StreamOpener("s", None).open([], 0, plain) is plain


class Rotating:
    """A provider as one in front of a KMS: what it wraps begins with the version of the key it was wrapped with."""

    def __init__(self, _: Settings) -> None:
        self.versions = [os.urandom(32)]
        self.destroyed: set[str] = set()

    def wrap(self, stream_id: str, data_key: bytes) -> bytes:
        nonce, version = os.urandom(12), len(self.versions) - 1
        return bytes([version]) + nonce + AESGCM(self.versions[version]).encrypt(nonce, data_key, stream_id.encode())

    def unwrap(self, stream_id: str, wrapped: bytes) -> bytes:
        if stream_id in self.destroyed:
            raise Erased("the stream's key was destroyed", where=stream_id)
        return AESGCM(self.versions[wrapped[0]]).decrypt(wrapped[1:13], wrapped[13:], stream_id.encode())

    def destroy(self, stream_id: str) -> None:
        self.destroyed.add(stream_id)


def _installed(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint("vault", value, "apexstream.keys")
    monkeypatch.setattr("apexstream.log.cipher.entry_points", lambda group: [entry] if group == entry.group else [])


def test_an_installed_provider_holds_the_keys_and_rotates_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.modules", sys.modules | {"vault_keys": SimpleNamespace(provider=Rotating)})
    _installed(monkeypatch, "vault_keys:provider")
    provider = key_provider(Settings(encryption="vault"))
    assert isinstance(provider, Rotating)

    def claim(stream_id: str) -> tuple[bytes, bytes]:
        data_key = os.urandom(32)
        return data_key, ClaimWords(key=key_words(provider.wrap(stream_id, data_key))).encode()

    before = claim("s")
    provider.versions.append(os.urandom(32))
    after = claim("s")
    opener = StreamOpener("s", provider)
    for seq, attempt, (data_key, words) in ((0, 1, before), (1, 2, after)):
        (chunk,) = AttemptCipher("s", attempt, data_key).seal(seq, [Chunk(Kind.DATA, b"secret", 1)])
        assert opener.open([(attempt, words)], seq, [chunk])[0].payload == b"secret"
    provider.destroy("s")
    with pytest.raises(Erased):
        StreamOpener("s", provider).open([(2, after[1])], 1, [chunk])


@pytest.mark.parametrize(
    ("name", "why"), [("other", "no key provider 'other'.*local, off, vault"), ("vault", "did not start")]
)
def test_a_provider_that_is_not_there_or_does_not_start_is_named(name: str, why: str, monkeypatch: pytest.MonkeyPatch):
    _installed(monkeypatch, "no_such_module:provider")
    with pytest.raises(InvalidConfiguration, match=why) as refused:
        key_provider(Settings(encryption=name))
    assert refused.value.where == "APEX_ENCRYPTION"
