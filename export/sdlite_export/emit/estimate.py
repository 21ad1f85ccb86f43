"""How much memory a graph takes while it runs, from the shapes it was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from sdlite_export.emit.graph import Graph, Node
from sdlite_export.ops import Value

ITEM_BYTES = {"float32": 4, "int64": 8}
VIEWS = frozenset({"Reshape", "Unsqueeze"})
IN_PLACE = frozenset({"Add", "Mul", "Sigmoid"})
"""Operations an engine lets write over a first input nobody needs any more."""


def activation_bytes(graph: Graph, nodes: Sequence[Node], sizes: Mapping[str, int]) -> int:
    """Estimate of bytes alive at once while ``nodes`` run in order.

    ``sizes`` gives every free dimension a value. Weights widened in the graph count from the
    start, because engines widen them before anything else; weights on disk count nothing. Inputs
    and outputs of the run count, scratch memory inside operations does not.
    """
    takes, gives = graph.boundary(nodes)
    buffer: dict[str, str] = {value.name: value.name for value in takes}
    for node in nodes:
        shared = node.op in VIEWS and node.inputs[0] in buffer
        buffer[node.outputs[0]] = buffer[node.inputs[0]] if shared else node.outputs[0]
    last: dict[str, int] = {buffer[value.name]: len(nodes) for value in gives}
    for index, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs):
            if name in buffer:
                last[buffer[name]] = max(last.get(buffer[name], 0), index)
    widened = {
        node.outputs[0] for node in nodes if node.op == "Cast" and node.inputs[0] in graph.weights
    }
    alive = {value.name: _bytes(value, sizes) for value in takes}
    alive |= {name: _bytes(graph.values[name], sizes) for name in widened}
    peak = sum(alive.values())
    for index, node in enumerate(nodes):
        output = node.outputs[0]
        if buffer[output] == output:
            size = _bytes(graph.values[output], sizes)
            first = buffer.get(node.inputs[0], "")
            if node.op in IN_PLACE and last.get(first) == index and alive.get(first) == size:
                del alive[first]
            alive[output] = size
            peak = max(peak, sum(alive.values()))
        for name in [name for name in alive if last.get(name, -1) <= index]:
            if name not in widened or last.get(name, -1) == index:
                del alive[name]
    return peak


def _bytes(value: Value, sizes: Mapping[str, int]) -> int:
    return prod(_extent(dim, sizes) for dim in value.shape) * ITEM_BYTES[value.dtype]


def _extent(dim: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    return prod(int(part) if part.isdigit() else sizes[part] for part in dim.split("*"))
