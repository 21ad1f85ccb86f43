"""A package's graphs as OpenVINO writes them (IR), over the weight files the package has already.

OpenVINO saves an IR with a weight file of its own. Here its constants are looked up in the
package's file, compared byte for byte, and the IR is told where they lie there; the few that no
checkpoint has (shapes, tables) are put behind the weights.
"""

from __future__ import annotations

import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sdlite import registry
from sdlite.engine import Artifact, FileEntry
from sdlite.manifest import Manifest, TensorEntry, WeightFile
from sdlite.package import hash_file

VARIANTS = ("plain", "embeddings")
"""Variants that are written; others OpenVINO reads as ONNX graphs."""
ALIGNMENT = 64
"""Of constants behind the weights."""
PIECE = 1 << 24


def check_openvino() -> None:
    """Raise ``RuntimeUnavailable`` where OpenVINO cannot be used."""
    registry.probe("openvino")


def write_irs(folder: Path, manifest: Manifest) -> Manifest:
    """Write an IR beside each graph in standard operations.

    Args:
        folder: the package, complete but for them; its weight files grow by some kilobytes.
        manifest: what it says so far.

    Returns:
        The manifest with them.
    """
    check_openvino()
    from openvino import Core

    core = Core()
    artifacts, weights = list(manifest.artifacts), dict(manifest.weights)
    for component, stored in manifest.weights.items():
        path = folder / stored.file.path
        constants = _Constants(path, stored)
        for artifact in manifest.artifacts:
            if artifact.component == component and artifact.variant in VARIANTS:
                artifacts.append(_write(core, folder, artifact, constants))
        constants.append()
        size = path.stat().st_size
        weights[component] = replace(
            stored, file=FileEntry(stored.file.path, size, hash_file(path))
        )
    return replace(manifest, artifacts=tuple(artifacts), weights=weights)


def _write(core: Any, folder: Path, artifact: Artifact, constants: _Constants) -> Artifact:
    from openvino import save_model

    source = folder / artifact.graph
    target = source.with_suffix(".xml")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        saved = Path(scratch) / "graph.xml"
        save_model(core.read_model(str(source)), str(saved), compress_to_fp16=False)
        tree = ET.parse(saved)
        data = np.memmap(saved.with_suffix(".bin"), np.uint8, "r")
        for name, place in _places(tree):
            offset, size = int(place.attrib["offset"]), int(place.attrib["size"])
            place.set("offset", str(constants.place(name, data[offset : offset + size])))
        del data
    tree.write(target, encoding="utf-8", xml_declaration=True)
    return replace(
        artifact,
        format="openvino",
        graph=target.relative_to(folder).as_posix(),
        graph_size=target.stat().st_size,
        graph_sha256=hash_file(target),
        opset=0,
        domains=(),
    )


def _places(tree: ET.ElementTree[ET.Element]) -> Iterator[tuple[str, ET.Element]]:
    for layer in tree.iterfind("layers/layer"):
        place = layer.find("data")
        if layer.get("type") == "Const" and place is not None:
            yield layer.get("name", ""), place


class _Constants:
    """Where constants lie in a weight file, or will lie behind what it holds."""

    def __init__(self, path: Path, weights: WeightFile) -> None:
        self._path = path
        self._file = np.memmap(path, np.uint8, "r")
        self._entries: Mapping[str, TensorEntry] = weights.tensors
        self._behind: dict[bytes, int] = {}
        self._end = -(-len(self._file) // ALIGNMENT) * ALIGNMENT

    def place(self, name: str, data: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
        """Offset of a constant's bytes."""
        entry = self._entries.get(name)
        if entry is not None and entry.size == len(data):
            stored = self._file[entry.offset : entry.offset + entry.size]
            pieces = range(0, len(data), PIECE)
            if all(np.array_equal(data[i : i + PIECE], stored[i : i + PIECE]) for i in pieces):
                return entry.offset
        key = data.tobytes()
        if key not in self._behind:
            self._behind[key] = self._end
            self._end += -(-len(key) // ALIGNMENT) * ALIGNMENT
        return self._behind[key]

    def append(self) -> None:
        """Write what lies behind the weights."""
        del self._file
        with self._path.open("r+b") as stream:
            for data, offset in self._behind.items():
                stream.seek(offset)
                stream.write(data)
