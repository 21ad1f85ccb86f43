"""How much memory this process uses: *private* (its own pages) and *mapped* (pages of files).

Private memory is what must stay in RAM or swap. Mapped pages that are resident can be dropped by
the system at any time and read from their file again. On Linux the figures are the kernel's
RssAnon and RssFile + RssShmem; macOS and Windows offer near equivalents.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
# Advice to madvise, from Linux's mman.h.
_MADV_DONTNEED = 4


@dataclass(frozen=True)
class MemoryUse:
    """Memory of this process at one moment."""

    private_bytes: int
    """Anonymous resident memory (macOS: physical footprint; Windows: private commit)."""
    mapped_bytes: int
    """Resident pages of files and shared memory."""


def snapshot() -> MemoryUse | None:
    """Memory used now; None where the system does not tell. Takes some microseconds."""
    try:
        if sys.platform == "win32":
            return _windows()
        if sys.platform == "darwin":
            return _darwin()
        return _linux()
    except (OSError, ValueError, AttributeError):
        return None


def high_water() -> int | None:
    """Highest resident memory since the process started; None where unknown.

    Linux: VmHWM of ``/proc``; macOS: ru_maxrss of getrusage; Windows: PeakWorkingSetSize.
    """
    try:
        if sys.platform == "win32":
            counters = _counters()
            return None if counters is None else int(counters.peak_working_set_size)
        if sys.platform == "darwin":
            import resource

            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes, here alone
        for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, AttributeError):
        pass
    return None


@cache
def reuse_freed_memory() -> None:
    """Let the C library (glibc) use freed memory again instead of giving it back at every chance.

    A graph allocates and frees tensors of a few megabytes all the time. By default glibc
    returns such blocks and asks for them again: page faults that take a third of the time of a
    mapped SD1.5 U-Net call. Blocks of 32 MiB and more, its own upper bound, still come and go.
    It holds for the whole process; ``release_free_memory`` still gives everything back.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def release_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library holds on to it (glibc)."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def release_file_pages(path: Path) -> None:
    """Let go of the resident pages of a file that this process has mapped to read.

    Whoever reads there again gets them from the file. For files whose mapping stays although
    hardly anything is read from it any more. Does nothing but on Linux, with ``/proc``.
    """
    advise = _c_function("madvise")
    if advise is None:
        return
    try:
        name = str(path.resolve())
        lines = Path("/proc/self/maps").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        # address range, permissions, offset, device, inode, path
        fields = line.split(maxsplit=5)
        # Pages that were written to would be lost: only those that cannot be.
        if len(fields) == 6 and fields[5] == name and fields[1].startswith("r-"):
            first, last = (int(part, 16) for part in fields[0].split("-"))
            advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_DONTNEED)


@cache
def _c_function(name: str) -> Any:
    """A function of the C library of Linux; None where it, or the system, is another."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


class PeakWatch:
    """Watches memory from a thread while a ``with`` block runs.

    Engines release the interpreter while they compute, so samples keep coming. What is allocated
    and freed between two samples is missed, except in ``peak_bytes``, which also takes the system's
    high-water mark when the block raised it.

    Args:
        interval: seconds between samples.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self.private_bytes: int | None = None
        """Private memory at its highest; None where unknown. Complete when the block ended."""
        self.mapped_bytes: int | None = None
        """Mapped memory at that moment."""
        self.peak_bytes: int | None = None
        """Highest private + mapped."""
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._mark: int | None = None

    def __enter__(self) -> PeakWatch:
        self._mark = high_water()
        self._sample()
        if self.private_bytes is not None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._watch, name="sdlite-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._sample()
        mark = high_water()
        if mark is not None and self._mark is not None and mark > self._mark:
            self.peak_bytes = max(mark, self.peak_bytes or 0)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        use = snapshot()
        if use is None:
            return
        if self.private_bytes is None or use.private_bytes > self.private_bytes:
            self.private_bytes = use.private_bytes
            self.mapped_bytes = use.mapped_bytes
        self.peak_bytes = max(self.peak_bytes or 0, use.private_bytes + use.mapped_bytes)


def _linux() -> MemoryUse:
    # statm is one short line: size resident shared ..., in pages; shared is file + shmem.
    with open("/proc/self/statm", "rb", buffering=0) as stream:  # noqa: PTH123 (sampled often)
        fields = stream.read(128).split()
    page = os.sysconf("SC_PAGE_SIZE")
    resident, shared = int(fields[1]), int(fields[2])
    return MemoryUse(max(resident - shared, 0) * page, shared * page)


class _RusageInfo(ctypes.Structure):
    """rusage_info_v0 of macOS's libproc."""

    _fields_ = [
        ("uuid", ctypes.c_uint8 * 16),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "user_time",
                "system_time",
                "pkg_idle_wkups",
                "interrupt_wkups",
                "pageins",
                "wired_size",
                "resident_size",
                "phys_footprint",
                "start_abstime",
                "exit_abstime",
            )
        ),
    ]


def _darwin() -> MemoryUse | None:
    info = _RusageInfo()
    library = ctypes.CDLL("/usr/lib/libproc.dylib")
    if library.proc_pid_rusage(os.getpid(), 0, ctypes.byref(info)) != 0:
        return None
    private = int(info.phys_footprint)
    return MemoryUse(private, max(int(info.resident_size) - private, 0))


class _ProcessMemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS_EX of Windows."""

    _fields_ = [
        ("cb", ctypes.c_uint32),
        ("page_fault_count", ctypes.c_uint32),
        *(
            (name, ctypes.c_size_t)
            for name in (
                "peak_working_set_size",
                "working_set_size",
                "quota_peak_paged_pool_usage",
                "quota_paged_pool_usage",
                "quota_peak_non_paged_pool_usage",
                "quota_non_paged_pool_usage",
                "pagefile_usage",
                "peak_pagefile_usage",
                "private_usage",
            )
        ),
    ]


def _counters() -> _ProcessMemoryCounters | None:
    if sys.platform == "win32":
        counters = _ProcessMemoryCounters()
        counters.cb = ctypes.sizeof(counters)
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        ask = kernel.K32GetProcessMemoryInfo
        ask.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
        if ask(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb):
            return counters
    return None


def _windows() -> MemoryUse | None:
    counters = _counters()
    if counters is None:
        return None
    private = int(counters.private_usage)
    return MemoryUse(private, max(int(counters.working_set_size) - private, 0))
