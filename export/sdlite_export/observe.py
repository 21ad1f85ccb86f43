"""Run a component piece by piece and look at what its layers take in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from sdlite.engine import Artifact, LoadOptions, Runtime, Session, TensorSpec
from sdlite.memory import release_free_memory
from sdlite.types import Array, Device
from sdlite_export.emit.components import WEIGHTS, Plan
from sdlite_export.emit.graph import Graph, Node
from sdlite_export.emit.proto import model_proto, specs
from sdlite_export.emit.targets import target_of

VARIANT = "segment"
KEEP_OPEN_BYTES = 256 << 20
"""Weights up to which all pieces stay open; larger ones are mapped anew in every call."""
HEAVY_BYTES = 128 << 20
"""Values between two pieces from which on freed memory goes back to the system at once."""

Watch = Callable[[str, str, Array], object]
"""Called with a component, the name of a value, and the value for one item."""
Take = Callable[[str, Mapping[str, Array]], object]
"""Called with a component and all it is given, for one item."""


def memory_mode(runtime: Runtime) -> str:
    """How an engine opens graphs of which one follows the other: from the file, where it can."""
    return "normal" if runtime.name == "openvino" else "mapped"


@dataclass(frozen=True)
class Piece:
    """A few nodes of a component as a graph of their own."""

    artifact: Artifact
    """Its file."""
    watched: frozenset[str]
    """Values to look at, among what it takes and gives."""
    last: frozenset[str]
    """Values no later piece needs."""


@dataclass(frozen=True)
class Pieces:
    """A component cut for looking at."""

    pieces: tuple[Piece, ...]
    """In order."""
    inputs: tuple[TensorSpec, ...]
    """What the whole takes."""
    outputs: tuple[TensorSpec, ...]
    """What the whole gives."""


def write_pieces(plan: Plan, folder: Path) -> Pieces:
    """Cut the chain of a component as finely as it can be, and let inputs of layers out.

    The files lie beside the weights of the component, in ``folder/<component>``.
    """
    name = plan.component.name
    graph = plan.graphs[VARIANT]
    target = target_of(name, VARIANT)
    wanted = {use.input for use in graph.layers.values()}
    runs = graph.segments()
    pieces = []
    for index, nodes in enumerate(runs):
        watched = _watched(graph, nodes, wanted)
        wanted -= set(watched)  # once a call is enough
        model, takes, gives = model_proto(
            graph, nodes, target, plan.entries, WEIGHTS, f"{name} piece {index}", watched
        )
        data = model.SerializeToString(deterministic=True)
        relative = f"{name}/piece-{index:02d}.onnx"
        (folder / relative).write_bytes(data)
        seen = {value.name for value in (*takes, *gives)}
        later = {item for rest in runs[index + 1 :] for node in rest for item in node.inputs}
        later |= {value.name for value in graph.outputs}
        pieces.append(
            Piece(
                Artifact(
                    name,
                    "onnx",
                    VARIANT,
                    plan.precision,
                    relative,
                    len(data),
                    hashlib.sha256(data).hexdigest(),
                    specs(takes),
                    specs(gives),
                    f"{name}/{WEIGHTS}",
                    index,
                    target.opset,
                ),
                frozenset(watched) & seen,
                frozenset(seen - later),
            )
        )
    return Pieces(tuple(pieces), specs(graph.inputs), specs(graph.outputs))


def _watched(graph: Graph, nodes: Sequence[Node], wanted: set[str]) -> list[str]:
    """Inputs of the layers among ``nodes``, in order."""
    taken = dict.fromkeys(name for node in nodes for name in node.inputs)
    made = {name for node in nodes for name in node.outputs}
    layers = {use.input for use in graph.layers.values() if use.output in made}
    return [name for name in taken if name in wanted and name in layers]


class ObservedSession:
    """A component that runs piece by piece and shows what layers take in, item by item."""

    def __init__(
        self,
        component: str,
        pieces: Pieces,
        open_piece: Callable[[Artifact], Session],
        watch: Watch,
        take: Take,
        keep_open: bool,
    ) -> None:
        self._component = component
        self._pieces = pieces
        self._open_piece = open_piece
        self._watch = watch
        self._take = take
        self._keep = keep_open
        self._opened: dict[int, Session] = {}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the whole takes."""
        return self._pieces.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the whole gives."""
        return self._pieces.outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run all items through one piece after the other, and look at each by itself."""
        values = dict(inputs)
        count = max(len(value) for value in inputs.values())
        for item in range(count):
            self._take(self._component, _items(values, item))
        for index, piece in enumerate(self._pieces.pieces):
            session = self._session(index, piece.artifact)
            values.update(session.run({s.name: values[s.name] for s in session.inputs}))
            for name in sorted(piece.watched):
                for item in range(len(values[name])):
                    self._watch(self._component, name, values[name][item : item + 1])
            for name in piece.last:
                del values[name]
            if not self._keep:
                session.close()
            if sum(value.nbytes for value in values.values()) > HEAVY_BYTES:
                release_free_memory()
        # Tensors of many sizes came and went: the C library keeps a good deal of what they left.
        release_free_memory()
        return {spec.name: values[spec.name] for spec in self.outputs}

    def _session(self, index: int, artifact: Artifact) -> Session:
        if not self._keep:
            return self._open_piece(artifact)
        if index not in self._opened:
            self._opened[index] = self._open_piece(artifact)
        return self._opened[index]

    def close(self) -> None:
        """Close what is open."""
        for session in self._opened.values():
            session.close()
        self._opened.clear()


class ObservingRuntime:
    """An engine whose components, as far as they were cut, are looked at while they run."""

    name: ClassVar[str] = "onnxruntime"
    formats: ClassVar[frozenset[str]] = frozenset({"onnx"})

    def __init__(
        self, runtime: Runtime, cut: Mapping[str, Pieces], watch: Watch, take: Take
    ) -> None:
        self._runtime = runtime
        self._cut = cut
        self._watch = watch
        self._take = take

    def version(self) -> str:
        """Version of the engine."""
        return self._runtime.version()

    def probe(self) -> Sequence[Device]:
        """Devices of the engine."""
        return self._runtime.probe()

    def load(self, artifact: Artifact, root: Path, device: Device, options: LoadOptions) -> Session:
        """Open a component to be looked at, or one that was not cut as ever."""
        pieces = self._cut.get(artifact.component)
        size = 0 if artifact.weights is None else (root / artifact.weights).stat().st_size
        if pieces is None:
            # What is large stays in its file: a U-Net that a ControlNet is measured with.
            mode = options.memory_mode if size <= KEEP_OPEN_BYTES else memory_mode(self._runtime)
            options = replace(options, memory_mode=mode)
            return self._runtime.load(artifact, root, device, options)
        mapped = replace(options, memory_mode=memory_mode(self._runtime), dimensions={})

        def open_piece(part: Artifact) -> Session:
            return self._runtime.load(part, root, device, mapped)

        keep = size <= KEEP_OPEN_BYTES
        return ObservedSession(
            artifact.component, pieces, open_piece, self._watch, self._take, keep
        )


def _items(values: Mapping[str, Array], item: int) -> dict[str, Array]:
    """What one item of a batch is given."""
    return {name: value[item : item + 1] for name, value in values.items()}
