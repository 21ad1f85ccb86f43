"""What this machine has: memory, cores, processor. No dependency, no subprocess.

Inside a container the limits of its control groups count, not the host's figures.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INTERESTING = frozenset(
    {
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
        "neon",
        "asimd",
        "asimdhp",
        "asimddp",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
        "sme",
    }
)
"""Processor features that engines make use of, by their Linux names."""


DOT_PRODUCTS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
"""Features of x86-64 with which sums of products of 8-bit numbers are exact."""


@dataclass(frozen=True)
class Hardware:
    """One machine, as far as this process may use it."""

    ram_total: int | None
    """Bytes of main memory, or the container's limit; None when unknown."""
    ram_available: int | None
    """Bytes that can be taken now without swapping; None when unknown."""
    physical_cores: int
    """Cores this process may use, hyperthreads counted once."""
    logical_cores: int
    """Hardware threads this process may use."""
    cpu_name: str
    """What the maker calls the processor; empty when unknown."""
    cpu_flags: tuple[str, ...]
    """Those of ``INTERESTING`` it has, sorted."""
    os: str
    """``Linux``, ``Darwin``, ``Windows``."""
    arch: str
    """``x86_64``, ``arm64`` ..."""


def cuts_off(machine: Hardware) -> bool:
    """Whether sums of products of 8-bit numbers are cut off at 16 bits: x86-64 without VNNI.

    A system that does not tell the processor's features (Windows tells few) is taken to have none.
    """
    return machine.arch == "x86_64" and not DOT_PRODUCTS & set(machine.cpu_flags)


def describe(with_memory: bool = True) -> Hardware:
    """Look at the machine; free memory anew at every call, the rest once.

    Without memory, which is then None, it takes no time after the first call.
    """
    total, available = memory() if with_memory else (None, None)
    physical, logical, name, flags = _processor()
    return Hardware(
        total,
        available,
        physical,
        logical,
        name,
        flags,
        platform.system(),
        platform.machine().lower().replace("amd64", "x86_64").replace("aarch64", "arm64"),
    )


def memory() -> tuple[int | None, int | None]:
    """Main memory: all of it, and what is free now."""
    try:
        if sys.platform == "win32":
            return _windows_memory()
        if sys.platform == "darwin":
            return _darwin_memory()
        return linux_memory(Path("/"))
    except (OSError, ValueError, AttributeError, KeyError):
        return None, None


@cache
def _processor() -> tuple[int, int, str, tuple[str, ...]]:
    try:
        if sys.platform == "win32":
            found = _windows_processor()
        elif sys.platform == "darwin":
            found = _darwin_processor()
        else:
            found = linux_processor(Path("/"), os.sched_getaffinity(0))
    except (OSError, ValueError, AttributeError):
        found = (0, 0, platform.processor(), set())
    physical, logical, name, flags = found
    logical = logical or os.cpu_count() or 1
    return min(physical or logical, logical), logical, name, tuple(sorted(flags & INTERESTING))


Processor = tuple[int, int, str, set[str]]
"""Physical cores, logical cores (0 when unknown), name, flags."""


def linux_memory(root: Path) -> tuple[int, int]:
    """Memory from ``proc`` and ``sys`` below ``root``, within every control group around us."""
    info = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        key, _, rest = line.partition(":")
        info[key] = int(rest.split()[0]) << 10
    total, available = info["MemTotal"], info.get("MemAvailable", info["MemFree"])
    for limit_name, usage_name, cache_names, group in _memory_groups(root):
        limit = _number(group / limit_name)
        usage = _number(group / usage_name)
        if limit is None or usage is None or limit >= info["MemTotal"]:
            continue
        stat = dict(_pairs(group / "memory.stat"))
        # Cached file pages count as usage, but the kernel drops them first.
        droppable = sum(stat.get(name, 0) for name in cache_names)
        total = min(total, limit)
        available = min(available, max(limit - usage + min(droppable, usage), 0))
    return total, available


def _memory_groups(root: Path) -> Iterator[tuple[str, str, tuple[str, ...], Path]]:
    for controllers, top, group in _groups(root):
        if controllers == "":
            names = ("inactive_file", "active_file")
            yield "memory.max", "memory.current", names, group
        elif "memory" in controllers.split(",") and top.name == "memory":
            names = ("total_inactive_file", "total_active_file")
            yield "memory.limit_in_bytes", "memory.usage_in_bytes", names, group


