"""How much memory a graph takes while it runs, from the shapes it was written with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from sdlite_export.emit.graph import Graph, Node
from sdlite_export.ops import Value

PIECES = 8
"""Pieces a model is cut into at least, where it has as many places for it."""
ITEM_BYTES = {"float32": 4, "float16": 2, "int64": 8, "uint8": 1}
WIDENING = frozenset({"Cast", "DequantizeLinear"})
VIEWS = frozenset({"Reshape", "Unsqueeze"})


def widened_bytes(
    graph: Graph, nodes: Sequence[Node], sizes: Mapping[str, int], together: bool = True
) -> int:
    """Bytes of the weights that ``nodes`` widen; engines do that before anything else.

    Not ``together`` is one after the other, as in graphs that see to it.
    """
    found = [value_bytes(graph.values[name], sizes) for name in _widened(graph, nodes)]
    return sum(found) if together else max(found, default=0)


def activation_bytes(
    graph: Graph, nodes: Sequence[Node], sizes: Mapping[str, int], waiting: bool = True
) -> int:
    """Estimate of bytes of values alive at once while ``nodes`` run in order.

    ``sizes`` gives every free dimension a value. With ``waiting``, everything earlier nodes of the
    graph made for later ones counts, also what ``nodes`` do not use; weights and scratch memory
    inside operations never do. Operations are taken to write into new memory: measured, ONNX
    Runtime lets next to none write over its input where sizes are free.
    """
    gives = graph.boundary(nodes)[1]
    held = graph.live_before(nodes) if waiting else graph.boundary(nodes)[0]
    buffer: dict[str, str] = {value.name: value.name for value in held}
    widened = _widened(graph, nodes)
    for node in nodes:
        shared = node.op in VIEWS and node.inputs[0] in buffer
        buffer[node.outputs[0]] = buffer[node.inputs[0]] if shared else node.outputs[0]
    last = {buffer[value.name]: len(nodes) for value in gives}
    # Whoever calls holds the inputs until the call is over.
    last |= {value.name: len(nodes) for value in held}
    for index, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs):
            if name in buffer:
                last[buffer[name]] = max(last.get(buffer[name], 0), index)
    alive = {value.name: value_bytes(value, sizes) for value in held}
    peak = sum(alive.values())
    for index, node in enumerate(nodes):
        output = node.outputs[0]
        if buffer[output] == output and output not in widened:
            alive[output] = value_bytes(graph.values[output], sizes)
            peak = max(peak, sum(alive.values()))
        for name in [name for name in alive if last[name] <= index]:
            del alive[name]
    # What leaves an engine is copied once more for the caller.
    copies = sum(value_bytes(value, sizes) for value in gives)
    return max(peak, sum(alive.values()) + copies)


def merge_segments(graph: Graph, sizes: Mapping[str, int], limit: int) -> list[list[Node]]:
    """Join neighbouring segments as long as what a joined one takes stays below ``limit`` bytes.

    What it takes is its activations and its weights as float32. A small model is cut into about
    ``PIECES`` all the same, so that its chain behaves like a large one's.
    """

    def cost(nodes: Sequence[Node]) -> int:
        names = {name for node in nodes for name in node.inputs if name in graph.weights}
        weights = sum(prod(graph.weights[name].shape) * 4 for name in names)
        return activation_bytes(graph, nodes, sizes) + weights

    limit = min(limit, cost(graph.nodes) // PIECES)
    merged: list[list[Node]] = []
    for run in graph.segments():
        joined = [*merged[-1], *run] if merged else run
        if merged and cost(joined) <= limit:
            merged[-1] = joined
        else:
            merged.append(run)
    return merged


def value_bytes(value: Value, sizes: Mapping[str, int]) -> int:
    """Bytes of one value."""
    return prod(_extent(dim, sizes) for dim in value.shape) * ITEM_BYTES[value.dtype]


def _widened(graph: Graph, nodes: Sequence[Node]) -> set[str]:
    return {
        node.outputs[0] for node in nodes if node.op in WIDENING and node.inputs[0] in graph.weights
    }


def _extent(dim: int | str, sizes: Mapping[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    return sum(
        prod(int(part) if part.isdigit() else sizes[part] for part in term.split("*"))
        for term in dim.split("+")
    )
