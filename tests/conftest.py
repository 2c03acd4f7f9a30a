"""Fixtures for all tests."""

import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from tests.support.kafka import kafka_under_test

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # tests are not timed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Long forms of tests that are short in ``make test``."""
    parser.addoption(
        "--scheduler-steps", type=int, default=3_000, help="steps that the scheduler's histories take (default 3000)"
    )
    parser.addoption(
        "--http-examples",
        type=int,
        default=0,
        help="made-up requests to each HTTP operation, besides the systematic ones",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "kafka: starts a broker; set by itself wherever the fixture is used")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a broker, however indirectly, so that ``-m "not kafka"`` leaves it out."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a real Kafka that all tests share; keep to your own topics, see ``topic_prefix``."""
    with kafka_under_test() as servers:
        yield servers


@pytest.fixture
def topic_prefix() -> str:
    """What this test's topics and groups start with, as in the setting of that name; no other test has it."""
    return f"t{secrets.token_hex(4)}."
