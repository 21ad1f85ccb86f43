"""Read, check and describe packages: a folder with ``sdlite.json``; docs/package.md is the spec."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from sdlite import schema
from sdlite.engine import Artifact
from sdlite.errors import (
    PackageCorrupt,
    PackageInvalid,
    PackageMissing,
    PackageTooNew,
    UnknownName,
)

MANIFEST = "sdlite.json"
VERSION = 1
"""Package version this reader writes; it reads all versions up to it."""
MAX_MANIFEST_BYTES = 16 << 20
MAX_PATH_CHARACTERS = 200
PATH_REFUSED = re.compile(r"[\\:\x00-\x1f\ud800-\udfff]")
"""Separators of other systems, drive letters, control characters, halves of characters."""
HASH_ON_OPEN_BYTES = 64 << 20
"""Files up to this size are hashed whenever a package is opened; larger ones by ``verify``."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the package."""

    path: str
    """Relative to the package, forward slashes, inside it."""
    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a weight file."""

    dtype: str
    """``float32``, ``float16`` or ``int64``."""
    shape: tuple[int, ...]
    """Shape as stored."""
    offset: int
    """First byte in the weight file, a multiple of 4096."""
    size: int
    """Bytes."""
    layout: Literal["source", "transposed"] = "source"
    """``transposed``: a linear weight stored (in, out) where the state dict has (out, in)."""


@dataclass(frozen=True)
class WeightFile:
    """All weights of one component, named by diffusers' state-dict keys."""

    file: FileEntry
    """The file on disk."""
    precision: str
    """``fp32`` or ``fp16``."""
    tensors: Mapping[str, TensorEntry]
    """Where each tensor lies."""


@dataclass(frozen=True)
class NoiseTable:
    """The forward process the model was trained with."""

    kind: Literal["scaled_linear", "linear"]
    """How betas run from first to last."""
    beta_start: float
    """First beta."""
    beta_end: float
    """Last beta."""
    train_steps: int
    """Number of timesteps."""


@dataclass(frozen=True)
class LatentSpace:
    """The autoencoder's latents."""

    channels: int
    """Channels of a latent picture."""
    factor: int
    """Pixels per latent cell, each way."""
    scale: float
    """Latents = scale * autoencoder mean."""
    preview: tuple[tuple[float, ...], ...] = ()
    """Linear map to RGB in -1..1: three numbers a channel, then the bias; empty when unknown."""


@dataclass(frozen=True)
class Tokenizer:
    """One tokenizer: files and the numbers around them."""

    name: str
    """``tokenizer`` or ``tokenizer_2``."""
    kind: Literal["clip"]
    """How text is cut into tokens."""
    files: tuple[FileEntry, ...]
    """``vocab.json`` and ``merges.txt``, or ``tokenizer.json``."""
    length: int
    """Tokens of one chunk, begin and end included."""
    bos: int
    """Id of the begin token."""
    eos: int
    """Id of the end token."""
    pad: int
    """Id that fills the chunk."""


@dataclass(frozen=True)
class Defaults:
    """What a request that leaves things open gets."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    steps: int = 20
    """Intervals of the schedule."""
    guidance: float = 7.0
    """Guidance scale."""
    sampler: str = "DPM++ 2M"
    """A1111's name."""
    schedule: str = "Automatic"
    """A1111's label."""


@dataclass(frozen=True)
class Licence:
    """What the source says about its use."""

    id: str
    """SPDX or hub identifier; ``unknown`` when the source states none."""
    file: FileEntry | None = None
    """The licence text, when the source had one."""


@dataclass(frozen=True)
class Source:
    """What was exported."""

    kind: str
    """``diffusers``, ``single-file`` ..."""
    name: str
    """File or folder name, without its path."""
    sha256: str
    """Hash over the source's weight files."""


@dataclass(frozen=True)
class Parity:
    """Largest difference from the reference, found when the package was made."""

    component: str
    """Which component."""
    variant: str
    """Which graph variant."""
    reference: str
    """What it was compared with, and where."""
    max_abs: float
    """Largest absolute error, in units of the reference output's standard deviation."""


