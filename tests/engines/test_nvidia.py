"""NVIDIA's driver asked through fakes of its libraries: none is here."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from sdlite_runtimes import nvidia
from sdlite_runtimes.nvidia import Gpu, find_gpu

from sdlite.errors import RuntimeUnavailable

GB = 1 << 30


def put(place: Any, value: Any) -> int:
    """Write where a pointer leads, as the driver does; answer success."""
    getattr(place, "_obj", place).value = value
    return 0


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The driver and NVML of a machine with one GPU, by library name."""

    def memory(_: Any, place: Any) -> int:
        place._obj.total, place._obj.free = 4 * GB, 3 * GB
        return 0

    found = {
        nvidia.DRIVER: SimpleNamespace(
            cuInit=lambda _: 0,
            cuDeviceGetCount=lambda place: put(place, 1),
            cuDeviceGet=lambda place, _: put(place, 0),
            cuDeviceGetName=lambda place, *_: put(place, b"GeForce GTX 1650"),
            cuDeviceTotalMem_v2=lambda place, _: put(place, 4 * GB),
            cuDeviceGetAttribute=lambda place, number, _: put(place, {75: 7, 76: 5}[number]),
            cuDeviceGetPCIBusId=lambda place, *_: put(place, b"0000:01:00.0"),
        ),
        nvidia.MANAGEMENT: SimpleNamespace(
            nvmlInit_v2=lambda: 0,
            nvmlDeviceGetHandleByPciBusId_v2=lambda *_: 0,
            nvmlDeviceGetMemoryInfo=memory,
        ),
    }

    def library(name: str) -> Any:
        if name not in found:
            raise OSError(f"{name}: cannot open shared object file")
        return found[name]

    monkeypatch.setattr(nvidia, "_library", library)
    nvidia._driver.cache_clear()
    yield found
    nvidia._driver.cache_clear()


@pytest.mark.usefixtures("libraries")
def test_what_the_driver_says() -> None:
    gpu = find_gpu()
    assert gpu == Gpu("GeForce GTX 1650", 3 * GB, (7, 5))
    assert gpu.precisions == ("fp16", "fp32")
    assert Gpu("GTX 780", GB, (3, 5)).precisions == ("fp32",)


def test_free_memory_is_unknown_without_nvml(libraries: dict[str, Any]) -> None:
    libraries[nvidia.MANAGEMENT].nvmlDeviceGetMemoryInfo = lambda *_: 3
    assert find_gpu().memory_bytes == 4 * GB
    del libraries[nvidia.MANAGEMENT]
    assert find_gpu().memory_bytes == 4 * GB


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"cuInit": lambda _: 100}, "driver answers with error 100"),
        ({"cuDeviceGetCount": lambda place: put(place, 0)}, "sees no GPU"),
    ],
)
def test_a_driver_without_a_gpu(
    libraries: dict[str, Any], broken: dict[str, Any], message: str
) -> None:
    vars(libraries[nvidia.DRIVER]).update(broken)
    with pytest.raises(RuntimeUnavailable, match=message) as caught:
        find_gpu()
    assert "driver" in caught.value.fix


def test_no_driver(libraries: dict[str, Any]) -> None:
    del libraries[nvidia.DRIVER]
    with pytest.raises(RuntimeUnavailable, match="no NVIDIA driver"):
        find_gpu()
