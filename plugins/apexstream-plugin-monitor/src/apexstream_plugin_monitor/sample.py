"""One look at the host: counters of the kernel, and the rates between two of them."""

import time
from dataclasses import dataclass

import msgspec
import psutil


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the host at ``at`` (seconds since 1970), and rates over the ``over_s`` seconds before it."""

    at: float
    over_s: float
    cpu_percent: float
    """Share of all cores that worked, 0 to 100."""
    load_1m: float
    memory_used_bytes: int
    memory_total_bytes: int
    swap_used_bytes: int
    disk_read_bytes_per_s: float
    disk_written_bytes_per_s: float
    network_received_bytes_per_s: float
    network_sent_bytes_per_s: float
    processes: int


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process: ``cpu_percent`` is of one core since the sample before, so it may pass 100."""

    pid: int
    name: str
    cpu_percent: float
    memory_bytes: int
    threads: int


class Busiest(msgspec.Struct, frozen=True, kw_only=True):
    """The processes that used most CPU since the sample before, the busiest first."""

    at: float
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the host was started. ``busy_s`` and ``total_s`` are summed over all cores."""

    at: float
    busy_s: float
    total_s: float
    disk_read_bytes: int
    disk_written_bytes: int
    network_received_bytes: int
    network_sent_bytes: int


def read_counters() -> Counters:
    """The totals now. A host without disks or network interfaces (a container may be one) counts 0."""
    cpu = psutil.cpu_times()
    total = sum(cpu) - getattr(cpu, "guest", 0.0) - getattr(cpu, "guest_nice", 0.0)  # user and nice hold them already
    disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    return Counters(
        at=time.time(),
        busy_s=total - cpu.idle - getattr(cpu, "iowait", 0.0),
        total_s=total,
        disk_read_bytes=disk.read_bytes if disk else 0,
        disk_written_bytes=disk.write_bytes if disk else 0,
        network_received_bytes=network.bytes_recv if network else 0,
        network_sent_bytes=network.bytes_sent if network else 0,
    )


def sample(before: Counters, now: Counters) -> Sample:
    """The host at ``now``, with rates since ``before``. A counter that fell (it wrapped, a disk went) counts as 0."""
    over_s = max(now.at - before.at, 1e-9)
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()

    def rate(name: str) -> float:
        grown: int = getattr(now, name) - getattr(before, name)
        return round(max(0, grown) / over_s, 1)

    return Sample(
        at=now.at,
        over_s=round(over_s, 3),
        cpu_percent=_share(now.busy_s - before.busy_s, now.total_s - before.total_s),
        load_1m=round(psutil.getloadavg()[0], 2),
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        swap_used_bytes=swap.used,
        disk_read_bytes_per_s=rate("disk_read_bytes"),
        disk_written_bytes_per_s=rate("disk_written_bytes"),
        network_received_bytes_per_s=rate("network_received_bytes"),
        network_sent_bytes_per_s=rate("network_sent_bytes"),
        processes=len(psutil.pids()),
    )


def busiest(count: int) -> Busiest:
    """The ``count`` processes that used most CPU since the last call; the first call only remembers where they stood."""
    found = []
    for process in psutil.process_iter():  # keeps its objects, and with them where each process stood
        try:
            with process.oneshot():
                found.append(
                    Process(
                        pid=process.pid,
                        name=process.name(),
                        cpu_percent=round(process.cpu_percent(), 1),
                        memory_bytes=process.memory_info().rss,
                        threads=process.num_threads(),
                    )
                )
        except psutil.Error:
            continue  # it ended, or is none of our business
    found.sort(key=lambda process: (-process.cpu_percent, process.pid))
    return Busiest(at=time.time(), processes=tuple(found[:count]))


def _share(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100 * part / whole)), 1) if whole > 0 else 0.0
