"""What every adapter does alike: name the place of a failure, and check and cast what goes in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdlite import compilecache
from sdlite.engine import Artifact, LoadOptions, TensorSpec
from sdlite.errors import EngineError, OutOfMemory
from sdlite.irfile import SUFFIX as IR
from sdlite.irfile import read_ir
from sdlite.onnxfile import GraphFile, read_onnx
from sdlite.types import Array

_MEMORY = re.compile(
    r"bad.?alloc|out of memory|((failed|unable) to|cannot) allocate|allocation failed"
    r"|not enough memory",
    re.I,
)


@dataclass(frozen=True)
class Place:
    """What an error message names."""

    runtime: str
    """Engine name."""
    device: str
    """Device name."""
    component: str
    """Model component."""
    graph: str
    """Graph file."""

    def error(self, cause: Exception | str, words: str | None = None) -> EngineError:
        """The error of this place: the first line of the engine's words, or of ``words``."""
        told = (words if words is not None else str(cause)).strip() or type(cause).__name__
        memory = isinstance(cause, MemoryError) or _MEMORY.search(told)
        kind = OutOfMemory if memory else EngineError
        first = told.splitlines()[0].strip()
        return kind(self.runtime, self.device, self.component, self.graph, first)


def feed_of(
    specs: Sequence[TensorSpec], inputs: Mapping[str, Array], place: Place
) -> dict[str, Array]:
    """Inputs by name, contiguous and of the graph's dtypes.

    Raises ``EngineError`` naming what is missing or unknown.
    """
    known = [spec.name for spec in specs]
    missing = [name for name in known if name not in inputs]
    if missing or len(inputs) != len(known):
        wrong = [f"{name} is missing" for name in missing]
        wrong += [f"{name} is unknown" for name in inputs if name not in known]
        raise place.error(f"wrong inputs: {', '.join(wrong)}; it takes {', '.join(known)}")
    return {spec.name: _as(inputs[spec.name], spec.dtype) for spec in specs}


def _as(value: Array, dtype: str) -> Array:
    # ascontiguousarray makes a scalar one-dimensional, hence the reshape.
    return np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))


def read_safely(path: Path, weights: str | None = None) -> GraphFile:
    """What a graph file says, once everything it refers to lies in its own folder.

    ``weights`` names the file of an IR's weights beside it, where that is not called like it.
    Raises ``ValueError`` when the file is no ONNX file and no IR, or refers to a file outside,
    ``OSError`` when it cannot be read. A graph that is a link (as in a download cache) may have its
    data beside the file it leads to.
    """
    found = read_ir(path, weights) if path.suffix == IR else read_onnx(path)
    folders = (path.parent.resolve(), path.resolve().parent)
    for location in sorted(found.locations):
        data = (path.parent / location).resolve()
        if not any(data.is_relative_to(folder) for folder in folders):
            raise ValueError(f"it refers to data outside its folder: {location!r}; refused")
        if not data.is_file():
            raise ValueError(f"its data file {location!r} is missing")
    return found


def compile_key(
    path: Path,
    file: GraphFile,
    artifact: Artifact,
    device: str,
    engine: str,
    settings: Mapping[str, object],
    options: LoadOptions,
) -> dict[str, str]:
    """Everything a compiled graph depends on. Weight files are told apart by place, size, time."""
    replaced = options.weights.keys() & file.initializers.keys()
    return {
        "component": artifact.component,
        "graph": f"{compilecache.file_facts(path)} {artifact.graph_sha256}",
        "weights": "; ".join(
            compilecache.file_facts(path.parent / name) for name in sorted(file.locations)
        ),
        "replaced": compilecache.tensors_hash(options.weights, replaced),
        "shape": json.dumps(dict(sorted(options.dimensions.items()))),
        "options": json.dumps({name: str(settings[name]) for name in sorted(settings)}),
        "precision": options.precision or "",
        "device": device,
        "engine": engine,
    }
