"""Layers in 8 bits on processors that add products of 8-bit numbers in 16 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sdlite import hardware, registry
from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.errors import RuntimeUnavailable
from sdlite.hardware import Hardware, cuts_off

CHANNELS = 64


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    try:
        registry.probe(request.param)
    except RuntimeUnavailable as error:
        pytest.skip(error.reason)
    return str(request.param)


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
@pytest.mark.parametrize("cut", [False, True])
def test_large_sums_are_not_cut_off(
    kind: str, cut: bool, runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inputs over the whole range, weights that go to their limit: the worst there is."""
    if cut:
        old = Hardware(1, 1, 1, 1, "old", ("avx2",), "Linux", "x86_64")
        for module in ("sdlite_runtimes.ovcache", "sdlite_runtimes.ortsupport"):
            monkeypatch.setattr(f"{module}.describe", lambda with_memory: old)
    rng = np.random.default_rng(0)
    shape = (1, CHANNELS, 12, 12) if kind == "Conv" else (1, 40, CHANNELS)
    x = (rng.integers(0, 256, shape) / 255).astype(np.float32)
    size = (CHANNELS, CHANNELS, 3, 3) if kind == "Conv" else (CHANNELS, CHANNELS)
    weight = rng.integers(-127, 128, size).astype(np.int8)
    model, inner = layer(kind, shape, weight)
    path = tmp_path / "layer.onnx"
    onnx.save(model, path)
    specs = [(TensorSpec(name, "float32", shape),) for name in ("x", "y")]
    artifact = Artifact(
        "layer", "onnx", "plain", "int8", path.name, path.stat().st_size, "", *specs, None
    )
    device = next(item for item in registry.probe(runtime) if item.name == "cpu")
    options = LoadOptions(precision="fp32" if runtime == "openvino" else None)
    session = registry.get(runtime).load(artifact, tmp_path, device, options)
    found = session.run({"x": x})["y"]
    session.close()
    expected = inner(x)
    error = np.sqrt(np.square(found - expected).mean() / np.square(expected).mean())
    assert error < (0.01 if cut or cuts_off(hardware.describe()) else 1e-5)


def layer(kind: str, shape: tuple[int, ...], weight: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """A layer in 8 bits as the exporter writes it, and what it computes exactly."""
    steps = np.full(CHANNELS, 0.01, np.float32)
    given = {
        "step": np.float32(1 / 255),
        "zero": np.uint8(0),
        "weight": weight,
        "steps": steps,
    }
    more = {"pads": [1, 1, 1, 1]} if kind == "Conv" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["narrow"]),
        helper.make_node("DequantizeLinear", ["narrow", "step", "zero"], ["wide"]),
        helper.make_node(
            "DequantizeLinear", ["weight", "steps"], ["wider"], axis=0 if kind == "Conv" else 1
        ),
        helper.make_node(kind, ["wide", "wider"], ["y"], **more),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in given.items()]
    graph = helper.make_graph(nodes, kind, ports[:1], ports[1:], tensors)
    opset = [helper.make_opsetid("", 21)]

    def exact(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        wide = weight.astype(np.float64) * 0.01
        if kind == "MatMul":
            return x @ wide
        height, width = shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        found = np.zeros((1, CHANNELS, height, width))
        for row in range(3):
            for column in range(3):
                part = padded[:, :, row : row + height, column : column + width]
                found += np.einsum("oi,bihw->bohw", wide[:, :, row, column], part)
        return found

    return helper.make_model(graph, opset_imports=opset, ir_version=10), exact


def test_which_processors_cut_sums_off() -> None:
    def machine(arch: str, *flags: str) -> Hardware:
        return Hardware(None, None, 1, 1, "", flags, "Linux", arch)

    assert cuts_off(machine("x86_64", "avx2", "avx512f"))
    assert cuts_off(machine("x86_64"))
    for flag in ("avx_vnni", "avx512_vnni", "amx_int8"):
        assert not cuts_off(machine("x86_64", "avx2", flag))
    assert not cuts_off(machine("arm64", "neon"))


def test_weights_of_seven_bits_stay(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from sdlite_runtimes.ovsaturation import MOST, with_seven_bits

    weight = np.arange(-64, 64, dtype=np.int8).repeat(CHANNELS * CHANNELS // 128)
    model, _ = layer("MatMul", (1, 40, CHANNELS), weight.reshape(CHANNELS, CHANNELS))
    read = openvino.Core().read_model(model.SerializeToString())
    assert with_seven_bits(read) == 0
    wide = np.full((CHANNELS, CHANNELS), MOST + 1, np.int8)
    model, _ = layer("MatMul", (1, 40, CHANNELS), wide)
    read = openvino.Core().read_model(model.SerializeToString())
    assert with_seven_bits(read) == 1
    assert with_seven_bits(read) == 0
