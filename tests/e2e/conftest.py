"""A running ApexStream for tests that look at it from outside."""

import secrets
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.support.system import processes


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def apex_url(kafka: str) -> AsyncIterator[str]:
    """The gateway's URL of services in processes of their own."""
    async with processes(kafka, f"e{secrets.token_hex(4)}.") as url:
        yield url
