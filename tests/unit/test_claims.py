"""What a claim says of its stream, and how it reaches the stream's state."""

import pytest

from apexstream.archiver.stream import OpenStream, retention_of
from apexstream.core.chunk import GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.claims import ClaimWords, tenant_of


def test_a_claim_with_nothing_to_say_has_no_payload() -> None:
    assert ClaimWords().encode() == b""


def test_the_tenant_is_the_first_one_that_a_claim_names() -> None:
    claims = [
        (1, ClaimWords(key="a2V5").encode()),
        (2, ClaimWords(tenant="acme").encode()),
        (3, ClaimWords(tenant="evil").encode()),
    ]
    assert tenant_of(claims) == "acme"


@pytest.mark.parametrize("junk", [b"\xff", b"[]", b'{"tenant": 7}', b"null"])
def test_a_claim_that_cannot_be_read_names_nobody(junk: bytes) -> None:
    assert tenant_of([(1, junk)]) == ""


def test_retention_is_read_from_the_same_words() -> None:
    words = ClaimWords(tenant="acme", ttl_s=5.0, keep=True).encode()
    assert retention_of([(1, words)]).expires_us(7, 60.0) == 0


def test_a_streams_state_says_whose_it_is_from_its_first_claim_on() -> None:
    stream = OpenStream("s", None)
    claim = Chunk(Kind.CLAIM, ClaimWords(tenant="acme").encode(), 1)
    stream.take(ChunkRun("s", 1, "w", 0, (claim,), None, GENESIS, b""), 0, 1, 0.0)
    stream.seal()
    assert stream.snapshot is not None
    assert stream.snapshot.state("s", 1, (), 0.0).tenant == "acme"