@dataclass(frozen=True)
class Manifest:
    """Everything ``sdlite.json`` says."""

    version: int
    """Package version it was written as."""
    reader: int
    """Least reader version that understands it."""
    name: str
    """Model name."""
    family: str
    """``sd1`` (later ``sd2``, ``sdxl`` ...)."""
    prediction: Literal["epsilon", "v_prediction"]
    """What the U-Net predicts."""
    noise: NoiseTable
    """Forward process."""
    latent: LatentSpace
    """Latents."""
    tokenizers: tuple[Tokenizer, ...]
    """In the order of the text encoders."""
    defaults: Defaults
    """For open requests."""
    licence: Licence
    """Terms of use."""
    source: Source
    """Where it came from."""
    exporter: str
    """Version of sdlite that wrote it."""
    artifacts: tuple[Artifact, ...]
    """Graphs."""
    weights: Mapping[str, WeightFile] = field(default_factory=dict)
    """Weight files by component."""
    parity: tuple[Parity, ...] = ()
    """Measured differences."""


def safe_path(root: Path, relative: str) -> Path:
    """Join ``relative`` to ``root``; raises ``PackageInvalid`` when it would leave the folder."""
    pure = PurePosixPath(relative)
    plain = 0 < len(relative) <= MAX_PATH_CHARACTERS and not PATH_REFUSED.search(relative)
    if not plain or pure.is_absolute() or ".." in pure.parts or str(pure) != relative:
        raise PackageInvalid(f"path {relative!r} is not a plain path inside the package")
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise PackageInvalid(f"path {relative!r} leads outside the package")
    return path


