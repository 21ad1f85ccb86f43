"""What every operation needs while a graph is recorded: weights, constants, shapes."""

from __future__ import annotations

from typing import Literal

import numpy as np

from sdlite.types import Array
from sdlite_export.emit.graph import Graph, WeightNeed, stored_dtype
from sdlite_export.emit.targets import Target
from sdlite_export.ops import Value

FLOAT = 1


class Recorder:
    """A graph being recorded for one target and weight precision.

    Widened weights and shapes are kept by segment, so that none of them crosses a cut.
    """

    def __init__(self, target: Target, precision: str) -> None:
        self.target = target
        self.precision = precision
        self.graph = Graph()
        self.memo: dict[tuple[int, str], str] = {}

    def weight(
        self,
        key: str,
        shape: tuple[int, ...],
        layout: Literal["source", "transposed"] = "source",
    ) -> str:
        """A weight as float32."""
        self.ask(key, WeightNeed(shape, layout))
        if stored_dtype(shape, self.precision) == "float32":
            return key
        memo = (self.graph.segment, key)
        if memo not in self.memo:
            self.memo[memo] = self.graph.node("Cast", [key], f"{key}/float32", shape, to=FLOAT).name
        return self.memo[memo]

    def ask(self, key: str, need: WeightNeed) -> None:
        """Note that the graph needs a weight; it has one shape and layout."""
        known = self.graph.weights.setdefault(key, need)
        if known != need:
            raise ValueError(f"weight {key} is used as {known} and as {need}")

    def constant(self, name: str, value: Array) -> str:
        """A constant held in the graph itself."""
        self.graph.constants.setdefault(f"const/{name}", np.asarray(value))
        return f"const/{name}"

    def int64(self, numbers: list[int]) -> str:
        """A constant list of integers."""
        text = ",".join(map(str, numbers))
        return self.constant(f"[{text}]", np.array(numbers, np.int64))

    def shape_of(self, x: Value, start: int, end: int) -> str:
        """Some sizes of a value, as a tensor."""
        key = (self.graph.segment, f"shape of {x.name} {start}:{end}")
        if key not in self.memo:
            self.memo[key] = self.graph.node(
                "Shape", [x.name], f"{x.name}/shape", (end - start,), "int64", start=start, end=end
            ).name
        return self.memo[key]
