"""The pure and the small parts of supervision: restarts, the note, the leash, timings."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from apexstream.cli.leash import Leash, Report
from apexstream.cli.restarts import RestartPolicy, Restarts
from apexstream.cli.running import Running, find_running, gateway_url, kafka_servers, only_one
from apexstream.cli.timings import Timings
from apexstream.cli.up import check_port
from apexstream.core.errors import ApexError, InvalidConfiguration, Unavailable
from apexstream.runtime.settings import Settings

POLICY = RestartPolicy(base_s=0.2, cap_s=1, crashes_max=5, window_s=60)
RUNNING = Running(pid=1, url="http://127.0.0.1:4711", bootstrap_servers="127.0.0.1:4712")


def test_restarts_wait_twice_as_long_each_time_up_to_the_cap() -> None:
    restarts = Restarts(POLICY)

    assert [restarts.crashed(now) for now in range(5)] == pytest.approx([0.2, 0.4, 0.8, 1, 1])


def test_more_crashes_than_allowed_within_the_window_are_a_loop() -> None:
    restarts = Restarts(POLICY)
    for now in range(5):
        restarts.crashed(now)

    assert restarts.crashed(59) is None


def test_crashes_that_are_long_ago_are_forgiven() -> None:
    restarts = Restarts(POLICY)
    for now in range(5):
        restarts.crashed(now)

    assert restarts.crashed(100) == pytest.approx(0.2)


def test_the_note_is_found_while_its_writer_holds_it(tmp_path: Path) -> None:
    with only_one(tmp_path) as note:
        assert find_running(tmp_path) is None  # not ready yet
        note.write(RUNNING)
        assert find_running(tmp_path) == RUNNING

    assert find_running(tmp_path) is None


def test_a_note_that_a_killed_process_left_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "up.json").write_bytes(msgspec.json.encode(RUNNING))

    assert find_running(tmp_path) is None


def test_a_second_platform_in_the_same_home_is_refused_and_told_where_the_first_is(tmp_path: Path) -> None:
    with only_one(tmp_path) as note:
        note.write(RUNNING)

        with (
            pytest.raises(InvalidConfiguration, match=r"another .* at http://127\.0\.0\.1:4711 .*APEX_HOME"),
            only_one(tmp_path),
        ):
            pass


def test_a_home_that_cannot_be_made_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InvalidConfiguration, match="APEX_HOME"), only_one(tmp_path / "file" / "home"):
        pass


def test_the_gateway_is_where_it_is_said_to_be_else_what_runs_else_the_default(tmp_path: Path) -> None:
    plain = Settings(home=tmp_path)
    with only_one(tmp_path) as note:
        note.write(RUNNING)

        assert gateway_url(plain, "http://given") == "http://given"
        assert gateway_url(Settings(home=tmp_path, gateway_url="http://set:1/")) == "http://set:1"
        assert gateway_url(Settings(home=tmp_path, port=9)) == "http://127.0.0.1:9"
        assert gateway_url(plain) == RUNNING.url
        assert kafka_servers(plain) == RUNNING.bootstrap_servers
        assert kafka_servers(Settings(home=tmp_path, bootstrap_servers="k:1")) == "k:1"

    assert gateway_url(plain) == "http://127.0.0.1:8080"
    assert kafka_servers(plain) == "127.0.0.1:9092"


def test_a_taken_gateway_port_is_named_together_with_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(InvalidConfiguration, match=rf"port {port} is taken.*--port or APEX_PORT"):
            check_port(Settings(port=port))


def test_a_free_gateway_port_is_fine() -> None:
    check_port(Settings(port=0))


def test_an_address_that_is_not_ours_names_its_setting() -> None:
    with pytest.raises(InvalidConfiguration, match="APEX_HOST"):
        check_port(Settings(host="192.0.2.1", port=0))


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Leash]]:
    ours, theirs = socket.socketpair()
    leash = Leash.adopt(theirs.detach())
    ours.settimeout(5)
    yield ours, leash
    ours.close()
    leash._lines.close()
    leash._end.close()


def test_a_service_says_that_it_is_loaded_and_gets_its_environment(ends: tuple[socket.socket, Leash]) -> None:
    supervisor, leash = ends
    supervisor.sendall(b'{"environ":{"APEX_PORT":"1"}}\n')

    orders = leash.wait_for_orders()
    leash.report(Report(ready="http://x"))

    assert orders.environ == {"APEX_PORT": "1"}
    assert supervisor.recv(1000) == b'{"loaded":true}\n{"ready":"http://x"}\n'


def test_a_service_whose_supervisor_is_gone_does_not_start(ends: tuple[socket.socket, Leash]) -> None:
    supervisor, leash = ends
    supervisor.close()

    with pytest.raises(Unavailable, match="supervisor is gone"):
        leash.wait_for_orders()


def test_a_service_stops_when_its_supervisor_is_gone(ends: tuple[socket.socket, Leash]) -> None:
    supervisor, leash = ends
    stopped = threading.Event()
    leash.hold(stopped.set, give_up_s=600)

    supervisor.close()

    assert stopped.wait(5)


def test_a_service_that_does_not_stop_then_is_ended() -> None:
    ours, theirs = socket.socketpair()
    code = (
        "import sys, time; from apexstream.cli.leash import Leash\n"
        "Leash.adopt(int(sys.argv[1])).hold(lambda: None, give_up_s=0.01)\n"
        "time.sleep(60)"
    )
    with theirs:
        command = [sys.executable, "-c", code, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=(theirs.fileno(),))
    ours.close()

    assert process.wait(20) == os.EX_TEMPFAIL


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    with pytest.raises(ApexError, match="--supervisor-fd"):
        Leash.adopt(999)


def test_timings_keep_the_first_mark_of_each_phase() -> None:
    now = iter([10.0, 10.5, 11.0, 12.25])
    timings = Timings(lambda: next(now))

    timings.mark("broker")
    timings.mark("first chunk")
    timings.mark("first chunk")

    assert timings.seconds() == {"broker": 0.5, "first chunk": 1.0}
