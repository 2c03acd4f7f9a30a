"""One-time tickets: what is taken, once among all gateways, and with which word everything else is refused."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from tests.support.streams import CODEC

from apexstream.core.errors import LimitReached, Unavailable
from apexstream.core.events import TicketUsed
from apexstream.gateway.access import uses as uses_module
from apexstream.gateway.access.principal import OPEN, Principal, read_scopes
from apexstream.gateway.access.tickets import TICKET_S, Tickets
from apexstream.gateway.access.tokens import TokenRefused
from apexstream.gateway.access.uses import KEPT_S, LoggedUses

ORIGIN = "https://page.example"
ALICE = Principal(subject="alice", tenant="acme", scopes=read_scopes(["read:a-*"]), expires=5_000.0)


@dataclass
class Record:
    offset: int
    value: bytes
    key: bytes = b""
    timestamp: int = 0


@dataclass
class Log:
    """The topic of used tickets, the clock of all gateways, and the gateways that read it."""

    now_s: float = 100.0
    records: list[Record] = field(default_factory=list)
    readers: list[LoggedUses] = field(default_factory=list)
    silent: bool = False
    ids: Iterator[int] = field(default_factory=count)

    def now_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic(self) -> float:
        return self.now_s

    def gateway(self, secret: bytes = b"k" * 32) -> Tickets:
        made = LoggedUses(CODEC, self.append, self, lambda: str(next(self.ids)))
        self.readers.append(made)
        return Tickets(secret, made)

    async def append(self, nonce: str, used: TicketUsed) -> int:
        offset = len(self.records)
        self.records.append(Record(offset, CODEC.encode(used), nonce.encode()))
        await asyncio.sleep(0)  # others write as well before it is read
        if not self.silent:
            for reader in self.readers:
                reader.on_records(("tickets", 0), [self.records[offset]])
        return offset

    async def redeem(self, tickets: Tickets, ticket: str, origin: str = ORIGIN) -> Principal:
        return await tickets.redeem(ticket, origin, now_s=self.now_s)


def mint(tickets: Tickets, nonce: str, now_s: float = 100.0) -> str:
    return tickets.mint(ALICE, ORIGIN, nonce=nonce, now_s=now_s)


async def test_a_ticket_is_good_once_for_the_same_origin_and_not_for_long() -> None:
    log = Log()
    tickets = log.gateway()
    first = mint(tickets, "1")

    assert await log.redeem(tickets, first) == ALICE
    with pytest.raises(TokenRefused, match="used"):
        await log.redeem(tickets, first)
    with pytest.raises(TokenRefused, match="audience"):
        await log.redeem(tickets, mint(tickets, "2"), "https://evil.example")
    log.now_s += TICKET_S
    with pytest.raises(TokenRefused, match="expired"):
        await log.redeem(tickets, mint(tickets, "3"))
    assert len(log.records) == 1


async def test_any_gateway_with_the_secret_takes_a_ticket_and_no_other() -> None:
    log = Log()
    ticket = log.gateway().mint(OPEN, "", nonce="1", now_s=100.0)

    assert await log.redeem(log.gateway(), ticket, "") == OPEN
    assert math.isinf(OPEN.expires)
    with pytest.raises(TokenRefused, match="signature"):
        await log.redeem(log.gateway(b"x" * 32), ticket, "")


async def test_of_gateways_that_are_shown_one_ticket_at_once_one_takes_it() -> None:
    log = Log()
    gateways = [log.gateway() for _ in range(4)]
    ticket = mint(gateways[0], "1")

    answers = await asyncio.gather(*(log.redeem(each, ticket) for each in gateways * 2), return_exceptions=True)

    assert answers.count(ALICE) == 1
    refusals = [answer for answer in answers if isinstance(answer, TokenRefused)]
    assert [refusal.what for refusal in refusals] == ["the token is refused: used"] * 7


async def test_a_gateway_that_has_just_started_knows_what_was_used_before() -> None:
    log = Log()
    before = log.gateway()
    ticket = mint(before, "1")
    await log.redeem(before, ticket)
    late = log.gateway()
    log.readers[-1].on_records(("tickets", 0), log.records)

    with pytest.raises(TokenRefused, match="used"):
        await log.redeem(late, ticket)


async def test_a_showing_in_time_whose_record_comes_late_is_still_the_second_one() -> None:
    log = Log()
    tickets = log.gateway()
    ticket = mint(tickets, "1")
    behind = LoggedUses(CODEC, log.append, log, lambda: "late")  # reads nothing for a while
    log.now_s += TICKET_S - 0.1
    await log.redeem(tickets, ticket)

    showing = asyncio.create_task(log.redeem(Tickets(b"k" * 32, behind), ticket))
    await asyncio.sleep(0)
    log.now_s += KEPT_S / 2
    behind.on_records(("tickets", 0), log.records)

    with pytest.raises(TokenRefused, match="used"):
        await showing


@pytest.mark.parametrize("junk", ["", "é", "AAAA", "A" * 100_000, "!" * 40])
async def test_what_is_no_ticket_is_refused(junk: str) -> None:
    log = Log()

    with pytest.raises(TokenRefused):
        await log.redeem(log.gateway(), junk)


async def test_only_so_many_used_tickets_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_module, "USED_MAX", 3)
    log = Log()
    tickets = log.gateway()
    for nonce in "abc":
        await log.redeem(tickets, mint(tickets, nonce))

    with pytest.raises(LimitReached):
        await log.redeem(tickets, mint(tickets, "d"))

    log.now_s += TICKET_S + KEPT_S
    assert await log.redeem(tickets, mint(tickets, "e", log.now_s)) == ALICE


async def test_while_the_log_does_not_answer_no_ticket_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses_module, "USE_S_MAX", 0.01)
    log = Log(silent=True)
    tickets = log.gateway()

    with pytest.raises(Unavailable):
        await log.redeem(tickets, mint(tickets, "1"))


async def test_what_cannot_be_read_is_passed_over() -> None:
    log = Log()
    tickets = log.gateway()
    log.readers[0].on_records(("tickets", 0), [Record(0, b"junk")])

    assert await log.redeem(tickets, mint(tickets, "1")) == ALICE