def _groups(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Controllers, mount and folder of each control group around this process, v2 and v1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        tops = [mount] if controllers == "" else [mount / name for name in controllers.split(",")]
        for top in tops:
            # Inside a container the path may be the host's; its own limits are then at the top.
            group = top / inside.strip("/")
            yield from ((controllers, top, folder) for folder in (group, *_between(group, top)))


def _between(group: Path, top: Path) -> Iterator[Path]:
    while group != top and top in group.parents:
        group = group.parent
        yield group


def linux_processor(root: Path, allowed: set[int]) -> Processor:
    """Processor from ``proc`` and ``sys`` below ``root``, as far as ``allowed`` and quotas go."""
    cores = set()
    for cpu in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core, package = _number(topology / "core_id"), _number(topology / "physical_package_id")
        cores.add((package, core) if core is not None else ("cpu", cpu))
    name, flags = "", set()
    for line in (root / "proc/cpuinfo").read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model") and not name:
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
            if "asimd" in flags:
                flags.add("neon")
            break
    quota = min(_quotas(root), default=math.inf)
    logical, physical = len(allowed), len(cores)
    if quota < logical:
        logical = max(1, math.ceil(quota))
    return min(physical, logical), logical, name, flags


def _quotas(root: Path) -> Iterator[float]:
    for controllers, _, group in _groups(root):
        if controllers == "":
            try:
                quota, period = (group / "cpu.max").read_text().split()
            except (OSError, ValueError):
                continue
            if quota != "max":
                yield int(quota) / int(period)
        elif "cpu" in controllers.split(","):
            runs, each = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
            if runs is not None and each and runs > 0:
                yield runs / each


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _pairs(path: Path) -> Iterator[tuple[str, int]]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition(" ")
        if value.isdigit():
            yield key, int(value)


def _sysctl(name: str) -> bytes | None:
    """Raw value of a sysctl on macOS; None when there is no such name."""
    library = ctypes.CDLL(None)
    size = ctypes.c_size_t(0)
    key = name.encode()
    if library.sysctlbyname(key, None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    buffer = ctypes.create_string_buffer(size.value)
    if library.sysctlbyname(key, buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    return buffer.raw[: size.value]


def _sysctl_int(name: str) -> int:
    raw = _sysctl(name)
    return int.from_bytes(raw, sys.byteorder) if raw else 0


def _darwin_memory() -> tuple[int | None, int | None]:
    total = _sysctl_int("hw.memsize") or None
    # HOST_VM_INFO64: free, active, inactive, wired, then nine 64-bit counters, purgeable,
    # speculative ...; natural_t is 32 bits, so the whole is read as an array of 32-bit words.
    words = (ctypes.c_uint32 * 64)()
    count = ctypes.c_uint32(38)
    library = ctypes.CDLL(None)
    library.mach_host_self.restype = ctypes.c_uint32
    host = ctypes.c_uint32(library.mach_host_self())
    if library.host_statistics64(host, 4, ctypes.byref(words), ctypes.byref(count)) != 0:
        return total, None
    free, inactive, purgeable = words[0], words[2], words[22]
    return total, (free + inactive + purgeable) * os.sysconf("SC_PAGE_SIZE")


def _darwin_processor() -> Processor:
    name = (_sysctl("machdep.cpu.brand_string") or b"").rstrip(b"\0").decode(errors="replace")
    words = (_sysctl("machdep.cpu.features") or b"") + b" "
    words += _sysctl("machdep.cpu.leaf7_features") or b""
    flags = {word.lower() for word in words.rstrip(b"\0").decode(errors="replace").split()}
    flags |= {"avx"} if "avx1.0" in flags else set()
    if platform.machine() == "arm64":
        flags |= {"neon", "asimd"}
        features = {"asimddp": "DotProd", "i8mm": "I8MM", "bf16": "BF16", "sme": "SME"}
        flags |= {
            flag for flag, name in features.items() if _sysctl_int(f"hw.optional.arm.FEAT_{name}")
        }
    # Efficiency cores slow a parallel loop down to their pace: count the fast ones.
    physical = _sysctl_int("hw.perflevel0.physicalcpu") or _sysctl_int("hw.physicalcpu")
    return physical, _sysctl_int("hw.logicalcpu"), name, flags


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = [
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in ("total", "free", "page", "page_free", "virtual", "virtual_free", "more")
        ),
    ]


def _windows_memory() -> tuple[int | None, int | None]:
    if sys.platform == "win32":
        status = _MemoryStatus()
        status.length = ctypes.sizeof(status)
        if ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status)):
            return int(status.total), int(status.free)
    return None, None


def _windows_processor() -> Processor:
    physical, name = 0, ""
    flags: set[str] = set()
    if sys.platform == "win32":
        import winreg

        kernel = ctypes.WinDLL("kernel32")
        size = ctypes.c_uint32(0)
        kernel.GetLogicalProcessorInformation(None, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        if kernel.GetLogicalProcessorInformation(buffer, ctypes.byref(size)):
            # An entry: a mask of pointer size, the relation (0 is a core), 16 bytes, padding.
            step, at = (32, 8) if ctypes.sizeof(ctypes.c_void_p) == 8 else (24, 4)
            relations = (buffer.raw[i + at : i + at + 4] for i in range(0, size.value, step))
            physical = sum(relation == bytes(4) for relation in relations)
        path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
            name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        present = {"sse4_2": 38, "avx": 39, "avx2": 40, "avx512f": 41}
        flags = {
            flag for flag, number in present.items() if kernel.IsProcessorFeaturePresent(number)
        }
    return physical, os.cpu_count() or 0, name, flags
