"""Whether there is an NVIDIA GPU, asked of its driver: a wheel for CUDA is no proof of one.

Written from the documentation of the CUDA driver API and NVML, and tested against fakes of both;
not run on a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from sdlite.errors import RuntimeUnavailable

WINDOWS = sys.platform == "win32"
DRIVER = "nvcuda.dll" if WINDOWS else "libcuda.so.1"
MANAGEMENT = "nvml.dll" if WINDOWS else "libnvidia-ml.so.1"
FIX = (
    "Install NVIDIA's driver and restart, or, where there is no such GPU, "
    'install the usual wheel: pip uninstall -y onnxruntime-gpu, pip install "sdlite[cpu]"'
)
MAJOR, MINOR = 75, 76
"""Numbers of the attributes of a device's compute capability, from cuda.h."""
HALF = (5, 3)
"""Least compute capability that computes in float16."""


@dataclass(frozen=True)
class Gpu:
    """The first GPU the driver sees."""

    name: str
    """What NVIDIA calls it."""
    memory_bytes: int
    """Free memory now, or all of it where the driver does not say what is free."""
    capability: tuple[int, int]
    """Compute capability."""

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it computes in, fastest first."""
        return ("fp16", "fp32") if self.capability >= HALF else ("fp32",)


def find_gpu() -> Gpu:
    """The GPU that CUDA uses first; raises ``RuntimeUnavailable``."""
    cuda = _driver()
    device = ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(device), 0))
    name = ctypes.create_string_buffer(100)
    _check(cuda.cuDeviceGetName(name, len(name), device))
    total = ctypes.c_size_t()
    _check(cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device))
    version = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        _check(cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        version.append(value.value)
    bus = ctypes.create_string_buffer(32)
    _check(cuda.cuDeviceGetPCIBusId(bus, len(bus), device))
    free = _free(bus)
    return Gpu(
        name.value.decode(errors="replace"),
        int(total.value) if free is None else free,
        (version[0], version[1]),
    )


@cache
def _driver() -> Any:
    """The driver's library, started, with at least one device."""
    try:
        cuda = _library(DRIVER)
    except OSError as error:
        raise RuntimeUnavailable("there is no NVIDIA driver for CUDA here", FIX) from error
    _check(cuda.cuInit(0))
    count = ctypes.c_int()
    _check(cuda.cuDeviceGetCount(ctypes.byref(count)))
    if count.value < 1:
        raise RuntimeUnavailable("NVIDIA's driver sees no GPU", FIX)
    return cuda


def _library(name: str) -> Any:
    return getattr(ctypes, "WinDLL", ctypes.CDLL)(name)


def _check(code: int) -> None:
    if code:
        raise RuntimeUnavailable(f"NVIDIA's driver answers with error {code}", FIX)


class _Memory(ctypes.Structure):
    """nvmlMemory_t of nvml.h."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


def _free(bus: Any) -> int | None:
    """Free bytes of the device at a PCI bus id; None where NVML is missing or does not say."""
    try:
        nvml = _library(MANAGEMENT)
        handle, memory = ctypes.c_void_p(), _Memory()
        if (
            nvml.nvmlInit_v2()
            or nvml.nvmlDeviceGetHandleByPciBusId_v2(bus, ctypes.byref(handle))
            or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        ):
            return None
    except (OSError, AttributeError):
        return None
    return int(memory.free)
