"""Small graphs of known meaning, written with onnx.helper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from sdlite.engine import Artifact, TensorSpec

SIDE = 8
ONNX_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
ONNX_TYPES |= {"int64": TensorProto.INT64, "int32": TensorProto.INT32}


def weight(seed: int = 0, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)


def external(name: str, array: np.ndarray, location: str, offset: int = 0) -> onnx.TensorProto:
    """An initializer whose data lies in another file."""
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.dims.extend(array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": array.nbytes}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def save(
    root: Path,
    graph: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    component: str = "unet",
    variant: str = "plain",
    index: int = 0,
) -> Artifact:
    """Write a graph file and say what it is."""
    infos = [
        [helper.make_tensor_value_info(s.name, ONNX_TYPES[s.dtype], list(s.shape)) for s in specs]
        for specs in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(list(nodes), "graph", *infos, list(initializers)),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    path = root / graph
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return Artifact(
        component, "onnx", variant, "fp32", graph, path.stat().st_size, "",
        tuple(inputs), tuple(outputs), index=index,
    )  # fmt: skip


def linear(
    root: Path,
    dtype: str = "float32",
    location: str = "weights.bin",
    side: int = SIDE,
    layers: int = 1,
    write: bool = True,
) -> Artifact:
    """``y = x @ w0 @ w1 ...`` and ``total = sum(y, 1)``; weights stored as ``dtype`` elsewhere."""
    folder = root / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    nodes, tensors, last, offset = [], [], "x", 0
    data = bytearray()
    for layer in range(layers):
        stored = (weight(layer, side) / side**0.5).astype(dtype)
        tensors.append(external(f"w{layer}", stored, location, offset))
        offset += -(-stored.nbytes // 4096) * 4096
        data += stored.tobytes()
        data += bytes(offset - len(data))
        used = f"w{layer}"
        if dtype == "float16":
            nodes.append(helper.make_node("Cast", [used], [f"c{layer}"], to=TensorProto.FLOAT))
            used = f"c{layer}"
        out = "y" if layer == layers - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [last, used], [out]))
        last = out
    if write:
        (folder / location).write_bytes(data)
    nodes.append(helper.make_node("ReduceSum", ["y", "axes"], ["total"], keepdims=0))
    tensors.append(helper.make_tensor("axes", TensorProto.INT64, [1], [1]))
    return save(
        root,
        "unet/plain.onnx",
        nodes,
        [TensorSpec("x", "float32", ("batch", side))],
        [
            TensorSpec("y", "float32", ("batch", side)),
            TensorSpec("total", "float32", ("batch",)),
        ],
        tensors,
    )


def segments(root: Path) -> list[Artifact]:
    """``h = 2 x``, ``g = h + c``, ``y = g * h``, as three segments."""
    rows = ("batch", SIDE)

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name, "float32", rows)

    two = helper.make_tensor("two", TensorProto.FLOAT, [], [2.0])
    steps = [
        (helper.make_node("Mul", ["x", "two"], ["h"]), ["x"], ["h"], [two]),
        (helper.make_node("Add", ["h", "c"], ["g"]), ["h", "c"], ["g"], []),
        (helper.make_node("Mul", ["g", "h"], ["y"]), ["g", "h"], ["y"], []),
    ]
    return [
        save(
            root,
            f"unet/segment-{index:02}.onnx",
            [node],
            [spec(name) for name in takes],
            [spec(name) for name in gives],
            tensors,
            variant="segment",
            index=index,
        )
        for index, (node, takes, gives, tensors) in enumerate(steps)
    ]
