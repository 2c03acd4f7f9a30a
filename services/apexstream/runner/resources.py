"""What this machine gives a runner: cores and memory within their cgroup limits, GPUs; and what the operator says besides."""

import os
from pathlib import Path

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.scheduling import RunnerResources

MIB = 1 << 20
_UNLIMITED_BYTES = 1 << 60  # cgroup v1 says "no limit" with a number about this large


def measured(root: Path = Path("/")) -> dict[str, float]:
    """``cpu`` (cores), ``memory_mb`` and, if there are any, ``gpu``: the least of what the machine has and what the cgroup of
    this process allows. ``root`` is where ``proc``, ``sys`` and ``dev`` are looked for."""
    amounts = {"cpu": _cores(root), "memory_mb": _memory_bytes(root) // MIB}
    gpus = _gpus(root)
    return {**amounts, "gpu": float(gpus)} if gpus else amounts


def announced(amounts: dict[str, float], extra: str, labels: str) -> RunnerResources:
    """Measured ``amounts``, changed and completed by ``extra`` (``name=number,…``), and ``labels`` (``name,…``)."""
    return RunnerResources(
        amounts={**amounts, **dict(_amount(part) for part in _parts(extra))}, labels=tuple(_parts(labels))
    )


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _amount(part: str) -> tuple[str, float]:
    name, _, number = part.partition("=")
    try:
        amount = float(number)
    except ValueError:
        amount = -1.0
    if not name.strip() or not 0 <= amount < float("inf"):
        raise InvalidConfiguration(
            f"{part!r} is no name=number", where="APEX_RUNNER_RESOURCES", hint="For example: licence=2,memory_mb=4096"
        )
    return name.strip(), amount


def _cores(root: Path) -> float:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, period = ([*_read(root / "sys/fs/cgroup/cpu.max").split(), "", ""])[:2]
    if not quota:  # cgroup v1
        quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        cores = min(cores, int(quota) / int(period))
    return cores


def _memory_bytes(root: Path) -> int:
    total = next((line.split()[1] for line in _read(root / "proc/meminfo").splitlines() if "MemTotal" in line), "0")
    limits = [int(total) * 1024]
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(root / path)
        if limit.isdigit() and int(limit) < _UNLIMITED_BYTES:
            limits.append(int(limit))
    return min(limit for limit in limits if limit) if any(limits) else 0


def _gpus(root: Path) -> int:
    listed = root / "proc/driver/nvidia/gpus"
    if listed.is_dir():
        return sum(1 for _ in listed.iterdir())
    return sum(path.name.removeprefix("nvidia").isdigit() for path in (root / "dev").glob("nvidia*"))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # not this kind of system
