"""What the ONNX Runtime adapter needs around it: a checked engine, session options."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import re
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from sdlite.engine import LoadOptions, TensorSpec
from sdlite.errors import RequestError, RuntimeUnavailable, UnknownName
from sdlite.hardware import cuts_off, describe
from sdlite.types import Array
from sdlite_runtimes.common import Place
from sdlite_runtimes.ortproviders import Provider

log = logging.getLogger("sdlite.runtimes.onnxruntime")

LEAST = (1, 23)
"""Least version: the first wheels whose CPU provider runs opset 23."""
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
FIX = 'Install it with: pip install "sdlite[cpu]"'
LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
SWITCH = ("0", "1")
TRIAL = (
    b'\x08\x07\x12\x00:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05trialZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX file: y = Relu(x), of one number."""
MAPPED_DISABLES = ("ConstantFolding",)
"""Folding the cast of a weight would make a private copy of it."""

INTEGERS = "QDQSelectorActionTransformer"
"""What makes integer products of layers in 8 bits. Where their sums would be cut off they are
computed in float32 instead."""


@cache
def engine() -> ModuleType:
    """The engine's module, there once and new enough; raises ``RuntimeUnavailable``."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise RuntimeUnavailable(f"ONNX Runtime cannot be imported ({error})", FIX) from error
    found = [name for name in DISTRIBUTIONS if _installed(name)]
    if len(found) > 1:
        raise RuntimeUnavailable(
            "more than one ONNX Runtime distribution is installed and they overwrite each other: "
            + ", ".join(found),
            f"Keep one: pip uninstall -y {' '.join(found)}, then install the one you want",
        )
    version = str(ort.__version__)
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < LEAST:
        least = ".".join(map(str, LEAST))
        raise RuntimeUnavailable(
            f"ONNX Runtime {version} is too old, {least} or later is needed",
            f'Update it with: pip install --upgrade "{(*found, "onnxruntime")[0]}>={least}"',
        )
    ort.disable_telemetry_events()  # Windows wheels would report usage; nobody asked for that
    return ort  # type: ignore[no-any-return]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@cache
def trial(provider: Provider) -> None:
    """Open a graph of one operation, once a process; raises ``RuntimeUnavailable``.

    A wheel names its providers whether or not what they load is installed.
    """
    ort = engine()
    if provider.nvidia and hasattr(ort, "preload_dlls"):
        # It looks for CUDA's libraries as pip installs them, and prints what it misses.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            TRIAL, settings, providers=[provider.name], enable_fallback=False
        )
        opened = session.get_providers()[0]
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeUnavailable(
            f"{provider.name} does not open: {said}", _fix(provider)
        ) from error
    if opened != provider.name:
        raise RuntimeUnavailable(
            f"{provider.name} does not open: a library it loads is missing", _fix(provider)
        )


def _fix(provider: Provider) -> str:
    if provider.device == "tensorrt":
        return "Install TensorRT, or choose the device cuda"
    if provider.nvidia:
        return (
            "Install CUDA and cuDNN of the versions it was built for, e.g. with: "
            'pip install "onnxruntime-gpu[cuda,cudnn]"'
        )
    return "Update the driver of the GPU"


def replace_weights(
    ort: ModuleType, settings: Any, weights: Mapping[str, Array], external: set[str]
) -> list[Any]:
    """Give ``weights`` in place of the file's; returns what must live as long as the session.

    A graph of a chain holds some of a component's weights, those in ``external``; ONNX Runtime
    refuses other names.
    """
    names = [name for name in weights if name in external]
    keep = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(weights[name])) for name in names]
    if names:
        settings.add_external_initializers(names, keep)
    return keep


def session_options(
    ort: ModuleType, options: LoadOptions, provider: Provider
) -> tuple[Any, list[str]]:
    """Session options and disabled optimizers for ``options``.

    Engine options: ``spinning`` 0|1 (threads that wait for work keep a core busy), ``optimization``
    none|basic|extended|all, ``disabled_optimizers`` names with commas, ``profile`` prefix of the
    file ONNX Runtime's profiler writes. Dimensions a graph does not have are left out of account.
    Raises ``UnknownName`` and ``RequestError`` for what it does not know.
    """
    settings = ort.SessionOptions()
    # Threads that spin while they wait win a fifth on calls of 10 ms and nothing on calls of
    # seconds, and on a machine that also does something else they make every call times slower.
    defaults = {"spinning": "0", "optimization": "all", "disabled_optimizers": "", "profile": ""}
    if options.memory_mode == "mapped":
        defaults["optimization"] = "extended"
        defaults["disabled_optimizers"] = ",".join(MAPPED_DISABLES)
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = False
        settings.enable_mem_pattern = False
        if provider.device != "cpu":
            raise RequestError(f"memory mode mapped is for the device cpu, not {provider.device}")
    elif options.memory_mode != "normal":
        raise UnknownName("memory mode", options.memory_mode, ("normal", "mapped"))
    if provider.device == "cpu" and cuts_off(describe(with_memory=False)):
        disabled = (defaults["disabled_optimizers"], INTEGERS)
        defaults["disabled_optimizers"] = ",".join(name for name in disabled if name)
    for key in options.engine:
        if key not in defaults:
            raise UnknownName("onnxruntime option", key, defaults)
    chosen = {**defaults, **options.engine}
    for key, valid in (("spinning", SWITCH), ("optimization", tuple(LEVELS))):
        if chosen[key] not in valid:
            raise UnknownName(f"value of onnxruntime option {key}", chosen[key], valid)
    if options.threads is not None:
        if options.threads < 1:
            raise RequestError(f"threads is {options.threads}; it must be 1 or more")
        settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    level = LEVELS[chosen["optimization"]]
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    settings.add_session_config_entry("session.intra_op.allow_spinning", chosen["spinning"])
    if not provider.memory_pattern:
        settings.enable_mem_pattern = False
    if provider.device != "cpu":
        settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    for name, value in options.dimensions.items():
        settings.add_free_dimension_override_by_name(name, value)
    if chosen["profile"]:
        settings.enable_profiling = True
        settings.profile_file_prefix = chosen["profile"]
    # Failures are raised; what ONNX Runtime also writes to stderr only helps while debugging.
    settings.log_severity_level = 2 if log.isEnabledFor(logging.DEBUG) else 4
    return settings, [name for name in chosen["disabled_optimizers"].split(",") if name]


def spec_of(node: Any, place: Place) -> TensorSpec:
    """An input or output of a session; raises ``EngineError`` for a dtype nothing here has."""
    if node.type not in DTYPES:
        raise place.error(f"{node.name} is a {node.type}; this adapter has no such dtype")
    shape = tuple(size if isinstance(size, int) else str(size or "?") for size in node.shape)
    return TensorSpec(node.name, DTYPES[node.type], shape)
