"""A package with LoRAs merged into its weights for good."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from sdlite import __version__
from sdlite.adapters import Adapters
from sdlite.destination import package_folder
from sdlite.engine import FileEntry
from sdlite.errors import RequestError
from sdlite.loras import LoraUse
from sdlite.manifest import MANIFEST, Source, WeightFile, dump_manifest
from sdlite.package import Package
from sdlite.text.tags import tag_of
from sdlite.types import Array, Request

PIECE = 4 << 20


def bake(
    package: Package,
    loras: Sequence[LoraUse],
    dest: Path,
    *,
    name: str | None = None,
    force: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Package:
    """Write a copy of a package whose weights are merged with LoRAs.

    It draws what the package draws with those LoRAs. Graphs and everything else are copied; hashes
    are new, and figures measured on the old weights are left out.

    Args:
        package: the package.
        loras: what to merge.
        dest: the new folder; there completely or not at all.
        name: the model's name in it; None is that of ``dest``.
        force: whether a package that is there may be replaced.
        progress: gets the bytes just written.

    Returns:
        The new package.

    Raises:
        RequestError: no LoRA is given, or none changes anything.
        UnknownName, SourceError: a LoRA is not found or cannot be read.
        OutputError: the folder cannot be written.
    """
    if not loras:
        raise RequestError("nothing to bake; give at least one LoRA")
    applied = Adapters(package, ()).of(Request("", loras=tuple(loras)))
    if not applied.weights:
        raise RequestError(f"{', '.join(map(tag_of, loras))} changes no weight of the package")
    done = progress or (lambda count: None)
    manifest = package.manifest
    with package_folder(dest, package.size(), force=force) as folder:
        weights = dict(manifest.weights)
        for component, replaced in applied.weights.items():
            old = weights[component]
            entry = _write(package, old, replaced.tensors(), folder / old.file.path, done)
            weights[component] = replace(old, file=entry)
        written = {weights[component].file.path for component in applied.weights}
        for entry in package.files():
            if entry.path not in written:
                target = folder / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package.path(entry.path), target)
                done(entry.size)
        merged = " ".join(map(tag_of, loras))
        hashes = " ".join(applied.hashes["Lora hashes"].values())
        source = Source(
            "baked",
            f"{manifest.source.name} with {merged}",
            hashlib.sha256(f"{manifest.source.sha256} {merged} {hashes}".encode()).hexdigest(),
        )
        new = replace(
            manifest,
            name=name or dest.name,
            weights=weights,
            source=source,
            exporter=__version__,
            parity=(),
        )
        (folder / MANIFEST).write_text(dump_manifest(new), encoding="utf-8")
    return Package.open(dest)


def _write(
    package: Package,
    weights: WeightFile,
    tensors: Mapping[str, Array],
    target: Path,
    done: Callable[[int], object],
) -> FileEntry:
    """Copy a weight file with other numbers in some places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    places = sorted((weights.tensors[name].offset, name) for name in tensors)
    position = 0
    with package.path(weights.file.path).open("rb") as old, target.open("wb") as new:
        for offset, name in places:
            position += _copy(old, new, offset - position, digest, done)
            data = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data
            digest.update(data)
            new.write(data)
            done(len(data))
            position += len(data)
            old.seek(position)
        _copy(old, new, weights.file.size - position, digest, done)
    return FileEntry(weights.file.path, weights.file.size, digest.hexdigest())


def _copy(
    old: IO[bytes],
    new: IO[bytes],
    count: int,
    digest: hashlib._Hash,
    done: Callable[[int], object],
) -> int:
    left = count
    while left:
        piece = old.read(min(left, PIECE))
        if not piece:
            raise OSError("the package's weight file is shorter than its manifest says")
        digest.update(piece)
        new.write(piece)
        done(len(piece))
        left -= len(piece)
    return count
