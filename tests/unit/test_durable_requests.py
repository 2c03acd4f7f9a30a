"""Headers of the Durable Streams protocol."""

import pytest
from starlette.datastructures import Headers

from apexstream.gateway.durable.producers import Producer
from apexstream.gateway.durable.requests import Append, Create, Fork, Refused, read_append, read_create


def create(**headers: str) -> Create:
    return read_create(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def append(**headers: str) -> Append:
    return read_append(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def test_a_plain_creation_is_of_bytes_without_end() -> None:
    assert create() == Create(
        content_type="application/octet-stream", ttl_s=None, expires_at="", expires_us=0, closed=False, fork=None
    )


def test_a_fork_inherits_its_content_type() -> None:
    assert create(stream_forked_from="/ds/a").content_type == ""
    assert create(stream_forked_from="/ds/a", content_type="text/plain").content_type == "text/plain"


@pytest.mark.parametrize("content_type", ["", "nonsense", "a/b\x7f", "text/plain; " + "x" * 300])
def test_a_content_type_that_is_none_is_bytes(content_type: str) -> None:
    assert create(content_type=content_type).content_type == "application/octet-stream"


@pytest.mark.parametrize("ttl", ["-1", "+1", "01", "1.0", "1e3", "", " ", "abc", "\xb2", "99999999999"])
def test_a_ttl_is_plain_digits(ttl: str) -> None:
    with pytest.raises(Refused, match="Stream-TTL") as refused:
        create(stream_ttl=ttl)
    assert refused.value.status == 400


def test_a_ttl_may_be_zero_but_not_stand_beside_a_time() -> None:
    assert create(stream_ttl="0").ttl_s == 0
    with pytest.raises(Refused, match="both"):
        create(stream_ttl="1", stream_expires_at="2030-01-31T12:00:00Z")


@pytest.mark.parametrize(
    "text",
    ["2030-01-31T12:00:00Z", "2030-01-31t12:00:00.000z", "2030-01-31T13:00:00+01:00", "2030-01-31T12:00:00.0-00:00"],
)
def test_one_time_may_be_written_in_many_ways(text: str) -> None:
    assert create(stream_expires_at=text).expires_us == 1_896_091_200_000_000


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2030-01-31", "2030-01-31T12:00:00", "2030-13-31T12:00:00Z", "20300131T120000Z"]
)
def test_a_time_is_rfc_3339(text: str) -> None:
    with pytest.raises(Refused, match="Stream-Expires-At"):
        create(stream_expires_at=text)


def test_a_fork_says_where() -> None:
    fork = create(stream_forked_from="/a", stream_fork_offset="o", stream_fork_sub_offset="3").fork

    assert fork == Fork(path="/a", offset="o", sub=3)


@pytest.mark.parametrize(
    "headers",
    [
        {"stream_fork_sub_offset": "0"},
        {"stream_fork_offset": "o"},
        {"stream_forked_from": "/a", "stream_fork_sub_offset": "1"},
        *(
            {"stream_forked_from": "/a", "stream_fork_offset": "o", "stream_fork_sub_offset": n}
            for n in ("", "-1", "01", "x", "1.5")
        ),
    ],
)
def test_half_a_fork_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refused):
        create(**headers)


def test_a_producer_has_three_headers() -> None:
    assert append(producer_id="p", producer_epoch="0", producer_seq="07").producer == Producer("p", 0, 7)
    assert append(stream_seq="a", stream_closed="TRUE") == Append(
        content_type="", closes=True, stream_seq="a", producer=None
    )


@pytest.mark.parametrize(
    "headers",
    [
        {"producer_id": "p"},
        {"producer_id": "p", "producer_epoch": "0"},
        {"producer_epoch": "0", "producer_seq": "0"},
        {"producer_id": "", "producer_epoch": "0", "producer_seq": "0"},
        {"producer_id": "p" * 101, "producer_epoch": "0", "producer_seq": "0"},
        {"stream_seq": ""},
        *(
            {"producer_id": "p", "producer_epoch": "0", "producer_seq": n}
            for n in ("-1", "1.5", "1e3", "x", "", str(2**53))
        ),
    ],
)
def test_producer_headers_that_cannot_be_meant_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        append(**headers)
    assert refused.value.status == 400
