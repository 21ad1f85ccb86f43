"""Open, check and search packages: folders with a manifest ``sdlite.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sdlite.engine import Artifact, FileEntry
from sdlite.errors import PackageCorrupt, PackageMissing, UnknownName
from sdlite.manifest import Manifest, WeightFile, read_manifest, safe_path

HASH_ON_OPEN_BYTES = 64 << 20
"""Files up to this size are hashed whenever a package is opened; larger ones by ``verify``."""


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
            yield from artifact.files
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
