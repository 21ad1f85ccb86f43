"""A graph under construction: nodes in order, the weights they ask for, and where to cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sdlite.types import Array
from sdlite_export.ops import Dtype, Shape, Value


@dataclass(frozen=True)
class WeightNeed:
    """A weight some operation asked for."""

    shape: tuple[int, ...]
    """Shape in the state dict."""
    layout: Literal["source", "transposed"] = "source"
    """How the graph wants it stored."""
    kind: Literal["plain", "int8", "given"] = "plain"
    """``int8``: stored in 8 bits; ``given``: float32 that no checkpoint has, such as its steps."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape in the weight file."""
        return self.shape[::-1] if self.layout == "transposed" else self.shape


def stored_dtype(shape: Sequence[int], precision: str) -> str:
    """Element type a weight is stored in: vectors stay float32, they cost nothing."""
    return "float16" if precision == "fp16" and len(shape) > 1 else "float32"


@dataclass(frozen=True)
class LayerUse:
    """A convolution or linear layer of a graph."""

    name: str
    """Prefix of its weights' names."""
    input: str
    """The value it takes."""
    output: str
    """The value it gives, bias included."""
    shape: tuple[int, ...]
    """Shape of its weight in the state dict."""
    bias: bool
    """Whether it has one."""
    stride: int = 1
    """Of a convolution."""
    pads: tuple[int, ...] = ()
    """Of a convolution: top, left, bottom, right."""


@dataclass(frozen=True)
class Fold:
    """A tensor whose output channels are the channels of a value, one for one."""

    tensor: str
    """Name."""
    start: int
    """First of its output channels that is meant."""


@dataclass(frozen=True)
class Node:
    """One operation."""

    op: str
    """Operation type."""
    inputs: tuple[str, ...]
    """Names; empty for an input left out."""
    outputs: tuple[str, ...]
    """Names; empty for an output not wanted."""
    segment: int
    """Number of cuts allowed before it."""
    domain: str = ""
    """Operator domain."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attributes."""


class Graph:
    """Collects nodes, values, weights and constants; names are unique."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.weights: dict[str, WeightNeed] = {}
        self.constants: dict[str, Array] = {}
        self.segment = 0
        self.computed: Dtype = "float32"
        """Element type of what is computed, where nothing else is said."""
        self.layers: dict[str, LayerUse] = {}
        """Convolutions and linear layers by name."""
        self.folds: dict[str, tuple[Fold, ...]] = {}
        """By value: tensors through which its channels can be scaled."""
        self._uses: dict[str, int] = {}

    def unique(self, stem: str) -> str:
        """A name that starts with ``stem`` and was not given out before."""
        count = self._uses.get(stem, 0)
        self._uses[stem] = count + 1
        return f"{stem}_{count}" if count else stem

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        name: str,
        shape: Shape,
        dtype: Dtype | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Append an operation with one output and return its value, of ``computed`` by default."""
        value = Value(self.unique(name), shape, dtype or self.computed)
        self.values[value.name] = value
        self.nodes.append(Node(op, tuple(inputs), (value.name,), self.segment, domain, attributes))
        return value

    def find(self, name: str) -> Value:
        """A value of the graph, or one of its inputs; raises ``KeyError``."""
        return self.values.get(name) or {value.name: value for value in self.inputs}[name]

    def rename(self, old: str, new: str) -> None:
        """Give a value another name wherever it occurs."""
        value = self.values.pop(old)
        self.values[new] = Value(new, value.shape, value.dtype)
        swap = {old: new}
        self.nodes = [
            Node(
                node.op,
                tuple(swap.get(name, name) for name in node.inputs),
                tuple(swap.get(name, name) for name in node.outputs),
                node.segment,
                node.domain,
                node.attributes,
            )
            for node in self.nodes
        ]
        for name, use in self.layers.items():
            if use.output == old:
                self.layers[name] = replace(use, output=new)

    def segments(self) -> list[list[Node]]:
        """Nodes between cuts, without empty runs."""
        runs: list[list[Node]] = [[] for _ in range(self.segment + 1)]
        for node in self.nodes:
            runs[node.segment].append(node)
        return [run for run in runs if run]

    def boundary(self, nodes: Sequence[Node]) -> tuple[list[Value], list[Value]]:
        """What a run of nodes takes from and leaves to the rest of the graph."""
        inside = {name for node in nodes for name in node.outputs}
        mine = {id(node) for node in nodes}
        taken = {name for node in nodes for name in node.inputs} - inside
        wanted = {name for node in self.nodes if id(node) not in mine for name in node.inputs}
        wanted |= {value.name for value in self.outputs}
        inputs = {value.name: value for value in self.inputs}
        takes = [value for name, value in (inputs | self.values).items() if name in taken]
        gives = [self.values[name] for node in nodes for name in node.outputs if name in wanted]
        return takes, gives

    def live_before(self, nodes: Sequence[Node]) -> list[Value]:
        """What exists before a run of nodes and is still needed, by the run or after it.

        The run is one of ``segments`` or several neighbours joined.
        """
        first, last = nodes[0].segment, nodes[-1].segment
        made = {name for node in self.nodes if node.segment < first for name in node.outputs}
        made |= {value.name for value in self.inputs}
        inside = {id(node) for node in nodes}
        needed = {
            name
            for node in self.nodes
            if node.segment > last or id(node) in inside
            for name in node.inputs
        }
        values = {value.name: value for value in self.inputs} | self.values
        return [value for name, value in values.items() if name in made and name in needed]
