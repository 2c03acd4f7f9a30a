"""What a runner has: the least of the machine's and its cgroup's, and what the operator says."""

import os
from pathlib import Path

import pytest

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.scheduling import RunnerResources
from apexstream.runner.resources import announced, measured


def machine(root: Path, files: dict[str, str]) -> Path:
    for path, text in {"proc/meminfo": "MemTotal:       2097152 kB\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


CORES = float(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("files", "amounts"),
    [
        ({}, {"cpu": CORES, "memory_mb": 2048}),
        (
            {"sys/fs/cgroup/cpu.max": "50000 100000", "sys/fs/cgroup/memory.max": "536870912"},
            {"cpu": 0.5, "memory_mb": 512},
        ),
        ({"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/memory.max": "max"}, {"cpu": CORES, "memory_mb": 2048}),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "25000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            },
            {"cpu": 0.25, "memory_mb": 2048},
        ),
        ({"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""}, {"cpu": CORES, "memory_mb": 2048, "gpu": 2}),
        ({"proc/driver/nvidia/gpus/0000:01:00.0": ""}, {"cpu": CORES, "memory_mb": 2048, "gpu": 1}),
    ],
    ids=["no limits", "cgroup v2", "unlimited v2", "cgroup v1", "gpu devices", "gpu driver"],
)
def test_the_least_of_machine_and_cgroup_counts(
    tmp_path: Path, files: dict[str, str], amounts: dict[str, float]
) -> None:
    assert measured(machine(tmp_path, files)) == amounts


def test_the_operator_changes_and_adds() -> None:
    assert announced({"cpu": 4.0, "memory_mb": 100.0}, "cpu=2, licence=3", "ssd, zone-a") == RunnerResources(
        amounts={"cpu": 2.0, "memory_mb": 100.0, "licence": 3.0}, labels=("ssd", "zone-a")
    )


@pytest.mark.parametrize("extra", ["cpu", "=3", "cpu=many", "cpu=-1", "cpu=nan", "cpu=inf"])
def test_an_amount_that_is_none_is_refused(extra: str) -> None:
    with pytest.raises(InvalidConfiguration, match="is no name=number"):
        announced({}, extra, "")
