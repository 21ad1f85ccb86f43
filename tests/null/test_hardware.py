from __future__ import annotations

from pathlib import Path

import pytest

from sdlite import hardware
from sdlite.hardware import describe, linux_memory, linux_processor

GIB = 1 << 30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {
    "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1048576 kB\nMemAvailable: 8388608 kB\n",
    "proc/cpuinfo": "processor : 0\nmodel name : Fast CPU\nflags : fpu sse4_2 avx2 evil\n",
}


def test_this_machine() -> None:
    found = describe()
    assert 1 <= found.physical_cores <= found.logical_cores
    assert found.os
    assert found.arch
    if found.ram_total is not None and found.ram_available is not None:
        assert 0 < found.ram_available <= found.ram_total
    assert set(found.cpu_flags) <= hardware.INTERESTING


def test_memory_without_groups(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO)
    assert linux_memory(tmp_path) == (16 * GIB, 8 * GIB)


def test_memory_of_an_old_kernel(tmp_path: Path) -> None:
    write(tmp_path, {"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1048576 kB\n"})
    assert linux_memory(tmp_path) == (16 * GIB, 1 * GIB)


def test_memory_group_v2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/app/job"
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/app/job\n",
            f"{group}/memory.max": "max\n",
            f"{group}/memory.current": f"{GIB}\n",
            "sys/fs/cgroup/app/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/app/memory.current": f"{3 * GIB}\n",
            "sys/fs/cgroup/app/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 0\n",
        },
    )
    assert linux_memory(tmp_path) == (4 * GIB, 2 * GIB)


def test_memory_group_v1(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/1"
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n0::/\n",
            f"{group}/memory.limit_in_bytes": f"{2 * GIB}\n",
            f"{group}/memory.usage_in_bytes": f"{GIB}\n",
            f"{group}/memory.stat": "total_inactive_file 0\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{9 * GIB}\n",
        },
    )
    assert linux_memory(tmp_path) == (2 * GIB, 1 * GIB)


def test_memory_group_seen_from_inside_a_container(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            **MEMINFO,
            "proc/self/cgroup": "0::/host/path/not/here\n",
            "sys/fs/cgroup/memory.max": f"{GIB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        },
    )
    assert linux_memory(tmp_path) == (GIB, 0)


def topology(cores: list[tuple[int, int]]) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{number}/topology/{name}": f"{value}\n"
        for number, pair in enumerate(cores)
        for name, value in zip(("physical_package_id", "core_id"), pair, strict=True)
    }


def test_hyperthreads_count_once(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO | topology([(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0)]))
    assert linux_processor(tmp_path, set(range(6)))[:2] == (3, 6)
    assert linux_processor(tmp_path, {0, 2})[:2] == (1, 2)
    physical, logical, name, flags = linux_processor(tmp_path, {0, 1, 4})
    assert (physical, logical, name) == (3, 3, "Fast CPU")
    assert "avx2" in flags


def test_no_topology(tmp_path: Path) -> None:
    write(tmp_path, MEMINFO)
    assert linux_processor(tmp_path, {0, 1})[:2] == (2, 2)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"sys/fs/cgroup/job/cpu.max": "150000 100000\n"}, 2),
        ({"sys/fs/cgroup/job/cpu.max": "max 100000\n"}, 4),
        ({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    ],
)
def test_quota_v2(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    write(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/job\n", **files})
    assert linux_processor(tmp_path, {0, 1, 2, 3})[:2] == (cores, cores)


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 4)])
def test_quota_v1(tmp_path: Path, quota: str, cores: int) -> None:
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": quota,
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
    }
    write(tmp_path, MEMINFO | files)
    assert linux_processor(tmp_path, {0, 1, 2, 3})[:2] == (cores, cores)


def test_unreadable_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(root: Path) -> tuple[int, int]:
        raise PermissionError("hidden")

    monkeypatch.setattr(hardware, "linux_memory", refuse)
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    assert hardware.memory() == (None, None)
