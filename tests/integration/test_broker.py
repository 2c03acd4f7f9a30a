"""The embedded broker: quick the second time, alone in its home, durable, and gone when its owner is."""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.log import broker as broker_module
from apexstream.log.broker import EmbeddedBroker, answers, make_aot_cache
from apexstream.log.jars import aot_key, ensure_jars, keep_aot_cache
from apexstream.runtime.settings import load_settings

pytestmark = pytest.mark.kafka

TOPIC = "kept"
DEADLINE_S = 60
KEY = aot_key(broker_module._JVM_FLAGS)

Make = Callable[..., EmbeddedBroker]


@pytest.fixture(scope="module")
def cache() -> Path:
    """The machine's cache, with all jars in it."""
    path = load_settings().cache_path
    ensure_jars(path)
    return path


@pytest.fixture
def make(tmp_path: Path, cache: Path) -> Iterator[Make]:
    """Brokers on ``tmp_path/home`` that are gone when the test is."""
    made: list[EmbeddedBroker] = []

    def make(**options: object) -> EmbeddedBroker:
        made.append(EmbeddedBroker(tmp_path / "home", **{"cache": cache, "port": 0, **options}))
        return made[-1]

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def own_cache(tmp_path: Path, cache: Path) -> Path:
    """A cache with the machine's jars and no AOT cache, which no start will make in the background."""
    own = tmp_path / "cache"
    own.mkdir()
    (own / "jars").symlink_to(cache / "jars")
    (own / f"kafka-{KEY}.log").touch()
    return own


async def append(servers: str, values: range) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(TOPIC, b"%d" % value)
    finally:
        await producer.stop()


async def create_topic(servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def read(servers: str, count: int) -> list[int]:
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=servers, auto_offset_reset="earliest")
    await consumer.start()
    try:
        return [int((await consumer.getone()).value) for _ in range(count)]
    finally:
        await consumer.stop()


def serves(broker: EmbeddedBroker) -> bool:
    host, port = broker.bootstrap_servers.split(":")
    return answers(host, int(port))


