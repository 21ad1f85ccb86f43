"""Read from an ONNX file, without ``onnx`` or an engine, what opening it safely needs.

Names of inputs and outputs, opsets, and the files its tensors lie in. The protobuf wire format is
walked directly; weights stored in the file are skipped, not read. Field numbers are those of
onnx.proto (ModelProto.graph = 7, GraphProto.initializer = 5, ...).
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path

from sdlite.engine import TensorSpec
from sdlite.wire import BYTES, VARINT, Malformed, fields, messages, scalars, text, varint

UPSCALER = "sdlite.upscaler"
"""Key of the note in upscalers' files: JSON, read by ``sdlite.upscalers.files``."""
_MAX_DEPTH = 32
_MANY = 1 << 63
"""Counts of elements end here; a product of numbers from a file may not grow without end."""

# Fields that lead from a message of one kind to another: (kind, field) -> kind.
_MESSAGES = {
    ("model", 7): "main",
    ("model", 8): "opset",
    ("model", 14): "note",
    ("model", 25): "function",
    ("main", 1): "node",
    ("main", 5): "initializer",
    ("main", 11): "input",
    ("main", 12): "output",
    ("main", 15): "sparse",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 15): "sparse",
    ("function", 7): "node",
    ("function", 11): "attribute",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 6): "graph",
    ("attribute", 10): "tensor",
    ("attribute", 11): "graph",
    ("attribute", 22): "sparse",
    ("attribute", 23): "sparse",
    ("sparse", 1): "tensor",
    ("sparse", 2): "tensor",
}
_DTYPES = {
    1: "float32",
    2: "uint8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_STORED = {1: "fp32", 16: "fp16", 10: "fp16", 2: "w8", 3: "w8", 21: "w4", 22: "w4"}
"""Precision of weights by ONNX dtype number; others are no weights, or not the most."""


@dataclass
class GraphFile:
    """What a graph's file says about itself: an ONNX file, or an IR (``sdlite.irfile``)."""

    inputs: list[TensorSpec] = field(default_factory=list)
    """Inputs that must be given."""
    outputs: list[TensorSpec] = field(default_factory=list)
    """Outputs."""
    opsets: dict[str, int] = field(default_factory=dict)
    """ONNX opset by domain; the default domain is ``""``. Empty for other formats."""
    initializers: dict[str, str | None] = field(default_factory=dict)
    """Weights of the main graph by name: the file they lie in, None for this one."""
    elements: dict[int, int] = field(default_factory=dict)
    """Elements of the main graph's weights by ONNX dtype number."""
    locations: set[str] = field(default_factory=set)
    """Every other file that any tensor, also in subgraphs and attributes, refers to."""
    notes: dict[str, str] = field(default_factory=dict)
    """What programs noted about the model (``metadata_props``), by key."""

    @property
    def precision(self) -> str:
        """How most weights are stored: ``fp32``, ``fp16``, ``w8`` or ``w4``."""
        counts = dict.fromkeys(("fp32", "fp16", "w8", "w4"), 0)
        for dtype, count in self.elements.items():
            if dtype in _STORED:
                counts[_STORED[dtype]] += count
        return max(counts, key=lambda name: counts[name])


def read_onnx(path: Path) -> GraphFile:
    """Read a file; raises ``ValueError`` when it is no ONNX file, ``OSError`` when unreadable."""
    found = GraphFile()
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            raise ValueError("the file is empty")
        with (
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            try:
                _walk(found, data, 0, size, "model", 0)
            except Malformed as error:
                raise ValueError(f"it is no ONNX file: {error}") from error
    if not found.outputs:
        raise ValueError("it is no ONNX file: it has no graph with outputs")
    found.inputs = [spec for spec in found.inputs if spec.name not in found.initializers]
    return found


def _walk(found: GraphFile, data: memoryview, start: int, end: int, kind: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("its graphs are nested too deeply")
    for number, wire, first, last in fields(data, start, end):
        inner = _MESSAGES.get((kind, number))
        if inner is None or wire != BYTES:
            continue
        if inner in ("tensor", "initializer"):
            name, location, dtype, count = _tensor(data, first, last)
            if location is not None:
                found.locations.add(location)
            if inner == "initializer":
                found.initializers[name] = location
                found.elements[dtype] = found.elements.get(dtype, 0) + count
        elif inner == "input":
            found.inputs.append(_value(data, first, last))
        elif inner == "output":
            found.outputs.append(_value(data, first, last))
        elif inner == "opset":
            texts, numbers = scalars(data, first, last)
            found.opsets[texts.get(1, "")] = numbers.get(2, 0)
        elif inner == "note":
            texts, _ = scalars(data, first, last)
            found.notes[texts.get(1, "")] = texts.get(2, "")
        else:
            _walk(found, data, first, last, inner, depth + 1)


def _tensor(data: memoryview, start: int, end: int) -> tuple[str, str | None, int, int]:
    """A TensorProto: name, file its data lies in, ONNX dtype number, elements."""
    name, external, location, dtype, count = "", False, "", 0, 1
    for number, wire, first, last in fields(data, start, end):
        if number == 1 and wire == VARINT:
            count = min(count * first, _MANY)
        elif number == 1 and wire == BYTES:
            while first < last:
                extent, first = varint(data, first, last)
                count = min(count * extent, _MANY)
        elif number == 2 and wire == VARINT:
            dtype = first
        elif number == 8 and wire == BYTES:
            name = text(data, first, last)
        elif number == 14 and wire == VARINT:
            external = external or first == 1
        elif number == 13 and wire == BYTES:
            pair, _ = scalars(data, first, last)
            if pair.get(1) == "location":
                external, location = True, pair.get(2, "")
    return name, location if external else None, dtype, count


def _value(data: memoryview, start: int, end: int) -> TensorSpec:
    """A ValueInfoProto: name, and type -> tensor_type -> elem_type and shape -> dim."""
    name, dtype, shape = "", "", []
    for number, wire, first, last in fields(data, start, end):
        if number == 1 and wire == BYTES:
            name = text(data, first, last)
        elif number == 2 and wire == BYTES:
            for a, b in messages(data, first, last, 1):
                dtype = _DTYPES.get(scalars(data, a, b)[1].get(1, 0), "unknown")
                for c, d in messages(data, a, b, 2):
                    shape = [_extent(data, e, f) for e, f in messages(data, c, d, 1)]
    return TensorSpec(name, dtype, tuple(shape))


def _extent(data: memoryview, start: int, end: int) -> int | str:
    texts, numbers = scalars(data, start, end)
    return numbers[1] if 1 in numbers else texts.get(2, "?")
