"""Read from an OpenVINO IR, without OpenVINO, what opening it safely needs.

An IR is an XML file of layers and a file of weights beside it, called like it and ending in
``.bin``. Names of inputs and outputs are those of the tensors; an IR does not name the dimensions
that are free, so each of them is ``?`` here. Elements and attributes are those of versions 10 and
11 of the IR.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from sdlite.engine import TensorSpec
from sdlite.onnxfile import GraphFile

SUFFIX = ".xml"
WEIGHTS = ".bin"
MAX_BYTES = 256 << 20
"""Of the XML; Stable Diffusion's largest is some megabytes."""
_TYPES = {
    "f32": (1, "float32"),
    "u8": (2, "uint8"),
    "i8": (3, "int8"),
    "i32": (6, "int32"),
    "i64": (7, "int64"),
    "boolean": (9, "bool"),
    "f16": (10, "float16"),
    "f64": (11, "float64"),
    "bf16": (16, "bfloat16"),
    "u4": (21, "uint4"),
    "i4": (22, "int4"),
}
"""OpenVINO's element types: ONNX's dtype number, and our name."""
_PRECISIONS = {"FP32": "f32", "FP16": "f16", "BF16": "bf16", "FP64": "f64", "BOOL": "boolean"}
"""Types as ports call them, where that is not the element type in capitals."""


def read_ir(path: Path, weights: str | None = None) -> GraphFile:
    """Read an IR's XML; its weights lie beside it, in ``weights`` if that is given.

    Raises ``ValueError`` when it is none, ``OSError`` when it is unreadable.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    data = path.read_bytes()
    # Entities are the only way a small XML file grows large, and an IR declares none.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError("it declares entities, which an IR does not have")
    try:
        net = ET.fromstring(data)
        found = _read(net, weights or path.with_suffix(WEIGHTS).name)
    except (ET.ParseError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no OpenVINO IR: {error}") from error
    if net.tag != "net" or not found.outputs:
        raise ValueError("it is no OpenVINO IR: it has no network with outputs")
    return found


def _read(net: ET.Element, weights: str) -> GraphFile:
    found = GraphFile()
    layers = {layer.attrib["id"]: layer for layer in net.iterfind("layers/layer")}
    sources = {
        edge.attrib["to-layer"]: (edge.attrib["from-layer"], edge.attrib["from-port"])
        for edge in net.iterfind("edges/edge")
        if layers[edge.attrib["to-layer"]].attrib["type"] == "Result"
    }
    for number, layer in layers.items():
        kind = layer.attrib["type"]
        if kind == "Parameter":
            (port,) = layer.iterfind("output/port")
            found.inputs.append(_port(layer, port))
        elif kind == "Result":
            source, wanted = sources[number]
            port = next(p for p in layers[source].iterfind("output/port") if p.get("id") == wanted)
            found.outputs.append(_port(layers[source], port))
        elif kind == "Const":
            constant = layer.find("data")
            if constant is None:
                raise ValueError(f"the constant {layer.get('name')!r} has no data")
            dtype, _ = _TYPES.get(constant.attrib["element_type"], (0, ""))
            count = 1
            for size in filter(None, constant.get("shape", "").replace(" ", "").split(",")):
                count *= int(size)
            found.elements[dtype] = found.elements.get(dtype, 0) + count
            found.initializers[layer.attrib["name"]] = weights
            found.locations.add(weights)
    return found


def _port(layer: ET.Element, port: ET.Element) -> TensorSpec:
    """An output port; without a name of its own the tensor is called like its layer."""
    name = port.get("names", "").split(",")[0] or layer.attrib["name"]
    told = port.get("precision", "")
    dtype = _TYPES.get(_PRECISIONS.get(told, told.lower()), (0, "unknown"))[1]
    sizes = (int(dim.text or "") for dim in port.iterfind("dim"))
    return TensorSpec(name, dtype, tuple("?" if size < 0 else size for size in sizes))