def wait_for_end(pid: int) -> None:
    """Until the process, which need not be ours, is gone; an error after the deadline."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], DEADLINE_S)
    os.close(descriptor)
    assert ended, f"{pid} still runs"


def maps_aot_cache(broker: EmbeddedBroker) -> bool:
    return str(broker.aot_cache) in Path(f"/proc/{broker.pid}/maps").read_text()


async def test_what_was_acknowledged_survives_a_stop_and_a_kill(make: Make):
    broker = make()
    servers = broker.start()
    await create_topic(servers)
    await append(servers, range(10))
    assert broker.stop()
    assert not broker.running

    assert broker.start() == servers, "clients that outlive the broker must find it again"
    await append(servers, range(10, 20))
    broker.kill()
    assert broker.pid is None

    broker.start()
    assert await read(servers, 20) == list(range(20))


def test_the_first_start_makes_an_aot_cache_that_the_second_uses(make: Make, own_cache: Path):
    (own_cache / f"kafka-{KEY}.log").unlink()
    with make(cache=own_cache) as first:
        assert first.aot_cache is None
        assert (own_cache / f"kafka-{KEY}.log").exists(), "it is made in the background"
    made = make_aot_cache(own_cache)
    with make(cache=own_cache) as second:
        assert second.aot_cache == made
        assert maps_aot_cache(second)
    assert [path.name for path in own_cache.glob("kafka-aot-*")] == []


def test_a_damaged_aot_cache_is_not_used(make: Make, own_cache: Path, cache: Path):
    damaged = own_cache / make_aot_cache(cache).name
    shutil.copy(make_aot_cache(cache), damaged)
    with damaged.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"\xff")
    with make(cache=own_cache) as broker:
        assert broker.aot_cache is None
        assert serves(broker)
    assert not damaged.exists()


def test_an_aot_cache_that_crashes_the_jvm_is_dropped_and_the_start_succeeds(make: Make, own_cache: Path, cache: Path):
    draft = Path(shutil.copy(make_aot_cache(cache), own_cache / "draft"))
    with draft.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"\xff" * (draft.stat().st_size - 21_000_000))
    deadly = keep_aot_cache(draft, own_cache, KEY)
    with make(cache=own_cache) as broker:
        assert serves(broker)
        assert broker.aot_cache is None
    assert not deadly.exists()


def test_a_taken_port_makes_it_use_another(make: Make):
    with socket.create_server(("127.0.0.1", 0)) as taken, make(port=taken.getsockname()[1]) as broker:
        assert broker.bootstrap_servers != f"127.0.0.1:{taken.getsockname()[1]}"
        assert serves(broker)


def test_the_wanted_port_is_used_when_it_is_free(make: Make):
    port, _ = broker_module._free_ports(0)
    with make(port=port) as broker:
        assert broker.bootstrap_servers == f"127.0.0.1:{port}"


def test_a_port_that_is_taken_after_it_was_chosen_costs_one_more_try(make: Make, monkeypatch: pytest.MonkeyPatch):
    broker = make()
    broker.start()
    broker.stop()
    free_ports = broker_module._free_ports
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = iter([(taken.getsockname()[1], free_ports(0)[1])])
        monkeypatch.setattr(broker_module, "_free_ports", lambda wanted: next(chosen, None) or free_ports(wanted))
        broker.start()
        assert broker.bootstrap_servers != f"127.0.0.1:{taken.getsockname()[1]}"
        assert serves(broker)


def test_a_second_broker_on_a_home_is_refused_and_told_who_is_there(make: Make):
    first = make()
    first.start()
    with pytest.raises(Unavailable, match=f"pid {first.pid}, started by pid {os.getpid()}.*APEX_HOME"):
        make().start()
    assert serves(first)
    first.stop()
    assert make().start(), "a stopped broker leaves its home to the next"


def test_a_start_that_is_given_up_leaves_neither_process_nor_lock(make: Make):
    broker = make()
    broker.start()
    broker.stop()
    problems: list[Exception] = []

    def start() -> None:
        try:
            broker.start()
        except Unavailable as problem:
            problems.append(problem)

    starting = threading.Thread(target=start)
    starting.start()
    while not broker.running:
        time.sleep(0.001)
    broker.kill()
    starting.join(DEADLINE_S)
    assert "was stopped while it started" in str(problems)
    assert not broker.running
    assert broker.start()


def test_it_outlives_the_thread_that_started_it(make: Make):
    broker = make()
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    # The parent-death signal would have been sent as the thread ended; a stop takes less than this.
    assert not broker._child.ended.wait(1.5)
    assert serves(broker)


def test_it_ends_when_its_owner_is_killed_and_the_next_gets_the_home_at_once(make: Make, tmp_path: Path, cache: Path):
    owner_code = (
        "import sys; from pathlib import Path; from apexstream.log.broker import EmbeddedBroker;"
        "broker = EmbeddedBroker(Path(sys.argv[1]), Path(sys.argv[2]), port=0); broker.start();"
        "print(broker.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", owner_code, str(tmp_path / "home"), str(cache)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        successor = make()
        successor.start()
    wait_for_end(pid)
    assert serves(successor)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        pytest.param({"heap_mb": 1}, "Too small maximum heap", id="the JVM refuses its options"),
        pytest.param({"properties": {"log.segment.bytes": "many"}}, "log.segment.bytes", id="Kafka refuses a property"),
    ],
)
@pytest.mark.parametrize("formatted", [False, True], ids=["new home", "old home"])
def test_a_broker_that_cannot_start_gives_its_last_lines(
    make: Make, options: dict[str, object], line: str, formatted: bool
):
    if formatted:
        with make():
            pass
    with pytest.raises(Unavailable, match=line) as caught:
        make(**options).start()
    assert caught.value.where.endswith("kafka.log")


def test_an_interrupted_format_is_done_again(make: Make, tmp_path: Path):
    (tmp_path / "home" / "kafka.new" / "__cluster_metadata-0").mkdir(parents=True)
    with make() as broker:
        assert serves(broker)


def test_only_this_machine_can_connect(make: Make):
    with make() as broker:
        listening = f"{int(broker.bootstrap_servers.split(':')[1]):04X}"
        sockets = [
            line.split()[1] for path in ("tcp", "tcp6") for line in Path("/proc/net", path).read_text().splitlines()
        ]
        addresses = {address for address in sockets if address.endswith(f":{listening}")}
    assert addresses
    assert all(address.removesuffix(f":{listening}").endswith("0100007F") for address in addresses)


def test_properties_that_would_break_it_are_refused(tmp_path: Path):
    with pytest.raises(InvalidConfiguration, match=r"log\.dirs"):
        EmbeddedBroker(tmp_path, tmp_path, properties={"log.dirs": "/elsewhere"})


def test_an_unwritable_home_names_the_setting(cache: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfiguration, match="APEX_HOME"):
        EmbeddedBroker(tmp_path / "file" / "home", cache).start()
