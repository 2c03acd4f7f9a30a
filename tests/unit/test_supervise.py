"""A loop beside a body: it lives exactly as long, and neither fails unseen."""

import asyncio

import pytest

from apexstream.runtime.supervise import beside


class Failed(Exception):
    pass


async def test_the_loop_goes_on_until_the_body_has_ended_however_it_ends():
    alive = asyncio.Event()

    async def loop() -> None:
        alive.set()
        try:
            await asyncio.Event().wait()
        finally:
            alive.clear()

    async def body() -> None:
        async with beside(loop()):
            await alive.wait()
            raise Failed

    with pytest.raises(Failed):
        await body()
    assert not alive.is_set()


async def test_a_body_is_cancelled_when_its_loop_fails_and_the_loops_error_is_raised():
    async def loop() -> None:
        raise Failed

    with pytest.raises(Failed):
        async with beside(loop()):
            await asyncio.Event().wait()


async def test_a_loop_that_ends_by_itself_is_an_error():
    with pytest.raises(RuntimeError, match="ended by itself"):
        async with beside(asyncio.sleep(0)):
            await asyncio.Event().wait()
