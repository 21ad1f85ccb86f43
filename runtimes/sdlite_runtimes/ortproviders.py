"""ONNX Runtime's execution providers as devices: what each is called, needs and is told.

Only the processor was run here. The others are written from ONNX Runtime's documentation and tested
against a fake: docs/engines.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdlite.engine import LoadOptions
from sdlite.types import Device
from sdlite_runtimes import nvidia

HALF_FIRST = ("fp16", "fp32")
HALF = "half"
"""Variant of graphs that compute in float16."""

Options = Callable[[LoadOptions, Path | None], dict[str, str]]
"""From load options and a folder for what the provider compiles to the provider's own options."""


@dataclass(frozen=True)
class Provider:
    """One execution provider."""

    device: str
    """Device name."""
    name: str
    """ONNX Runtime's name."""
    description: str
    """What a person would call it."""
    options: Options
    """What it is told."""
    opset: int = 0
    """Highest opset it reads; 0 for all this ONNX Runtime reads."""
    fixed_sizes: bool = False
    """Whether it needs, or is much faster with, sizes fixed before opening."""
    own_memory: bool = False
    """Whether its memory is not the machine's."""
    memory_pattern: bool = True
    """Whether it may run with ONNX Runtime's memory pattern."""
    compiles: bool = False
    """Whether it compiles graphs and can keep the result in a folder."""
    helper: str | None = None
    """Device that takes what it does not, before the processor does."""
    precisions: tuple[str, ...] = ("fp32",)
    """What it computes in, fastest first; an NVIDIA GPU says so itself."""
    nvidia: bool = False
    """Whether it needs NVIDIA's driver and CUDA's libraries."""


def _nothing(_options: LoadOptions, _folder: Path | None) -> dict[str, str]:
    return {}


def _cuda(options: LoadOptions, _folder: Path | None) -> dict[str, str]:
    # Searching every convolution algorithm takes seconds and a workspace of gigabytes; TF32 would
    # make fp32 something else in silence.
    told = {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if options.device_memory is not None:
        told["gpu_mem_limit"] = str(options.device_memory)
        told["cudnn_conv_use_max_workspace"] = "0"
    return told


def _tensorrt(options: LoadOptions, folder: Path | None) -> dict[str, str]:
    # 16 bits where the graph is written in them, and nowhere else.
    half = "1" if options.precision == "fp16" else "0"
    told = {"trt_fp16_enable": half, "trt_bf16_enable": "0"}
    if options.device_memory is not None:
        told["trt_max_workspace_size"] = str(options.device_memory // 4)
    if folder is not None:
        told |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
        told |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(folder)}
    return told


def _hip(options: LoadOptions, _folder: Path | None) -> dict[str, str]:
    told = {"arena_extend_strategy": "kSameAsRequested"}
    if options.device_memory is not None:
        told["gpu_mem_limit"] = str(options.device_memory)
    return told


def _coreml(_options: LoadOptions, folder: Path | None) -> dict[str, str]:
    told = {
        "ModelFormat": "MLProgram",
        "MLComputeUnits": "ALL",
        "RequireStaticInputShapes": "1",
    }
    if folder is not None:
        told["ModelCacheDirectory"] = str(folder)
    return told


def _qnn(_options: LoadOptions, _folder: Path | None) -> dict[str, str]:
    return {"backend_type": "htp", "htp_performance_mode": "burst"}


PROVIDERS: Mapping[str, Provider] = {
    provider.device: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "CPU", _nothing),
        Provider(
            "cuda", "CUDAExecutionProvider", "NVIDIA GPU", _cuda, own_memory=True, nvidia=True,
        ),
        Provider(
            "tensorrt", "TensorrtExecutionProvider", "NVIDIA GPU by TensorRT", _tensorrt,
            fixed_sizes=True, own_memory=True, compiles=True, helper="cuda", nvidia=True,
        ),
        Provider(
            "dml", "DmlExecutionProvider", "GPU by DirectML", _nothing,
            opset=20, fixed_sizes=True, own_memory=True, memory_pattern=False,
            precisions=HALF_FIRST,
        ),
        Provider(
            "migraphx", "MIGraphXExecutionProvider", "AMD GPU by MIGraphX", _nothing,
            fixed_sizes=True, own_memory=True, precisions=HALF_FIRST,
        ),
        Provider(
            "rocm", "ROCMExecutionProvider", "AMD GPU", _hip,
            own_memory=True, precisions=HALF_FIRST,
        ),
        Provider(
            "coreml", "CoreMLExecutionProvider", "Apple GPU and Neural Engine by Core ML", _coreml,
            fixed_sizes=True, compiles=True,
        ),
        Provider("qnn", "QNNExecutionProvider", "Qualcomm NPU", _qnn, fixed_sizes=True),
        Provider("webgpu", "WebGpuExecutionProvider", "GPU by WebGPU", _nothing, own_memory=True),
    )
}  # fmt: skip
"""By device name, the processor first."""


def device_of(provider: Provider, version: str, trial: Callable[[Provider], None]) -> Device:
    """The device a provider is.

    ``trial`` opens a small graph with it. Raises ``RuntimeUnavailable`` for a wheel whose GPU,
    driver or libraries are not here.
    """
    words, memory, precisions = provider.description, None, provider.precisions
    if provider.nvidia:
        gpu = nvidia.find_gpu()
        words, memory, precisions = gpu.name, gpu.memory_bytes, gpu.precisions
    if provider.own_memory:
        trial(provider)
    return Device(
        "onnxruntime",
        provider.device,
        f"{words} (ONNX Runtime {version})",
        memory,
        precisions,
        fixed_sizes=provider.fixed_sizes,
        own_memory=provider.own_memory,
        opset=provider.opset,
    )


def asked(device: str, options: LoadOptions, folder: Path | None) -> list[Any]:
    """The list of providers to open a session with; the processor takes what is left over."""
    provider = PROVIDERS[device]
    chain = [provider]
    if provider.helper is not None:
        chain.append(PROVIDERS[provider.helper])
    found: list[Any] = []
    for item in chain:
        told = item.options(options, folder)
        found.append((item.name, told) if told else item.name)
    if device != "cpu":
        found.append(PROVIDERS["cpu"].name)
    return found


def computes_in(variant: str) -> str:
    """What a graph computes in: this engine takes it as it is written."""
    return "fp16" if variant == HALF else "fp32"


def left_over(session: Any, device: str) -> tuple[int, int, tuple[str, ...]] | None:
    """Nodes of an opened session: on its device, on the processor, and operations of the latter.

    None when this version of ONNX Runtime does not say.
    """
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception:  # an older version, or a provider that does not record it
        return None
    on, off, operations = 0, 0, set()
    for part in parts:
        nodes = part.get_nodes()
        if part.ep_name == PROVIDERS["cpu"].name:
            off += len(nodes)
            operations |= {node.op_type for node in nodes}
        else:
            on += len(nodes)
    return on, off, tuple(sorted(operations))
