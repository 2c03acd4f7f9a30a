"""What is waited for cheaply is waited for as with asyncio's own."""

import asyncio

import pytest

from apexstream.gateway.waiting import Flag, Inbox


async def test_a_flag_lets_all_go_on_when_it_is_set_and_nobody_before() -> None:
    flag = Flag()
    assert await flag.wait()
    flag.clear()
    waiting = [asyncio.create_task(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)

    flag.set()

    assert await asyncio.gather(*waiting) == [True] * 3
    assert flag.is_set()


async def test_who_gives_up_waiting_for_a_flag_is_forgotten() -> None:
    flag = Flag()
    flag.clear()
    waiting, other = asyncio.create_task(flag.wait()), asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    flag.set()
    flag.clear()
    assert await other
    assert not flag.is_set()


async def test_an_inbox_gives_messages_in_order_as_they_come() -> None:
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    assert inbox.empty()
    for number in range(3):
        inbox.put_nowait(number)

    assert [await reading, await inbox.get(), await inbox.get()] == [0, 1, 2]
    assert inbox.empty()


async def test_a_reader_that_gives_up_loses_no_message() -> None:
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait("first")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await inbox.get() == "first"
