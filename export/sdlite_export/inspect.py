"""Say what a model is: family, components, precision, sizes, hashes, licence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sdlite.errors import SourceError, UnknownFamily
from sdlite.foreign import is_foreign, open_foreign
from sdlite.manifest import MANIFEST, Parity, WeightFile
from sdlite.package import Package
from sdlite.tensors.base import TensorInfo
from sdlite.weightfile import own_tensors
from sdlite_export.licence import file_licence
from sdlite_export.source import Checkpoint, SourceHash, Tensors, open_source
from sdlite_export.source.ldm import open_tensors

SHORT = {"float16": "fp16", "float32": "fp32", "bfloat16": "bf16", "float64": "fp64"}
"""Names people use for precisions."""


@dataclass(frozen=True)
class ComponentReport:
    """One component: its weights, and the graphs over them."""

    name: str
    """``text_encoder``, ``unet``, ``vae`` ...; ``tensors`` when no component is known."""
    tensors: int
    """Number of tensors; 0 when the weights are inside the graphs."""
    parameters: int
    """Number of weights."""
    precision: str
    """``fp16``, ``fp32``, ``bf16``, or several joined by ``+``, the commonest first."""
    size: int
    """Bytes of the weights."""
    sha256: str | None = None
    """Hash of the weight file, in a package."""
    graphs: tuple[str, ...] = ()
    """Graphs of a package as ``variant (format, precision, bytes)``."""


@dataclass(frozen=True)
class FileReport:
    """One file of a package."""

    path: str
    """Relative to the package."""
    size: int
    """Bytes."""
    sha256: str
    """Hash the manifest states; empty in an ONNX folder, which states none."""


@dataclass(frozen=True)
class Inspection:
    """What a path turned out to be; plain values only, so ``dataclasses.asdict`` is JSON."""

    path: str
    """What was looked at."""
    kind: str
    """``package``, ``onnx`` (of another tool), ``diffusers``, ``single-file`` or ``ckpt``."""
    name: str
    """Model name."""
    family: str | None
    """``sd1``, ``sd2``, ``sdxl``, ``sdxl-refiner``; None when it is none sdlite knows."""
    size: int
    """Bytes of all files that count."""
    components: tuple[ComponentReport, ...]
    """In the order they run."""
    licence: str
    """Identifier; ``unknown`` when the source states none."""
    task: str | None = None
    """What the U-Net is given beside the latents: ``text``, ``inpaint`` or ``edit``."""
    prediction: str | None = None
    """``epsilon`` or ``v_prediction``."""
    image_size: tuple[int, int] | None = None
    """Width and height the model is made for, pixels."""
    sha256: str | None = None
    """Hash of the source weights: a package states it, for a checkpoint ``verify`` computes it."""
    source: str | None = None
    """Kind and name of what a package was made from."""
    exporter: str | None = None
    """Version of sdlite that wrote a package."""
    parity: tuple[Parity, ...] = ()
    """Differences measured when a package was made."""
    files: tuple[FileReport, ...] = ()
    """Files of a package."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a single file says about itself; not to be trusted."""
    notes: tuple[str, ...] = ()
    """Decisions of the reader."""
    problem: str | None = None
    """Why a readable file cannot be exported."""
    verified: bool | None = None
    """Whether every hash was checked and right; None when nobody asked or none is stated."""


