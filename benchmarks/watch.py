"""Memory of a process, private and mapped apart, at its highest.

Private is anonymous resident memory, mapped is resident file pages, both from the kernel's counters
(Linux; elsewhere the figures are None). The kernel keeps a high-water mark of their sum only, so
the parts are sampled every 2 ms by a thread; engine calls release Python's lock, so sampling goes
on.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

INTERVAL = 0.002


@dataclass(frozen=True)
class Memory:
    """Resident memory at one moment."""

    private: int
    """Anonymous bytes."""
    mapped: int
    """File-backed bytes, shared memory included."""


def supported() -> bool:
    """Whether this system has the counters."""
    return Path("/proc/self/statm").exists()


class Watch:
    """Context manager that watches a process; peaks are there while and after it runs."""

    def __init__(self, pid: int | None = None) -> None:
        self._path = f"/proc/{'self' if pid is None else pid}/statm"
        self._page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self.private_peak: int | None = None
        self.mapped_peak: int | None = None
        self.resident_peak: int | None = None
        self._file = -1

    def read(self) -> Memory | None:
        """Memory now; None when the process is gone or the system has no such counters."""
        try:
            fields = os.pread(self._file, 200, 0).split()
        except OSError:
            return None
        if len(fields) < 3:
            return None
        resident, shared = int(fields[1]), int(fields[2])
        return Memory((resident - shared) * self._page, shared * self._page)

    def reset(self) -> None:
        """Forget the peaks seen so far."""
        self.private_peak = self.mapped_peak = self.resident_peak = None
        self._sample()

    def pause(self) -> None:
        """Stop sampling; ``read`` and ``reset`` still work."""
        self._stop.set()

    def _sample(self) -> None:
        memory = self.read()
        # A process that is ending has already given its memory back.
        if memory is None or memory == Memory(0, 0):
            return
        self.private_peak = max(self.private_peak or 0, memory.private)
        self.mapped_peak = max(self.mapped_peak or 0, memory.mapped)
        self.resident_peak = max(self.resident_peak or 0, memory.private + memory.mapped)

    def _loop(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._sample()

    def __enter__(self) -> Watch:
        if supported():
            self._file = os.open(self._path, os.O_RDONLY)
            self._sample()
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file >= 0:
            self._stop.set()
            self._thread.join()
            self._sample()
            os.close(self._file)
            self._file = -1