def hash_file(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


@dataclass(frozen=True)
class Package:
    """An opened package folder: where it is and what its manifest says."""

    root: Path
    """The folder."""
    manifest: Manifest
    """Its checked manifest."""

    @classmethod
    def open(cls, root: Path) -> Package:
        """Read and check a package.

        Every file must be there with its size; files up to 64 MiB must have their hash (the rest is
        checked by ``verify``). Raises ``PackageError``, one subclass a defect.
        """
        manifest = read_manifest(root)
        package = cls(root, manifest)
        for entry in package.files():
            package._check(entry, full=entry.size <= HASH_ON_OPEN_BYTES)
        return package

    def files(self) -> Iterator[FileEntry]:
        """Every file the manifest names, each once."""
        seen = set()
        for entry in self._all_files():
            if entry.path not in seen:
                seen.add(entry.path)
                yield entry

    def _all_files(self) -> Iterator[FileEntry]:
        manifest = self.manifest
        for artifact in manifest.artifacts:
            yield FileEntry(artifact.graph, artifact.graph_size, artifact.graph_sha256)
        for weights in manifest.weights.values():
            yield weights.file
        for tokenizer in manifest.tokenizers:
            yield from tokenizer.files
        if manifest.licence.file is not None:
            yield manifest.licence.file

    def _check(
        self, entry: FileEntry, full: bool, progress: Callable[[int], object] | None = None
    ) -> None:
        path = safe_path(self.root, entry.path)
        if not path.is_file():
            raise PackageMissing(f"{path} is missing; export the package again")
        size = path.stat().st_size
        if size != entry.size:
            raise PackageCorrupt(
                f"{path} has {size} bytes, the manifest says {entry.size}; export the package again"
            )
        if full and hash_file(path, progress) != entry.sha256:
            raise PackageCorrupt(
                f"{path} does not have the hash of the manifest; export the package again"
            )

    def verify(self, progress: Callable[[int], object] | None = None) -> None:
        """Check every file's size and hash; ``progress`` gets the bytes just read."""
        for entry in self.files():
            self._check(entry, full=True, progress=progress)

    def size(self) -> int:
        """Bytes of all files the manifest names."""
        return sum(entry.size for entry in self.files())

    def path(self, relative: str) -> Path:
        """Absolute path of a file of the package."""
        return safe_path(self.root, relative)

    def find(
        self, component: str, variant: str, precision: str | None = None, format: str = "onnx"
    ) -> tuple[Artifact, ...]:
        """Artifacts of a component and variant: one, a chain in order, or none."""
        found = [
            artifact
            for artifact in self.manifest.artifacts
            if artifact.component == component
            and artifact.variant == variant
            and artifact.format == format
            and precision in (None, artifact.precision)
        ]
        return tuple(sorted(found, key=lambda artifact: artifact.index))

    def weight_file(self, component: str) -> WeightFile:
        """Weights of a component; raises ``UnknownName``."""
        if component not in self.manifest.weights:
            raise UnknownName("component", component, self.manifest.weights)
        return self.manifest.weights[component]


def read_manifest(root: Path) -> Manifest:
    """Read and check ``sdlite.json`` alone; raises ``PackageError``."""
    path = root / MANIFEST
    if not path.is_file():
        raise PackageMissing(f"{root} is no package: it has no {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise PackageInvalid(f"{path} is larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PackageInvalid(f"{path} is not JSON: {error}") from error
    needs = data.get("reader") if isinstance(data, dict) else None
    if isinstance(needs, int) and needs > VERSION:
        raise PackageTooNew(
            f"{path} needs package reader {needs}, this sdlite reads up to {VERSION}; update sdlite"
        )
    try:
        manifest = schema.decode(Manifest, data)
    except schema.SchemaError as error:
        raise PackageInvalid(f"{path}: {error}") from error
    check_manifest(root, manifest)
    return manifest


def check_manifest(root: Path, manifest: Manifest) -> None:
    """What types cannot say: paths inside, offsets inside and apart, numbers sensible."""
    where = root / MANIFEST
    if not manifest.artifacts:
        raise PackageInvalid(f"{where}: no artifacts")
    paths = {weights.file.path for weights in manifest.weights.values()}
    for artifact in manifest.artifacts:
        safe_path(root, artifact.graph)
        if artifact.weights is not None and artifact.weights not in paths:
            raise PackageInvalid(
                f"{where}: graph {artifact.graph} refers to {artifact.weights}, "
                "which is no weight file of this package"
            )
    for component, weights in manifest.weights.items():
        safe_path(root, weights.file.path)
        _check_tensors(f"{where}: {component}", weights)
    for tokenizer in manifest.tokenizers:
        for entry in tokenizer.files:
            safe_path(root, entry.path)
    if (
        manifest.noise.train_steps < 1
        or not 0 < manifest.noise.beta_start <= manifest.noise.beta_end < 1
    ):
        raise PackageInvalid(f"{where}: noise table {manifest.noise} makes no sense")
    if manifest.latent.scale <= 0 or manifest.latent.channels < 1 or manifest.latent.factor < 1:
        raise PackageInvalid(f"{where}: latent space {manifest.latent} makes no sense")
    rows = manifest.latent.preview
    if rows and [len(row) for row in rows] != [3] * (manifest.latent.channels + 1):
        raise PackageInvalid(
            f"{where}: the preview map is not three numbers for each of "
            f"{manifest.latent.channels} channels and the bias"
        )


ITEM_BYTES = {"float32": 4, "float16": 2, "int64": 8}


def _check_tensors(where: str, weights: WeightFile) -> None:
    end = 0
    for name, tensor in sorted(weights.tensors.items(), key=lambda item: item[1].offset):
        if tensor.dtype not in ITEM_BYTES:
            raise PackageInvalid(f"{where}: tensor {name} has unknown dtype {tensor.dtype!r}")
        count = 1
        for extent in tensor.shape:
            if extent < 1:
                raise PackageInvalid(f"{where}: tensor {name} has shape {tensor.shape}")
            count *= extent
        if count * ITEM_BYTES[tensor.dtype] != tensor.size:
            raise PackageInvalid(
                f"{where}: tensor {name} of shape {tensor.shape} and dtype {tensor.dtype} "
                f"cannot have {tensor.size} bytes"
            )
        if tensor.offset < end or tensor.offset % 4096:
            raise PackageInvalid(
                f"{where}: tensor {name} at byte {tensor.offset} overlaps or is not page-aligned"
            )
        end = tensor.offset + tensor.size
    if end > weights.file.size:
        raise PackageInvalid(
            f"{where}: tensors end at byte {end}, the file has {weights.file.size}"
        )


def dump_manifest(manifest: Manifest) -> str:
    """The text of ``sdlite.json``."""
    return json.dumps(schema.encode(manifest), indent=1, ensure_ascii=False) + "\n"
