"""What an attempt's claim says of its stream besides fencing it: whose it is, how long to keep it, how to open it. Pure.

A claim travels in the log with the stream's chunks and its newest words in the stream's state, so whoever has read either
knows all of this, however long ago the task itself was forgotten.
"""

from collections.abc import Sequence

import msgspec


class ClaimWords(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The payload of a claim (JSON); nothing at all where it has nothing to say."""

    key: str = ""  # the attempt's data key, wrapped, base64; empty: the stream is not encrypted
    tenant: str = ""
    action: str = ""  # plugin.action that writes the stream; empty where it is written from outside or by a pipeline
    ttl_s: float | None = None  # after the stream's end
    keep: bool | None = None
    adaptive: bool = False  # readers are to say how far they are behind

    def encode(self) -> bytes:
        """The payload."""
        return b"" if self == ClaimWords() else msgspec.json.encode(self)


def tenant_of(claims: Sequence[tuple[int, bytes]]) -> str:
    """Whose stream it is, by the first of its claims that says so; every later attempt says the same."""
    for _, payload in claims:
        try:
            tenant = msgspec.json.decode(payload, type=ClaimWords).tenant
        except msgspec.DecodeError:
            continue
        if tenant:
            return tenant
    return ""


def is_adaptive(claims: Sequence[tuple[int, bytes]]) -> bool:
    """Whether the newest of a stream's claims asks its readers how far they are behind."""
    try:
        return bool(claims) and msgspec.json.decode(claims[-1][1] or b"{}", type=ClaimWords).adaptive
    except msgspec.DecodeError:
        return False
