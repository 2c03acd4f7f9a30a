"""Limits, origins and a socket's leave: decisions without a socket."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.tokens import Issuer

from apexstream.core.errors import Forbidden, InvalidConfiguration, LimitReached, Unauthenticated
from apexstream.gateway.access import passes
from apexstream.gateway.access.build import make_access
from apexstream.gateway.access.limits import Admission, Bucket, Connections, UserBuckets
from apexstream.gateway.access.origins import Origins, read_origins
from apexstream.gateway.access.passes import Pass
from apexstream.gateway.access.principal import Principal
from apexstream.gateway.closing import Close
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings

ALICE = Principal(subject="alice", tenant="acme", scopes=(), expires=math.inf)


@given(st.lists(st.floats(0, 3), max_size=200), st.floats(0.5, 50), st.integers(1, 20))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(pauses: list[float], per_s: float, burst: int) -> None:
    bucket, now, given_out = Bucket(per_s, burst), 0.0, 0
    for pause in pauses:
        now += pause
        given_out += bucket.take(now) == 0.0
    assert given_out <= burst + now * per_s + 1e-6


def test_a_bucket_says_when_the_next_one_is_there() -> None:
    bucket = Bucket(2.0, 1.0)
    assert bucket.take(10.0) == 0.0
    assert bucket.take(10.0) == pytest.approx(0.5)
    assert bucket.take(10.5) == 0.0


def test_one_users_submissions_do_not_count_for_another() -> None:
    buckets = UserBuckets(1.0, 2.0)
    for user in ("a", "a", "b"):
        buckets.take(user, 0.0, "submissions")
    with pytest.raises(LimitReached, match="more than 1 submissions a second") as refused:
        buckets.take("a", 0.0, "submissions")
    assert refused.value.retry_after_s == pytest.approx(1.0)


def test_a_user_has_so_many_connections_and_gets_them_back() -> None:
    connections = Connections(2)
    connections.opened("a")
    connections.opened("a")
    with pytest.raises(LimitReached):
        connections.opened("a")
    connections.opened("b")
    connections.closed("a")
    connections.opened("a")


def test_those_who_are_sent_away_are_told_different_times() -> None:
    admission = Admission(Bucket(1.0, 1.0), 10, 10)
    admission.enter(0.0, 0.0, stranger=False)
    waits = []
    for chance in (0.0, 0.5, 0.99):
        with pytest.raises(LimitReached) as refused:
            admission.enter(0.0, chance, stranger=False)
        waits.append(refused.value.retry_after_s)
    assert waits == pytest.approx([1.0, 1.5, 1.99])


def test_strangers_do_not_take_the_room_of_those_who_are_known() -> None:
    admission = Admission(Bucket(100.0, 100.0), 10, 1)
    admission.enter(0.0, 0.0, stranger=True)
    with pytest.raises(LimitReached):
        admission.enter(0.0, 0.0, stranger=True)
    admission.enter(0.0, 0.0, stranger=False)
    admission.introduced()
    admission.enter(0.0, 0.0, stranger=True)
    for stranger in (False, False, True):
        admission.leave(stranger=stranger)
    assert (admission.open, admission.strangers) == (0, 0)


@pytest.mark.parametrize(
    ("origin", "host", "fine"),
    [
        (None, "127.0.0.1:8080", True),
        (None, "localhost", True),
        (None, "[::1]:8080", True),
        (None, "evil.example", False),
        (None, "127.0.0.1.evil.example", False),
        (None, "", False),
        (None, "[", False),
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://localhost:8080", "127.0.0.1:8080", False),
        ("https://evil.example", "127.0.0.1:8080", False),
        ("https://page.example", "127.0.0.1:8080", True),
        ("https://page.example.evil.example", "127.0.0.1:8080", False),
        ("https://page.example:443", "127.0.0.1:8080", False),
        ("http://page.example", "127.0.0.1:8080", False),
        ("null", "127.0.0.1:8080", False),
        ("", "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080/x", "127.0.0.1:8080", False),
        ("http://[", "127.0.0.1:8080", False),
    ],
)
def test_only_our_own_pages_and_listed_ones_may_ask(origin: str | None, host: str, fine: bool) -> None:
    origins = Origins(allowed=read_origins("https://page.example"), loopback_only=True)
    if fine:
        origins.check(origin, host)
    else:
        with pytest.raises(Forbidden):
            origins.check(origin, host)


def test_with_keys_any_name_of_the_gateway_will_do() -> None:
    Origins(loopback_only=False).check("https://apex.example", "apex.example")


@pytest.mark.parametrize("text", ["*", "https://*.example", "page.example", "https://page.example/", "ftp://a"])
def test_what_no_browser_sends_is_no_origin(text: str) -> None:
    with pytest.raises(InvalidConfiguration, match="APEX_ORIGINS"):
        read_origins(text)


class NoUses:
    """Tickets are not used here."""

    async def use(self, nonce: str, until_s: float) -> None:
        raise AssertionError(nonce)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "apex.example"])
async def test_a_gateway_that_others_reach_refuses_to_start_without_keys(host: str) -> None:
    with pytest.raises(InvalidConfiguration, match="no keys to tell them apart") as refused:
        await make_access(Settings(host=host), SystemClock(), b"k", NoUses())
    assert refused.value.where == "APEX_AUTH_KEYS"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_a_gateway_that_only_this_machine_reaches_may_be_open(host: str) -> None:
    await make_access(Settings(host=host), SystemClock(), b"k", NoUses())


async def test_keys_that_cannot_be_read_keep_the_gateway_from_starting(tmp_path) -> None:
    with pytest.raises(InvalidConfiguration, match="cannot be read"):
        await make_access(Settings(auth_keys=str(tmp_path / "none")), SystemClock(), b"k", NoUses())
    path = Issuer().publish(tmp_path / "jwks.json")
    await make_access(Settings(auth_keys=path, host="0.0.0.0"), SystemClock(), b"k", NoUses())


# A socket's leave.


class Socket:
    """What a pass says to its socket."""

    def __init__(self, principal: Principal | None, *proofs: Principal) -> None:
        self.now_s = 1_000.0
        self.told: list[float] = []
        self.entered: list[Principal] = []
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._proofs = list(proofs)
        self.leave = Pass(principal, prove=self._prove, entered=self.entered.append, now_s=lambda: self.now_s)
        self.leave.watch(
            self.told.append,
            lambda code, reason: self.closed.set_result((code, reason)),
        )

    async def _prove(self, token: str, ticket: str) -> Principal:
        if not self._proofs:
            raise Unauthenticated("no")
        return self._proofs.pop(0)


def until(expires: float, subject: str = "alice") -> Principal:
    return Principal(subject=subject, tenant="acme", scopes=(), expires=expires)


async def test_b31_a_socket_that_never_says_who_it_is_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "STALE_S", 0.05)
    socket = Socket(None)
    with pytest.raises(Unauthenticated):
        _ = socket.leave.principal
    async with asyncio.timeout(5):
        assert await socket.closed == (Close.UNAUTHENTICATED, "no token within 0.05 s")


async def test_the_first_message_introduces_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "STALE_S", 0.05)
    socket = Socket(None, ALICE)
    await socket.leave.authenticate(token="t")
    await asyncio.sleep(0.1)
    assert (socket.entered, socket.leave.principal, socket.closed.done()) == ([ALICE], ALICE, False)
    socket.leave.end()


async def test_b33_a_socket_is_warned_before_its_token_expires_and_closed_after(monkeypatch) -> None:
    monkeypatch.setattr(passes, "GRACE_S", 0.05)
    socket = Socket(until(1_000.0 + 60.0))
    await asyncio.sleep(0.01)
    assert socket.told == [60.0]
    socket = Socket(until(1_000.0))
    async with asyncio.timeout(5):
        assert await socket.closed == (Close.UNAUTHENTICATED, "the token has expired: authenticate again")


async def test_b33_a_new_token_in_time_keeps_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "GRACE_S", 0.05)
    socket = Socket(until(1_000.0), until(5_000.0))
    await socket.leave.authenticate(token="new")
    await asyncio.sleep(0.1)
    assert socket.leave.principal.expires == 5_000.0
    assert not socket.closed.done()
    socket.leave.end()


async def test_nobody_takes_over_another_users_socket() -> None:
    socket = Socket(until(2_000.0), until(9_000.0, "mallory"))
    with pytest.raises(Forbidden, match="another user's"):
        await socket.leave.authenticate(token="m")
    assert socket.leave.principal.subject == "alice"
    socket.leave.end()


async def test_b36_a_socket_that_speaks_too_fast_is_told_so() -> None:
    socket = Socket(ALICE)
    for _ in range(int(passes.MESSAGES_BURST)):
        socket.leave.spoke(0.0)
    with pytest.raises(LimitReached):
        socket.leave.spoke(0.0)
    socket.leave.spoke(1.0)
