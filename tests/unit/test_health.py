"""Whether a process is alive and ready, told by a server that does not need its event loop."""

import asyncio
import http.client
import threading
import time

import httpx
import pytest

from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.health import STUCK_S, UNREADY_S, Health
from apexstream.runtime.probes import CONNECTIONS_MAX, probes


class Watch:
    """A clock that is set by hand, and runs on by what the loop really takes."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def page(_: str) -> tuple[bytes, str]:
    return b"metrics", "text/plain"


async def test_a_process_is_ready_once_it_serves_and_until_it_stops() -> None:
    health = Health()
    health.begin()
    before = health.ready()
    health.serving()
    serving = health.ready()
    health.end()

    assert (before.well, serving.well, health.ready().well) == (False, True, False)
    assert before.checks == {"loop": "ok", "service": "not serving: it starts, or stops"}
    assert health.live().well
    health.close()


async def test_a_check_that_fails_says_why_until_it_is_gone() -> None:
    health = Health()
    health.serving()
    forget = health.check("kafka", lambda: "no answer")
    health.check("disk", lambda: "")

    report = health.ready()
    forget()

    assert not report.well
    assert report.checks["kafka"] == "no answer"
    assert report.checks["disk"] == "ok"
    assert health.ready().well


def test_a_check_that_cannot_tell_fails() -> None:
    health = Health()
    health.serving()
    health.check("disk", lambda: str(1 / 0))

    assert "cannot tell: ZeroDivisionError" in health.ready().checks["disk"]


def test_a_loop_that_is_stuck_is_seen_from_outside_with_the_place_where_it_stands() -> None:
    watch = Watch()
    health, release, blocked = Health(watch), threading.Event(), threading.Event()

    async def block() -> None:
        health.begin()
        health.serving()
        blocked.set()
        release.wait(30)
        health.close()

    thread = threading.Thread(target=lambda: asyncio.run(block()))
    thread.start()
    blocked.wait(30)
    try:
        with probes("127.0.0.1", 0, health, page, service="runner") as url:
            at_first = httpx.get(f"{url}/livez")
            watch.ahead_s = UNREADY_S + 0.5
            soon = httpx.get(f"{url}/livez"), httpx.get(f"{url}/readyz")
            watch.ahead_s = STUCK_S + 0.5
            late = httpx.get(f"{url}/livez")
    finally:
        release.set()
        thread.join()

    assert at_first.status_code == 200
    assert [answer.status_code for answer in soon] == [200, 503]
    assert late.status_code == 503
    assert "the event loop has not run for" in late.json()["checks"]["loop"]
    assert "in wait (" in late.json()["checks"]["loop"]


async def test_a_loop_that_goes_on_is_alive_again() -> None:
    watch = Watch()
    health = Health(watch)
    health.begin()
    watch.ahead_s = STUCK_S + 1
    stuck = health.live()
    async with asyncio.timeout(10):
        while not health.live().well:
            await asyncio.sleep(0.01)

    assert not stuck.well
    health.close()


def test_the_server_has_three_pages_and_no_more() -> None:
    with probes("127.0.0.1", 0, Health(), page, service="runner") as url:
        answers = {path: httpx.get(f"{url}{path}") for path in ("/metrics", "/livez", "/readyz?verbose", "/", "/x")}
        posted = httpx.post(f"{url}/metrics")

    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/metrics": 200,
        "/livez": 200,
        "/readyz?verbose": 503,
        "/": 404,
        "/x": 404,
    }
    assert answers["/metrics"].text == "metrics"
    assert answers["/livez"].json() == {"status": "ok", "service": "runner", "checks": {"loop": "ok"}}
    assert posted.status_code == 501


def test_connections_beyond_the_bound_are_closed_and_room_is_made_again() -> None:
    with probes("127.0.0.1", 0, Health(), page, service="runner") as url:
        host = url.removeprefix("http://")
        held = [http.client.HTTPConnection(host, timeout=10) for _ in range(CONNECTIONS_MAX)]
        for connection in held:
            connection.request("GET", "/livez")
            connection.getresponse().read()
        extra = http.client.HTTPConnection(host, timeout=10)
        extra.request("GET", "/livez")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            extra.getresponse()
        for connection in held:
            connection.close()

        deadline = time.monotonic() + 10
        while True:
            try:
                again = httpx.get(f"{url}/livez")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline

    assert again.status_code == 200


def test_a_taken_port_is_reported_with_the_remedy() -> None:
    with probes("127.0.0.1", 0, Health(), page, service="runner") as url:
        port = int(url.rpartition(":")[2])
        with (
            pytest.raises(InvalidConfiguration, match="APEX_METRICS_PORT"),
            probes("127.0.0.1", port, Health(), page, service="runner"),
        ):
            pass
