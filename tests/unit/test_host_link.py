"""The runner's end of the socket to a plugin process: signs of life, and being held."""

import asyncio

import pytest

from apexstream.runner.host.frames import Described, Pong, encode
from apexstream.runner.host.link import Link


class Transport(asyncio.Transport):
    """Takes everything."""

    def __init__(self):
        super().__init__()
        self.written = []

    def write(self, data):
        self.written.append(bytes(data))

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return False

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def abort(self):
        pass


@pytest.fixture
async def linked():
    reasons: list[str] = []
    link = Link(reasons.append)
    link.connection_made(Transport())
    link.data_received(bytes(encode(Described([]))))
    return link, reasons


async def test_all_frames_of_a_turn_of_the_loop_leave_together_in_their_order(linked):
    link, _ = linked
    for number in range(3):
        link.send(Pong(number))
    assert link.transport.written == []
    await asyncio.sleep(0)

    assert link.transport.written == [b"".join(bytes(encode(Pong(number))) for number in range(3))]
    link.send(Pong(3))
    await asyncio.sleep(0)
    assert len(link.transport.written) == 2


async def test_what_was_not_sent_when_the_link_is_closed_is_dropped(linked):
    link, _ = linked
    link.send(Pong(1))
    link.close()
    await asyncio.sleep(0)

    assert link.transport.written == []


def pong(link: Link, number: int) -> None:
    link.data_received(bytes(encode(Pong(number))))


async def test_an_answer_that_lay_unread_while_the_link_was_held_breaks_no_rule(linked):
    link, reasons = linked
    link.ping()
    link.ping()
    link.hold(True)
    link.hold(False)
    assert link.unanswered == 0
    pong(link, 1)
    link.ping()
    assert link.unanswered == 1
    pong(link, 2)
    assert link.unanswered == 1
    pong(link, 3)
    assert (link.unanswered, reasons) == (0, [])


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_an_answer_to_nothing_or_out_of_turn_ends_the_process(linked, number: int):
    link, reasons = linked
    link.ping()
    pong(link, 1)
    link.ping()
    pong(link, number)
    assert len(reasons) == 1


async def test_pings_without_an_answer_are_counted(linked):
    link, _ = linked
    for _ in range(3):
        link.ping()
    pong(link, 1)
    assert link.unanswered == 2
