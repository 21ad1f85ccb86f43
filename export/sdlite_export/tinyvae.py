"""Add a tiny autoencoder to a package: a fast decoder for previews, drafts and few steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from sdlite import memory
from sdlite.choices import WHOLE_PRECISIONS
from sdlite.destination import check_replaceable, package_folder
from sdlite.errors import RequestError, UnknownName
from sdlite.manifest import WeightFile
from sdlite.package import Package
from sdlite_export.adapters import copy_package
from sdlite_export.architectures.tiny_vae import tiny_decoder, tiny_encoder
from sdlite_export.emit.components import (
    WEIGHTS,
    Component,
    plan_component,
    reference_sizes,
    write_graphs,
)
from sdlite_export.export import GRAPH_ALLOWANCE, Progress, write_manifest
from sdlite_export.ops import TinyOps
from sdlite_export.source.tiny import TinySource, open_tiny
from sdlite_export.weights import check_weights, write_weights

VARIANTS = ("plain", "fused")


@dataclass(frozen=True)
class TinyReport:
    """What was added and what it cost."""

    path: Path
    """The package."""
    name: str
    """What it was made from."""
    parts: tuple[str, ...]
    """Components that were added: ``tiny_decoder``, ``tiny_encoder``."""
    precision: str
    """Precision of the stored weights."""
    size: int
    """Bytes of their files."""
    seconds: float
    """Wall-clock time."""
    peak_bytes: int | None
    """Largest resident memory of this process so far; None where the system does not say."""
    licence: str
    """Identifier of its licence; ``unknown`` when the source states none."""


def add_tiny_vae(
    source: Path,
    package: Path,
    dest: Path | None = None,
    *,
    precision: str = "fp16",
    force: bool = False,
    progress: Progress | None = None,
) -> TinyReport:
    """Add TAESD, or half of it, to a package or to a copy; it is complete at every moment.

    Args:
        source: a file or folder, see ``open_tiny``.
        package: the package it is for.
        dest: folder of a new package that has it too; None changes ``package`` itself.
        precision: precision of its stored weights, ``fp16`` or ``fp32``.
        force: whether one that is there, or a package at ``dest``, may be replaced.
        progress: told label, bytes done, bytes in all; may raise to stop.

    Raises:
        UnknownName: there is no such precision.
        RequestError: it is for other latents, or the package has one.
        SourceError: it cannot be read, or is no tiny autoencoder.
        PackageError: the package cannot be read.
        OutputError: the folder cannot be written.
    """
    started = time.monotonic()
    if precision not in WHOLE_PRECISIONS:
        raise UnknownName("precision", precision, WHOLE_PRECISIONS)
    tiny = open_tiny(Path(source))
    opened = Package.open(Path(package))
    manifest = opened.manifest
    names = tuple(f"tiny_{part}" for part in tiny.configs)
    _check_fits(tiny, opened, names, force)
    if dest is not None:
        check_replaceable(Path(dest), force)
    plans = {name: plan_component(_component(tiny, name), precision) for name in names}
    for name, plan in plans.items():
        check_weights(plan.needs, tiny.tensors[_part(name)].infos(), f"{tiny.name}, {_part(name)}")
    target = Path(package) if dest is None else Path(dest)
    total = sum(plan.size for plan in plans.values())
    needed = total + GRAPH_ALLOWANCE + (0 if dest is None else opened.size())
    artifacts = [a for a in manifest.artifacts if a.component not in names]
    weights = {name: file for name, file in manifest.weights.items() if name not in names}
    defaults, latent, done, size = manifest.defaults, manifest.latent, 0, 0
    sizes = reference_sizes(defaults.width, defaults.height, latent.factor, 1, 1)
    with package_folder(target, needed, force=dest is None or force) as folder:
        copy_package(opened, folder, names, link=dest is None)
        for name, plan in plans.items():
            (folder / name).mkdir()

            def report(count: int, name: str = name) -> None:
                nonlocal done
                done += count
                if progress is not None:
                    progress(name, done, total)

            made = write_graphs(plan, folder, sizes)
            entry = write_weights(
                folder / name / WEIGHTS,
                plan.needs,
                plan.entries,
                tiny.tensors[_part(name)],
                f"{name}/{WEIGHTS}",
                report,
            )
            artifacts += made
            weights[name] = WeightFile(entry, precision, dict(plan.entries))
            size += entry.size + sum(artifact.graph_size for artifact in made)
        write_manifest(folder, replace(manifest, artifacts=tuple(artifacts), weights=weights))
    return TinyReport(
        path=target,
        name=tiny.name,
        parts=names,
        precision=precision,
        size=size,
        seconds=time.monotonic() - started,
        peak_bytes=memory.high_water(),
        licence=tiny.licence.id,
    )


def _part(name: str) -> str:
    return name.removeprefix("tiny_")


def _component(tiny: TinySource, name: str) -> Component:
    part = _part(name)
    config, build = tiny.configs[part], tiny_decoder if part == "decoder" else tiny_encoder
    # Every emitter of these variants has what tiny autoencoders need besides.
    return Component(name, part, lambda ops, _: build(cast(TinyOps, ops), config), VARIANTS)


def _check_fits(tiny: TinySource, package: Package, names: tuple[str, ...], force: bool) -> None:
    latent = package.manifest.latent
    for part, config in tiny.configs.items():
        factor = 2 ** (len(config.blocks) - 1)
        if (config.latent_channels, factor) != (latent.channels, latent.factor):
            raise RequestError(
                f"{tiny.name}: its {part} is for latents of {config.latent_channels} channels and "
                f"{factor} pixels a cell, {package.manifest.name} has {latent.channels} and "
                f"{latent.factor}; take the tiny autoencoder made for this family"
            )
    there = [name for name in names if name in package.manifest.weights]
    if there and not force:
        raise RequestError(
            f"{package.manifest.name} has a {' and a '.join(there)} already; --force replaces it"
        )
