"""The graphs in folders of optimum, optimum-intel and diffusers: which they are, what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sdlite.engine import Artifact, FileEntry, TensorSpec
from sdlite.errors import PackageInvalid, PackageMissing
from sdlite.irfile import SUFFIX as IR
from sdlite.irfile import read_ir
from sdlite.manifest import WeightFile
from sdlite.onnxfile import GraphFile, read_onnx

USUAL = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}
"""What a component's graph is called, by format, the one to prefer first."""
SUFFIXES = {"onnx": ".onnx", "openvino": IR}
_LATENTS = ("batch", "channels", "height", "width")
_PICTURE = ("batch", "channels", "image_height", "image_width")
_TOKENS = ("batch", "tokens", "width")
FREE: Mapping[tuple[str, str], Mapping[int, tuple[str, ...]]] = {
    ("text_encoder", "inputs"): {2: ("batch", "tokens")},
    ("text_encoder", "outputs"): {2: ("batch", "width"), 3: _TOKENS},
    ("unet", "inputs"): {1: ("steps",), 3: _TOKENS, 4: _LATENTS},
    ("unet", "outputs"): {4: _LATENTS},
    ("vae_decoder", "inputs"): {4: _LATENTS},
    ("vae_decoder", "outputs"): {4: _PICTURE},
    ("vae_encoder", "inputs"): {4: _PICTURE},
    ("vae_encoder", "outputs"): {4: _LATENTS},
}
"""Our names of free dimensions by component, side and rank, for files that do not name them. One
timestep for all items is right for every U-Net, whether it says so or not."""


def format_at(path: Path) -> str | None:
    """Format of the U-Net's graphs in a folder; None where there are none. Raises ``OSError``."""
    for format, suffix in SUFFIXES.items():
        if any((path / "unet").glob(f"*{suffix}")):
            return format
    return None


def find_graphs(path: Path, components: Sequence[str], needed: int) -> tuple[str, dict[str, Path]]:
    """The format of a folder's graphs, and each component's file.

    Args:
        path: the folder.
        components: what to look for.
        needed: how many of them, from the first on, must be there.

    Raises:
        PackageMissing: a component has no graph.
        PackageInvalid: it has several, and none has the usual name.
    """
    missing = []
    for format in USUAL:
        found = {name: graph for name in components if (graph := _graph(path, name, format))}
        lacks = [name for name in components[:needed] if name not in found]
        if not lacks:
            return format, found
        missing.append((len(lacks), lacks, format))
    _, lacks, format = min(missing, key=lambda item: item[0])
    raise PackageMissing(f"{path} has no {', '.join(lacks)} graph (NAME/{USUAL[format]})")


def _graph(path: Path, component: str, format: str) -> Path | None:
    folder = path / component
    usual = folder / USUAL[format]
    if usual.is_file():
        return usual
    found = sorted(folder.glob(f"*{SUFFIXES[format]}"))
    if len(found) > 1:
        raise PackageInvalid(
            f"{folder} holds {', '.join(item.name for item in found)} and no {usual.name}; "
            "keep the one to use"
        )
    return found[0] if found else None


def read_graph(graph: Path) -> GraphFile:
    """What a graph says; raises ``PackageInvalid``."""
    try:
        return read_ir(graph) if graph.suffix == IR else read_onnx(graph)
    except (ValueError, OSError) as error:
        raise PackageInvalid(f"{graph} cannot be opened: {error}") from error


def artifact_of(root: Path, component: str, graph: Path, file: GraphFile) -> Artifact:
    """The artifact a graph is."""
    external = sorted(file.locations)
    return Artifact(
        component=component,
        format="openvino" if graph.suffix == IR else "onnx",
        variant="plain",
        precision=file.precision,
        graph=graph.relative_to(root).as_posix(),
        graph_size=graph.stat().st_size,
        graph_sha256="",
        inputs=_named(component, "inputs", file.inputs),
        outputs=_named(component, "outputs", file.outputs),
        weights=f"{component}/{external[0]}" if external else None,
        opset=file.opsets.get("", 0),
        domains=tuple(sorted(domain for domain in file.opsets if domain not in ("", "ai.onnx"))),
    )


def _named(component: str, side: str, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The same with names for dimensions that are free and have none."""
    ranks = FREE.get((component, side), {})
    return tuple(
        TensorSpec(
            spec.name,
            spec.dtype,
            tuple(
                name if size == "?" else size
                for size, name in zip(
                    spec.shape, ranks.get(len(spec.shape), ("?",) * len(spec.shape)), strict=True
                )
            ),
        )
        for spec in specs
    )


def weights_of(graphs: Mapping[str, Path], files: Mapping[str, GraphFile]) -> dict[str, WeightFile]:
    """Sizes of external weights; which tensor lies where stays in the graph."""
    found = {}
    for component, file in files.items():
        paths = [graphs[component].parent / location for location in sorted(file.locations)]
        absent = [item for item in paths if not item.is_file()]
        if absent:
            raise PackageMissing(f"{absent[0]}, the weights of {graphs[component]}, is missing")
        if paths:
            size = sum(item.stat().st_size for item in paths)
            name = f"{component}/{sorted(file.locations)[0]}"
            found[component] = WeightFile(FileEntry(name, size, ""), file.precision, {})
    return found