def inspect_path(
    path: Path, *, verify: bool = False, progress: Callable[[int], object] | None = None
) -> Inspection:
    """Look at a checkpoint file, a diffusers folder, a package or an ONNX folder of another tool.

    ``verify`` checks every hash of a package, and computes the hash of a checkpoint (which states
    none); of an ONNX folder, which states none either, it checks that every file is there.
    ``progress`` gets the bytes just read. Raises ``PackageError`` for a package that breaks its
    specification, ``SourceError`` for a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir() and (path / MANIFEST).is_file():
        return _package(path, Package.open(path), "package", verify, progress)
    if is_foreign(path):
        package = open_foreign(path)
        return _package(path, package, package.manifest.source.kind, verify, progress)
    try:
        checkpoint = open_source(path)
    except UnknownFamily as error:
        if path.is_dir():
            raise
        return _unknown(path, str(error), verify, progress)
    return _checkpoint(path, checkpoint, verify, progress)


def _package(
    path: Path,
    package: Package,
    kind: str,
    verify: bool,
    progress: Callable[[int], object] | None,
) -> Inspection:
    if verify:
        package.verify(progress)
    manifest = package.manifest
    ours = kind == "package"
    names = dict.fromkeys([artifact.component for artifact in manifest.artifacts])
    components = []
    for name in names:
        weights = manifest.weights.get(name)
        graphs: dict[tuple[str, str, str], list[int]] = {}
        for artifact in manifest.artifacts:
            if artifact.component == name:
                key = (artifact.variant, artifact.format, artifact.precision)
                graphs.setdefault(key, []).append(artifact.size)
        lines = tuple(
            f"{variant}{f' x{len(sizes)}' if len(sizes) > 1 else ''} "
            f"({format}, {precision}, {sum(sizes)} bytes)"
            for (variant, format, precision), sizes in graphs.items()
        )
        if weights is None:
            precision = " + ".join(dict.fromkeys(key[2] for key in graphs))
            components.append(ComponentReport(name, 0, 0, precision, 0, None, lines))
            continue
        infos = {
            key: TensorInfo(tensor.shape, tensor.dtype)
            for key, tensor in own_tensors(weights).items()
        }
        components.append(
            ComponentReport(
                name,
                len(infos),
                _parameters(infos),
                _precision(weights),
                weights.file.size,
                weights.file.sha256 or None,
                lines,
            )
        )
    return Inspection(
        path=str(path),
        kind=kind,
        name=manifest.name,
        family=manifest.family,
        size=package.size(),
        components=tuple(components),
        licence=manifest.licence.id,
        task=manifest.task,
        prediction=manifest.prediction,
        image_size=(manifest.defaults.width, manifest.defaults.height),
        sha256=manifest.source.sha256 or None,
        source=f"{manifest.source.kind}: {manifest.source.name}",
        exporter=manifest.exporter if ours else None,
        parity=manifest.parity,
        files=tuple(FileReport(item.path, item.size, item.sha256) for item in package.files()),
        verified=True if verify and ours else None,
    )


def _precision(weights: WeightFile) -> str:
    """Precision of a component, and of how many layers in 8 bits."""
    narrow = sum(layer.precision != "fp16" for layer in weights.layers.values())
    if not weights.layers:
        return weights.precision
    return f"{weights.precision} ({narrow} of {len(weights.layers)} layers)"


def _checkpoint(
    path: Path,
    checkpoint: Checkpoint,
    verify: bool,
    progress: Callable[[int], object] | None,
) -> Inspection:
    return Inspection(
        path=str(path),
        kind=checkpoint.kind,
        name=checkpoint.name,
        family=checkpoint.family,
        size=checkpoint.sha256.size,
        components=tuple(_component(name, item) for name, item in checkpoint.tensors.items()),
        licence=checkpoint.licence.id,
        task=checkpoint.task,
        prediction=checkpoint.prediction,
        image_size=(checkpoint.defaults.width, checkpoint.defaults.height),
        sha256=checkpoint.sha256(progress) if verify else None,
        metadata=checkpoint.metadata,
        notes=checkpoint.notes,
    )


def _unknown(
    path: Path, problem: str, verify: bool, progress: Callable[[int], object] | None
) -> Inspection:
    """A readable file of a family that is not supported: what can be said all the same."""
    tensors, metadata, kind = open_tensors(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror or error}") from error
    return Inspection(
        path=str(path),
        kind=kind,
        name=path.stem,
        family=None,
        size=size,
        components=(_component("tensors", tensors),),
        licence=file_licence(path, metadata).id,
        sha256=SourceHash(path.parent, (path,))(progress) if verify else None,
        metadata=metadata,
        problem=problem,
    )


def _component(name: str, tensors: Tensors) -> ComponentReport:
    infos = tensors.infos()
    counts: dict[str, int] = {}
    for info in infos.values():
        stored = info.packed or info.dtype
        counts[stored] = counts.get(stored, 0) + info.count
    common = sorted(counts, key=lambda dtype: (-counts[dtype], dtype))
    size = sum(info.size for info in infos.values())
    precision = " + ".join(SHORT.get(dtype, dtype) for dtype in common)
    return ComponentReport(name, len(infos), _parameters(infos), precision, size)


def _parameters(infos: Mapping[str, TensorInfo]) -> int:
    return sum(info.count for info in infos.values())
