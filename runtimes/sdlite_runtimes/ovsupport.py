"""What the OpenVINO adapter needs around it: a checked engine, its devices, its settings."""

from __future__ import annotations

import contextlib
import importlib
import logging
import re
import sys
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any

from sdlite.engine import LoadOptions, TensorSpec
from sdlite.errors import RequestError, RuntimeUnavailable, UnknownName
from sdlite.hardware import cuts_off, describe
from sdlite.types import Array, Device
from sdlite_runtimes.common import Place

log = logging.getLogger("sdlite.runtimes.openvino")

LEAST = (2026, 0)
"""Least version: what reads opset 23 and was tried."""
REPORTS = "openvino_telemetry"
"""Package through which OpenVINO reports its use."""
FIX = 'Install it with: pip install "sdlite[cpu]"'
NEEDED_FLAG = {"x86_64": "sse4_2"}
"""A processor without this ends the process when the engine's library is loaded."""
PRECISIONS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""Our names of what is computed in, and OpenVINO's."""
CAPABILITIES = {"BF16": "bf16", "FP16": "fp16", "FP32": "fp32"}
"""What a device says it can, fastest first."""
SWITCHES = {"pinning": "ENABLE_CPU_PINNING", "hyper_threading": "ENABLE_HYPER_THREADING"}
"""Engine options, 0 or 1, of processors."""
MEMORY = ("GPU_DEVICE_TOTAL_MEM_SIZE", "NPU_DEVICE_TOTAL_MEM_SIZE")
_PREFIX = re.compile(r"^(Exception from .*:\d+:|Check '.*' failed at .*:\d+:)\s*$")


@cache
def engine() -> ModuleType:
    """The engine's module, new enough for us and old enough for the processor."""
    hardware = describe()
    needed = NEEDED_FLAG.get(hardware.arch)
    if needed is not None and hardware.cpu_flags and needed not in hardware.cpu_flags:
        raise RuntimeUnavailable(
            f"OpenVINO needs a processor with {needed}, which {hardware.cpu_name or 'this one'} "
            "does not have",
            "Use the runtime onnxruntime",
        )
    try:
        openvino = _import_without_reports()
    except Exception as error:  # a damaged installation fails in more ways than ImportError
        raise RuntimeUnavailable(f"OpenVINO cannot be imported ({error})", FIX) from error
    found = str(getattr(openvino, "__version__", "0"))
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < LEAST:
        least = ".".join(map(str, LEAST))
        raise RuntimeUnavailable(
            f"OpenVINO {found} is too old, {least} or later is needed",
            f'Update it with: pip install --upgrade "openvino>={least}"',
        )
    return openvino


def _import_without_reports() -> ModuleType:
    """Import OpenVINO, whose package would report each import over the network.

    Unless somebody switched that off on this machine it needs no consent; without its reporting
    package it does nothing of the kind, so that package is hidden while OpenVINO is imported.
    """
    hidden = REPORTS not in sys.modules
    if hidden:
        sys.modules[REPORTS] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            del sys.modules[REPORTS]


def version() -> str:
    """Version with the build, as compiled forms depend on it."""
    return str(engine().__version__)


@cache
def core() -> Any:
    """The engine's registry of devices; raises ``RuntimeUnavailable``."""
    module = engine()
    try:
        return module.Core()
    except Exception as error:
        raise RuntimeUnavailable(f"OpenVINO does not start ({words(error)})", FIX) from error


@cache
def devices() -> tuple[Device, ...]:
    """Every device it sees; a driver that fails leaves its device out.

    Raises ``RuntimeUnavailable`` when there is none.
    """
    seen = core()
    found = []
    for name in seen.available_devices:
        try:
            full = str(seen.get_property(name, "FULL_DEVICE_NAME")).strip()
            able = seen.get_property(name, "OPTIMIZATION_CAPABILITIES")
        except Exception as error:
            log.warning("OpenVINO sees %s and cannot use it: %s", name, words(error))
            continue
        precisions = tuple(ours for theirs, ours in CAPABILITIES.items() if theirs in able)
        found.append(
            Device("openvino", name.lower(), f"{full} (OpenVINO {_short()})", _memory(seen, name),
                   precisions or ("fp32",), True, seven_bits=name == "CPU" and cuts_off(describe()))
        )  # fmt: skip
    if not found:
        raise RuntimeUnavailable("OpenVINO finds no device it can use", FIX)
    return tuple(found)


def _short() -> str:
    return version().partition("-")[0]


def _memory(seen: Any, name: str) -> int | None:
    for key in MEMORY:
        with contextlib.suppress(Exception):
            return int(seen.get_property(name, key))
    return None


def config(seen: Any, device: str, options: LoadOptions) -> dict[str, Any]:
    """Properties to compile with.

    Engine options: ``pinning`` and ``hyper_threading``, 0 or 1, of processors. Raises
    ``UnknownName`` and ``RequestError`` for what it does not know.
    """
    found: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    for key, value in options.engine.items():
        if key not in SWITCHES:
            raise UnknownName("openvino option", key, SWITCHES)
        if value not in ("0", "1"):
            raise UnknownName(f"value of openvino option {key}", value, ("0", "1"))
        found[SWITCHES[key]] = value == "1"
    if options.precision is not None:
        if options.precision not in PRECISIONS:
            raise UnknownName("precision", options.precision, PRECISIONS)
        found["INFERENCE_PRECISION_HINT"] = PRECISIONS[options.precision]
    if options.threads is not None:
        if options.threads < 1:
            raise RequestError(f"threads is {options.threads}; it must be 1 or more")
        found["INFERENCE_NUM_THREADS"] = options.threads
    able = {str(key) for key in seen.get_property(device.upper(), "SUPPORTED_PROPERTIES")}
    return {key: value for key, value in found.items() if key in able}


def precision_of(compiled: Any) -> str | None:
    """What a compiled graph computes in, by our names; None when its device does not say."""
    with contextlib.suppress(Exception):
        said = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}.get(said)
    return None


def specs(ports: Sequence[Any], declared: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """What the graph file declares, its free sizes replaced by those that became static.

    Raises ``ValueError`` when the compiled graph is another one.
    """
    by_name = {name: port for port in ports for name in port.get_names()}
    found = []
    for spec in declared:
        if spec.name not in by_name:
            raise ValueError(f"the compiled graph has no {spec.name!r}")
        sizes = by_name[spec.name].get_partial_shape()
        shape = tuple(
            size.get_length() if size.is_static else name
            for size, name in zip(sizes, spec.shape, strict=True)
        )
        found.append(TensorSpec(spec.name, spec.dtype, shape))
    return tuple(found)


def check_shape(spec: TensorSpec, value: Array, place: Place) -> None:
    """Raise ``EngineError`` when an array is not of the shape the graph takes."""
    fits = len(spec.shape) == value.ndim and all(
        isinstance(size, str) or size == given
        for size, given in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        takes = " x ".join(map(str, spec.shape)) or "a single number"
        got = " x ".join(map(str, value.shape)) or "a single number"
        raise place.error(f"{spec.name} has the dimensions {got}; the graph takes {takes}")


def words(error: Exception) -> str:
    """What OpenVINO says, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not _PREFIX.match(line)]
    return said[-1] if said else type(error).__name__
