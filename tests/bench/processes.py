"""What each process of a system under test uses: CPU time and memory, read from ``/proc`` (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time since the start of the process and resident memory now; of several processes of one role, the sums."""

    cpu_s: float = 0.0
    rss_mb: float = 0.0


def usage() -> dict[str, Usage]:
    """By role, of all processes that this one started, directly or not: ``broker``, ``plugin``, or a service's name."""
    found: dict[str, Usage] = {}
    for pid in _below(os.getpid()):
        try:
            role, one = _role(_command(pid)), usage_of(pid)
        except (OSError, IndexError):  # it has just ended
            continue
        before = found.get(role, Usage())
        found[role] = Usage(before.cpu_s + one.cpu_s, before.rss_mb + one.rss_mb)
    return found


def cpu_between(before: dict[str, Usage], after: dict[str, Usage]) -> dict[str, float]:
    """Seconds of CPU by role from one reading to the next."""
    return {role: now.cpu_s - before.get(role, Usage()).cpu_s for role, now in sorted(after.items())}


def pids(role: str) -> list[int]:
    """The processes of a role."""
    return [pid for pid in _below(os.getpid()) if _role_of(pid) == role]


def _role_of(pid: int) -> str:
    try:
        return _role(_command(pid))
    except (OSError, IndexError):  # it has just ended
        return ""


def _below(pid: int) -> list[int]:
    children = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in thread.read_text().split()]
        except OSError:  # it has just ended
            continue
    return children + [grandchild for child in children for grandchild in _below(child)]


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def _role(command: list[str]) -> str:
    if Path(command[0]).name == "java":
        return "broker"
    if "apexstream.runner.host.child" in command:
        return "plugin"
    return command[command.index("serve") + 1] if "serve" in command else "other"


def usage_of(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, pages = int(fields[11]), int(fields[12]), int(fields[21])
    return Usage((user + system) / _TICKS_S, pages * _PAGE_BYTES / 2**20)
